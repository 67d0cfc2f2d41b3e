//! Dictionaries in which RecBole says in several ways what is done here in one: each part is held to what it means.

use serde_yaml::{Mapping, Value};

use crate::config::{Loss, RunConfig, python};

/// What of a value is not done here, as Python writes it.
type Held = Result<(), String>;

/// One part of a dictionary, as Python writes it.
fn part(key: &Value, value: &Value) -> String {
    format!("`{}: {}`", python::repr(key), python::repr(value))
}

/// RecBole's several words for nothing.
fn is_none(value: &Value) -> bool {
    value.is_null() || matches!(value.as_str(), Some("None" | "none"))
}

/// Holds each part of a dictionary to `means`, the first that fails being named.
fn each(pairs: &Mapping, means: impl Fn(&str, &Value) -> bool) -> Held {
    let differs = pairs.iter().find(|(key, value)| !key.as_str().is_some_and(|key| means(key, value)));
    differs.map_or(Ok(()), |(key, value)| Err(part(key, value)))
}

/// `eval_args` of RecBole 1.0 to 1.2: leave-one-out in order of time, ranked over all items. Where the splits are files
/// nothing is split.
pub(super) fn eval_args(config: &RunConfig, value: &Value) -> Held {
    let pairs = value.as_mapping().ok_or_else(|| format!("`{}`", python::repr(value)))?;
    let is_split_here = config.data.benchmark_filename.is_none();
    if let Some(Value::Mapping(phases)) = pairs.get("mode") {
        let full = |phase: &str, mode: &Value| matches!(phase, "valid" | "test") && mode.as_str() == Some("full");
        each(phases, full).map_err(|part| format!("{part} of its `mode`"))?;
    }
    each(pairs, |key, value| match key {
        "split" => {
            let left_out = value.as_mapping().filter(|split| split.len() == 1).and_then(|split| split.get("LS"));
            !is_split_here || left_out.and_then(Value::as_str) == Some("valid_and_test")
        }
        "order" => value.as_str() == Some("TO"),
        // Leave-one-out groups by user whatever this says.
        "group_by" => is_none(value) || value.as_str() == Some("user"),
        "mode" => value.is_mapping() || value.as_str() == Some("full"),
        _ => false,
    })?;
    let lacks = |key: &str, means: &str| match pairs.contains_key(key) {
        false => Err(format!("a value without `{key}`, which RecBole takes for {means},")),
        true => Ok(()),
    };
    lacks("order", "`'order': 'RO'`")?;
    if is_split_here { lacks("split", "`'split': {'RS': [0.8, 0.1, 0.1]}`") } else { Ok(()) }
}

/// `train_neg_sample_args` of RecBole 1.0 (`strategy`, `by`) and of 1.2 (`sample_num`, `alpha`, `candidate_num`).
pub(super) fn train_neg_sample_args(config: &RunConfig, value: &Value) -> Held {
    let whole = || Err(format!("`{}`", python::repr(value)));
    let Some(pairs) = value.as_mapping() else {
        return if is_none(value) && config.model.loss_type == Loss::Ce { Ok(()) } else { whole() };
    };
    let get = |key: &str| pairs.get(key).filter(|value| !is_none(value));
    if get("strategy").is_none() && get("distribution").is_none() {
        // RecBole draws nothing then, whatever else is said.
        return if config.model.loss_type == Loss::Ce { Ok(()) } else { whole() };
    }
    each(pairs, |key, value| match key {
        "strategy" => value.as_str() == Some("by"),
        "distribution" => config.model.loss_type == Loss::Bpr && value.as_str() == Some("uniform"),
        "by" | "sample_num" => value.as_i64() == Some(1),
        // Of the popularity alone, and of dynamic sampling.
        "alpha" | "candidate_num" => value.is_number(),
        "dynamic" => is_none(value) || value.as_bool() == Some(false),
        _ => false,
    })
}

/// `eval_neg_sample_args` of RecBole 1.0, `valid_neg_sample_args` and `test_neg_sample_args` of 1.2: all items are ranked.
pub(super) fn eval_neg_sample_args(_: &RunConfig, value: &Value) -> Held {
    let pairs = value.as_mapping().ok_or_else(|| format!("`{}`", python::repr(value)))?;
    each(pairs, |key, value| match key {
        "strategy" => value.as_str() == Some("full"),
        "distribution" => value.as_str() == Some("uniform"),
        "sample_num" => is_none(value),
        _ => false,
    })
}

/// The columns that hold items: histories.
pub(super) fn alias_of_item_id(config: &RunConfig, value: &Value) -> Held {
    let list = config.data.list_field();
    let other = value.as_sequence().and_then(|columns| columns.iter().find(|name| name.as_str() != Some(&list)));
    match (value.is_sequence(), other) {
        (true, None) => Ok(()),
        _ => Err(format!("`{}`", python::repr(other.unwrap_or(value)))),
    }
}

/// RecBole compares in lower case.
pub(super) fn learner(_: &RunConfig, value: &Value) -> Held {
    let is_adam = value.as_str().is_some_and(|name| name.eq_ignore_ascii_case("adam"));
    if is_adam { Ok(()) } else { Err(python::shown(value)) }
}

/// UTF-8 by one of Python's names for it, or ASCII, which is UTF-8.
pub(super) fn encoding(_: &RunConfig, value: &Value) -> Held {
    let plain = value.as_str().map(|name| name.to_lowercase().replace('_', "-"));
    match plain.as_deref() {
        Some("utf-8" | "utf8" | "u8" | "utf" | "utf-8-sig" | "cp65001" | "ascii" | "us-ascii") => Ok(()),
        _ if is_none(value) => Ok(()),
        _ => Err(format!("`{}`", python::repr(value))),
    }
}
