//! Keys as written, with the place where each was written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use super::python;
use crate::{Error, Result, yaml};

/// Where a value was written.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    File { path: PathBuf, line: Option<u64> },
    Section { path: PathBuf, name: String },
    CommandLine,
}

impl Origin {
    /// Names this place in `error`.
    pub(super) fn name(&self, error: Error) -> Error {
        match self {
            Self::File { path, line } => line.iter().fold(error.at(path), |error, line| error.line(*line)),
            Self::Section { path, name } => error.at(path).part(format!("`{name}`")),
            Self::CommandLine => error.at("command line"),
        }
    }
}

/// Keys that stand in a part of a file that holds more than a configuration, as a sweep's does.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// The file.
    pub path: PathBuf,
    /// What the part is called there, for messages: `configurations.small.keys`.
    pub name: String,
    /// The keys with their values.
    pub keys: Mapping,
}

/// One key as written.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Keys in the order of their first mention, each with its last value.
#[derive(Debug, Default)]
pub(super) struct Raw(Vec<Entry>);

impl Raw {
    /// Reads a YAML file; its keys replace those already here, whole values at a time, as in RecBole.
    pub(super) fn add_file(&mut self, path: &Path) -> Result<()> {
        let bytes = std::fs::read(path).map_err(|e| {
            Error::io(path, "read the configuration", e)
                .hint("check the path: a YAML file of RecBole's keys is expected there")
        })?;
        let text = std::str::from_utf8(&bytes).map_err(|e| {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() as u64;
            Error::new("expected UTF-8 text, found other bytes").at(path).line(line).hint("save the file as UTF-8")
        })?;
        self.add_text(text, path)
    }

    /// The same for YAML text that came from `path`.
    pub(super) fn add_text(&mut self, text: &str, path: &Path) -> Result<()> {
        let lines = lines_of_keys(text);
        let line = |key: Option<&str>| key.and_then(|key| lines.get(key).copied());
        self.add_mapping(mapping(text, path)?, |key| Origin::File { path: path.to_path_buf(), line: line(key) })
    }

    /// The same for the keys of a section.
    pub(super) fn add_section(&mut self, section: &Section) -> Result<()> {
        let Section { path, name, keys } = section;
        self.add_mapping(keys.clone(), |_| Origin::Section { path: path.clone(), name: name.clone() })
    }

    fn add_mapping(&mut self, mapping: Mapping, origin: impl Fn(Option<&str>) -> Origin) -> Result<()> {
        for (key, value) in mapping {
            let Value::String(key) = key else {
                let found = python::shown(&key);
                return Err(origin(None)
                    .name(Error::new(format!("expected a key, which is text, found {found}")).hint("quote it")));
            };
            let origin = origin(Some(&key));
            if is_tagged(&value) {
                let problem = format!("`{key}`: expected a value without a tag, found {}", python::shown(&value));
                return Err(origin.name(Error::new(problem).hint("write the value alone")));
            }
            self.set(Entry { key, value, origin });
        }
        Ok(())
    }

    /// Adds `--key=value`.
    pub(super) fn add_override(&mut self, key: &str, text: &str) {
        self.set(Entry { key: key.to_owned(), value: python::value_of(text), origin: Origin::CommandLine });
    }

    fn set(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|e| e.key == entry.key) {
            Some(old) => *old = entry,
            None => self.0.push(entry),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|e| e.key == key)
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Entry> {
        self.0.iter().position(|e| e.key == key).map(|i| self.0.remove(i))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }
}

fn mapping(text: &str, path: &Path) -> Result<Mapping> {
    let mut value: Value = yaml::from_str(text).map_err(|e| not_yaml(&e, path))?;
    value.apply_merge().map_err(|e| not_yaml(&e, path))?;
    match value {
        Value::Mapping(mapping) => Ok(mapping),
        Value::Null => Ok(Mapping::new()), // nothing but comments
        other => Err(Error::new(format!("expected lines of the form `key: value`, found {}", python::shown(&other)))
            .at(path)
            .hint("see docs/configuration.md")),
    }
}

fn not_yaml(error: &serde_yaml::Error, path: &Path) -> Error {
    let text = error.to_string();
    if let Some(("", _)) = text.split_once("duplicate entry") {
        // serde_yaml gives the line on which the mapping starts, which would mislead.
        let problem = text.split(" at line ").next().unwrap_or_default();
        return Error::new(format!("expected each key once, found a {problem}")).at(path).hint("remove one of the two");
    }
    let hint = if text.contains("']'") {
        "close the list; an interval needs quotes, as in `user_inter_num_interval: \"[5,inf)\"`"
    } else {
        "correct the YAML"
    };
    Error::new(format!("expected YAML, but {text}")).at(path).hint(hint)
}

/// Whether a value or a part of it carries a YAML tag, which no key takes.
fn is_tagged(value: &Value) -> bool {
    match value {
        Value::Tagged(_) => true,
        Value::Sequence(items) => items.iter().any(is_tagged),
        Value::Mapping(pairs) => pairs.iter().any(|(k, v)| is_tagged(k) || is_tagged(v)),
        _ => false,
    }
}

/// The line of each key that starts a line; serde_yaml keeps no places.
fn lines_of_keys(text: &str) -> HashMap<&str, u64> {
    let key_of = |line: &'_ str| line.find(':').filter(|_| !line.starts_with([' ', '#']));
    text.trim_start_matches('\u{feff}')
        .lines()
        .zip(1..)
        .filter_map(|(line, number)| Some((line[..key_of(line)?].trim().trim_matches(['"', '\'']), number)))
        .collect()
}
