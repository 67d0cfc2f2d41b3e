//! From keys as written to a configuration that holds.

use std::path::{Path, PathBuf};

use super::keys::{self, Key, Kind};
use super::raw::{Entry, Raw, Section};
use super::{RunConfig, python};
use crate::{Error, Result};

impl RunConfig {
    /// Reads YAML files, later ones winning key by key, then `--key=value` overrides, which win over all files.
    ///
    /// ```
    /// use dif_sr::config::RunConfig;
    /// let over = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    /// let config = RunConfig::load(&[], &[over("dataset", "toy"), over("learning_rate", "1e-4")])?;
    /// assert_eq!(config.train.learning_rate, 1e-4);
    /// # Ok::<(), dif_sr::Error>(())
    /// ```
    ///
    /// # Errors
    /// A file that cannot be read, and a key or a value that RecBole or this program does not know.
    pub fn load(files: &[PathBuf], overrides: &[(String, String)]) -> Result<Self> {
        Self::layered(Raw::default(), files, &[], overrides)
    }

    /// The same with the keys of `sections` between the files and the overrides, later ones winning.
    ///
    /// # Errors
    /// As [`RunConfig::load`].
    pub fn load_with(files: &[PathBuf], sections: &[Section], overrides: &[(String, String)]) -> Result<Self> {
        Self::layered(Raw::default(), files, sections, overrides)
    }

    /// This configuration, changed by files and overrides as [`RunConfig::load`] reads them.
    ///
    /// # Errors
    /// As [`RunConfig::load`].
    pub fn changed(&self, files: &[PathBuf], overrides: &[(String, String)]) -> Result<Self> {
        let mut raw = Raw::default();
        raw.add_text(&self.to_yaml(), Path::new("the checkpoint's configuration"))?;
        Self::layered(raw, files, &[], overrides)
    }

    fn layered(mut raw: Raw, files: &[PathBuf], sections: &[Section], overrides: &[(String, String)]) -> Result<Self> {
        for file in files {
            refuse_ini(file)?;
            raw.add_file(file)?;
        }
        sections.iter().try_for_each(|section| raw.add_section(section))?;
        for (key, value) in overrides {
            raw.add_override(key, value);
        }
        Self::build(&raw, true)
    }

    /// Reads YAML text, such as [`RunConfig::to_yaml`] writes, that was found in `origin`.
    ///
    /// # Errors
    /// As [`RunConfig::load`].
    pub fn from_yaml(text: &str, origin: &Path) -> Result<Self> {
        let mut raw = Raw::default();
        raw.add_text(text, origin)?;
        Self::build(&raw, true)
    }

    /// Sets every key and checks what keys say together; a golden case names no data set.
    pub(super) fn build(raw: &Raw, with_dataset: bool) -> Result<Self> {
        let mut config = Self::of_named_model(raw)?;
        let model = config.model.model;
        for entry in raw.iter() {
            let key = keys::find(&entry.key).ok_or_else(|| unknown(entry, keys::key_names()))?;
            if !key.is_of(model) {
                accept(entry, &["None"], None, &format!("{} does not read the key", model.name()))?;
            } else {
                set(&mut config, key, entry)?;
            }
        }
        config.settle_model();
        for entry in raw.iter() {
            if let Some(Key { kind: Kind::Accepted { values, held, reason }, .. }) = keys::find(&entry.key) {
                let refused = held.map(|held| held(&config, &entry.value));
                accept(entry, values(&config), refused, reason)?;
            }
        }
        if with_dataset {
            config.settle_data(raw)?;
        }
        config.check_model(raw)?;
        config.check_valid_metric(raw)?;
        Ok(config)
    }

    /// The defaults, with the model that is named: which keys are read depends on it.
    pub(super) fn of_named_model(raw: &Raw) -> Result<Self> {
        let mut config = Self::defaults();
        if let (Some(key), Some(entry)) = (keys::find("model"), raw.get("model")) {
            set(&mut config, key, entry)?;
        }
        Ok(config)
    }
}

