//! The configuration of a golden case, `golden/<case>/config.yaml`.

use std::path::Path;

use serde_yaml::Value;

use super::build::unknown;
use super::keys;
use super::raw::{Entry, Raw};
use super::read::{distinct, items, text, whole};
use super::{AttributeKind, ModelConfig, RunConfig, python};
use crate::{Error, Result};

/// Sizes that a run takes from its data and a golden case states, and how the case was trained.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseShape {
    /// Items, the padding item included.
    pub n_items: i64,
    /// L.
    pub max_item_list_length: i64,
    /// In the order of the model.
    pub attributes: Vec<CaseAttribute>,
    /// Adam's.
    pub learning_rate: f64,
    /// Adam steps that the case holds.
    pub train_steps: usize,
}

/// One attribute of a golden case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseAttribute {
    /// The name of the attribute.
    pub name: String,
    /// One token an item, or a list.
    pub kind: AttributeKind,
    /// Tokens, padding included.
    pub vocab: i64,
}

/// Keys that only a case has.
const OF_CASES: [&str; 3] = ["n_items", "attributes", "train_steps"];
/// Keys of runs that a case must have where its model reads them: no default may stand in for what the golden values were computed with.
const OF_RUNS: [&str; 17] = [
    "MAX_ITEM_LIST_LENGTH",
    "n_layers",
    "n_heads",
    "hidden_size",
    "inner_size",
    "attribute_hidden_size",
    "hidden_dropout_prob",
    "attn_dropout_prob",
    "hidden_act",
    "layer_norm_eps",
    "selected_features",
    "pooling_mode",
    "loss_type",
    "fusion_type",
    "attribute_predictor",
    "lamdas",
    "learning_rate",
];
/// Keys of runs that a case may have.
const OPTIONAL: [&str; 3] = ["model", "learner", "initializer_range"];

impl ModelConfig {
    /// Reads and checks the configuration of a golden case.
    ///
    /// # Errors
    /// No such file, and as [`ModelConfig::parse_case`].
    pub fn from_case(path: &Path) -> Result<(Self, CaseShape)> {
        let mut raw = Raw::default();
        raw.add_file(path)?;
        Self::of_case(raw, path)
    }

    /// Reads text as [`ModelConfig::from_case`] reads a file; `path` is for messages.
    ///
    /// # Errors
    /// A key that is missing, or one that cases do not have; a value that it cannot have.
    pub fn parse_case(text: &str, path: &Path) -> Result<(Self, CaseShape)> {
        let mut raw = Raw::default();
        raw.add_text(text, path)?;
        Self::of_case(raw, path)
    }

    fn of_case(mut raw: Raw, path: &Path) -> Result<(Self, CaseShape)> {
        let known = || [&OF_CASES[..], &OF_RUNS, &OPTIONAL].into_iter().flatten().copied();
        if let Some(entry) = raw.iter().find(|entry| !known().any(|name| name == entry.key)) {
            return Err(unknown(entry, known()));
        }
        let model = RunConfig::of_named_model(&raw)?.model.model;
        let is_read = |key: &&&str| keys::find(key).is_none_or(|key| key.is_of(model));
        if let Some(key) = OF_CASES.iter().chain(&OF_RUNS).filter(is_read).find(|key| raw.get(key).is_none()) {
            return Err(Error::new(format!("expected the key `{key}`, found none"))
                .at(path)
                .hint("add it to the case"));
        }
        let n_items = take(&mut raw, "n_items", "a whole number of at least 2", |v| whole(v, 2, i64::MAX))?;
        let train_steps = take(&mut raw, "train_steps", "a whole number from 0 to 1000", |v| whole(v, 0, 1000))?;
        let names = raw.get("selected_features").and_then(|entry| distinct(&entry.value, text)).unwrap_or_default();
        let takes = "for each of `selected_features`, in order, its `name`, its `type` (`token` or `token_seq`) and its \
                     `vocab` of at least 1";
        let attributes = take(&mut raw, "attributes", takes, |v| {
            items(v, attribute).filter(|list| list.iter().map(|a| &a.name).eq(&names))
        })?;
        let config = RunConfig::build(&raw, false)?;
        if config.model.hidden_dropout_prob != 0.0 || config.model.attn_dropout_prob != 0.0 {
            return Err(Error::new(
                "expected a dropout of 0 in `hidden_dropout_prob` and `attn_dropout_prob`, found another",
            )
            .at(path)
            .hint("compute the case without dropout: its masks would be others here"));
        }
        let shape = CaseShape {
            n_items,
            max_item_list_length: config.data.max_item_list_length as i64,
            attributes,
            learning_rate: config.train.learning_rate,
            train_steps,
        };
        Ok((config.model, shape))
    }
}

fn take<T>(raw: &mut Raw, key: &str, takes: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
    let entry = raw.take(key);
    let value = entry.as_ref().map_or(&Value::Null, |entry| &entry.value);
    read(value).ok_or_else(|| {
        let error = Error::new(format!("`{key}`: expected {takes}, found {}", python::shown(value)));
        entry.iter().fold(error.hint("correct the case"), |error, Entry { origin, .. }| origin.name(error))
    })
}

fn attribute(value: &Value) -> Option<CaseAttribute> {
    let pairs = value.as_mapping().filter(|pairs| pairs.len() == 3)?;
    let kind = match pairs.get("type")?.as_str()? {
        "token" => AttributeKind::Token,
        "token_seq" => AttributeKind::TokenSeq,
        _ => return None,
    };
    Some(CaseAttribute {
        name: text(pairs.get("name")?)?,
        kind,
        vocab: whole(pairs.get("vocab")?, 1, i64::from(u32::MAX))?,
    })
}
