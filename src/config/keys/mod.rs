//! The one table of keys: what each is, which values it takes, how it is read and printed.

/// A row of the table: the section and the name of a key, and what becomes of its value.
///
/// * `: part.field = reader, "what it takes", "its meaning"` for a field of the configuration, read by `reader(value)`, or by
///   `reader(value, x)` where `reader(x)` is written, and printed by `value` or what stands behind `shown`;
/// * `: (set, get), …` for what is no such field;
/// * `is "None" or "False", "the reason"` for a key of which these values change nothing, the first being the default;
/// * `, "the reason", |config| values` where other keys say which values those are;
/// * `is any, "the reason"` where no value changes anything.
macro_rules! key {
    ($section:ident $name:literal: $part:ident.$field:ident = $read:ident $(($($arg:expr),+))?, $($rest:tt)+) => {
        key!($section $name: $part.$field = $read $(($($arg),+))? shown value, $($rest)+)
    };
    ($section:ident $name:literal: $part:ident.$field:ident = $read:ident $(($($arg:expr),+))? shown $show:ident,
     $($rest:tt)+) => {
        key!($section $name: (
            |c, v| put(&mut c.$part.$field, $read(v $($(, $arg)+)?)),
            |c| $show(&c.$part.$field)
        ), $($rest)+)
    };
    ($section:ident $name:literal: ($set:expr, $get:expr), $takes:literal, $meaning:literal) => {
        Key::new($section, $name, Kind::Honoured { takes: $takes, meaning: $meaning, set: $set, get: $get, own: false })
    };
    ($section:ident $name:literal is any, $reason:expr) => {
        Key::new($section, $name, Kind::Unused { reason: $reason })
    };
    ($section:ident $name:literal is $($value:literal)or+, $reason:expr) => {
        key!($section $name, $reason, |_| &[$($value),+])
    };
    ($section:ident $name:literal, $reason:expr, $values:expr) => {
        Key::new($section, $name, Kind::Accepted { values: $values, held: None, reason: $reason })
    };
}

mod data;
mod model;
mod parts;
mod run;

use std::fmt::Write;

use serde_yaml::Value;

use super::{Architecture, RunConfig, python};

/// The block of the log in which a key is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    General,
    Training,
    Evaluation,
    Dataset,
    Other,
    /// Not in RecBole 1.0.1's log.
    Unprinted,
}

/// One key.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) section: Section,
    pub(super) kind: Kind,
    /// The models that read it.
    models: &'static [Architecture],
}

/// The part of a value that would change something is an error, as Python writes it.
type Hold = fn(&RunConfig, &Value) -> Result<(), String>;

impl Key {
    const fn new(section: Section, name: &'static str, kind: Kind) -> Self {
        Self { name, section, kind, models: &Architecture::ALL }
    }

    /// The same key, read by these models alone.
    const fn of(mut self, models: &'static [Architecture]) -> Self {
        self.models = models;
        self
    }

    /// The same key, of this project and not of RecBole.
    const fn own(mut self) -> Self {
        if let Kind::Honoured { own, .. } = &mut self.kind {
            *own = true;
        }
        self
    }

    /// The same key, which takes what means the same, too.
    const fn held(mut self, hold: Hold) -> Self {
        if let Kind::Accepted { held, .. } = &mut self.kind {
            *held = Some(hold);
        }
        self
    }

    /// Whether a model reads it.
    pub(super) fn is_of(&self, model: Architecture) -> bool {
        self.models.contains(&model)
    }
}

/// What becomes of a key's value.
pub(super) enum Kind {
    /// It is part of the configuration.
    Honoured {
        /// What values there are, to follow "expected".
        takes: &'static str,
        meaning: &'static str,
        /// Sets the value, or returns `None` where it is not what the key takes.
        set: fn(&mut RunConfig, &Value) -> Option<()>,
        get: fn(&RunConfig) -> Value,
        /// Of this project, not of RecBole.
        own: bool,
    },
    /// These values, the first of them the default, change nothing; others would, and are refused.
    Accepted {
        values: fn(&RunConfig) -> &'static [&'static str],
        /// Holds any other value to what it means.
        held: Option<Hold>,
        reason: &'static str,
    },
    /// No value changes anything.
    Unused { reason: &'static str },
}

/// Every key, in the order of the notebook's log.
pub(super) fn table() -> impl Iterator<Item = &'static Key> {
    run::KEYS.iter().chain(data::KEYS).chain(model::KEYS)
}

pub(super) fn find(name: &str) -> Option<&'static Key> {
    table().find(|key| key.name == name)
}

/// The name among `names` that was probably meant by `written`.
pub(super) fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    names
        .map(|name| (strsim::damerau_levenshtein(&written, &name.to_lowercase()), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

/// The names of all keys that are read.
pub fn key_names() -> impl Iterator<Item = &'static str> {
    table().map(|key| key.name)
}

/// The tables of `docs/configuration.md`.
pub fn keys_markdown() -> String {
    let defaults = RunConfig::defaults();
    let (mut recbole, mut ours, mut accepted) = (String::new(), String::new(), String::new());
    for Key { name, kind, models, .. } in table() {
        let of: Vec<_> = models.iter().map(|model| format!("`{}`", model.name())).collect();
        let of =
            if of.len() < Architecture::ALL.len() { format!("; {} alone", of.join(" and ")) } else { String::new() };
        match kind {
            Kind::Honoured { takes, meaning, get, own, .. } => {
                let default = match get(&defaults) {
                    _ if *name == "dataset" => "required".to_owned(),
                    value => format!("`{}`", python::repr(&value)),
                };
                let rows = if *own { &mut ours } else { &mut recbole };
                writeln!(rows, "| `{name}` | {default} | {takes} | {meaning}{of} |").expect("writing to a string");
            }
            Kind::Accepted { values, held, reason } => {
                let values: Vec<_> = values(&defaults).iter().map(|v| format!("`{v}`")).collect();
                let same = if held.is_some() { ", and what means the same" } else { "" };
                writeln!(accepted, "| `{name}` | {}{same} | {reason} |", values.join(", "))
                    .expect("writing to a string");
            }
            Kind::Unused { reason } => {
                writeln!(accepted, "| `{name}` | any | {reason} |").expect("writing to a string");
            }
        }
    }
    let head = "| key | default | takes | meaning |\n| --- | --- | --- | --- |\n";
    format!(
        "## RecBole's keys that are honoured\n\n{head}{recbole}\n## This project's own keys\n\n{head}{ours}\n\
         ## Keys that are accepted without effect\n\n\
         | key | values | why it changes nothing |\n| --- | --- | --- |\n{accepted}"
    )
}