/// Sets a key that is honoured.
fn set(config: &mut RunConfig, key: &Key, entry: &Entry) -> Result<()> {
    match key.kind {
        Kind::Honoured { set, takes, .. } => set(config, &entry.value).ok_or_else(|| wrong_value(entry, takes)),
        Kind::Accepted { .. } | Kind::Unused { .. } => Ok(()),
    }
}

/// Refuses an `.ini` file, the form of the authors' first command, and names the YAML file to use instead.
///
/// # Errors
/// A file of that form.
pub fn refuse_ini(path: &Path) -> Result<()> {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("ini") => Err(Error::new(
            "expected a RecBole YAML file, found an INI file, which only the authors' first script read",
        )
        .at(path)
        .hint("use `--config_files configs/amazon_beauty.yaml`, which holds the same configuration")),
        _ => Ok(()),
    }
}

/// Keys of RecBole 0.x, and what says the same since 1.0.
const FORMER: [(&[&str], &str); 5] = [
    (&["min_user_inter_num", "max_user_inter_num"], "`user_inter_num_interval: '[5,inf)'`"),
    (&["min_item_inter_num", "max_item_inter_num"], "`item_inter_num_interval: '[5,inf)'`"),
    (&["lowest_val", "highest_val", "equal_val", "not_equal_val"], "`val_interval: {'rating': '[3,inf)'}`"),
    (&["eval_setting", "group_by_user", "split_ratio", "leave_one_num", "real_time_process"], "`eval_args`"),
    (&["training_neg_sample_num"], "`train_neg_sample_args`"),
];

/// The error for a key that is not among `names`.
pub(super) fn unknown<'a>(entry: &Entry, names: impl Iterator<Item = &'a str>) -> Error {
    let error = Error::new(format!("unknown key `{}`", entry.key));
    let former = FORMER.iter().find(|(former, _)| former.contains(&&*entry.key));
    entry.origin.name(error.hint(match (former, keys::nearest(&entry.key, names)) {
        (Some((_, since)), _) => format!("it is RecBole 0.x's; since 1.0 it is {since}"),
        (None, Some(name)) => format!("did you mean `{name}`?"),
        (None, None) => "remove it, or see docs/configuration.md for the keys that there are".to_owned(),
    }))
}

fn wrong_value(entry: &Entry, takes: &str) -> Error {
    let key = &entry.key;
    let defaults = RunConfig::defaults();
    let error = Error::new(format!("`{key}`: expected {takes}, found {}", python::shown(&entry.value)));
    let quoted = python::repr(&entry.value);
    entry.origin.name(match keys::find(key).map(|key| &key.kind) {
        // A name that YAML and Python read as a number or as a truth value.
        Some(Kind::Honoured { set, .. })
            if (entry.value.is_number() || entry.value.is_bool())
                && set(&mut RunConfig::defaults(), &quoted.as_str().into()).is_some() =>
        {
            error.hint(format!("quote the text: `{key}: '{quoted}'` in a file, `--{key}=\"'{quoted}'\"` in a shell"))
        }
        Some(Kind::Honoured { get, .. }) if key != "dataset" => {
            error.hint(format!("the default is `{}`", python::shown(&get(&defaults))))
        }
        _ => error.hint("correct the value"),
    })
}

/// `held` is what the key itself says of a value that is not among `values`.
fn accept(entry: &Entry, values: &[&str], held: Option<Result<(), String>>, reason: &str) -> Result<()> {
    let Entry { key, value, origin } = entry;
    // A text such as `None` or `0.2,0.2` may stand for itself, whatever it would be in Python.
    let is = |accepted: &&str| value.as_str() == Some(accepted) || python::literal(accepted).as_ref() == Some(value);
    let found = match held {
        Some(Ok(())) => return Ok(()),
        _ if values.iter().any(is) => return Ok(()),
        Some(Err(part)) => part,
        None => python::shown(value),
    };
    let supported: Vec<_> = values.iter().map(|v| format!("`{v}`")).collect();
    let problem = format!("`{key}`: {found} is not supported here, only {} ({reason})", supported.join(" or "));
    Err(origin.name(Error::new(problem).hint("remove the key, or set it so")))
}
