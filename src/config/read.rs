//! Readers of one value: `None` where the value is not of the kind, which the caller reports.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::{ClipGradNorm, Interval, MetricAt, MetricKind};

/// Sets `slot` to a value that was read.
pub(super) fn put<T>(slot: &mut T, read: Option<T>) -> Option<()> {
    read.map(|value| *slot = value)
}

pub(super) fn whole<T: TryFrom<i64> + PartialOrd>(value: &Value, least: T, most: T) -> Option<T> {
    T::try_from(value.as_i64()?).ok().filter(|n| (least..=most).contains(n))
}

/// A whole number of at least 1.
pub(super) fn count(value: &Value) -> Option<usize> {
    whole(value, 1, usize::MAX)
}

/// The sizes that a tensor may have.
pub(super) fn size(value: &Value) -> Option<i64> {
    whole(value, 1, 1_000_000)
}

pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|x| x.is_finite())
}

pub(super) fn positive(value: &Value) -> Option<f64> {
    number(value).filter(|x| *x > 0.0)
}

pub(super) fn not_negative(value: &Value) -> Option<f64> {
    number(value).filter(|x| *x >= 0.0)
}

pub(super) fn probability(value: &Value) -> Option<f64> {
    number(value).filter(|x| (0.0..1.0).contains(x))
}

pub(super) fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
}

pub(super) fn flag(value: &Value) -> Option<bool> {
    value.as_bool()
}

pub(super) fn path(value: &Value) -> Option<PathBuf> {
    text(value).map(PathBuf::from)
}

/// One byte that no other part of the format uses.
pub(super) fn separator(value: &Value) -> Option<u8> {
    match *value.as_str()?.as_bytes() {
        [byte] if byte.is_ascii() && !b"\"\r\n\0".contains(&byte) => Some(byte),
        _ => None,
    }
}

pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    list(value, text)
}

/// A list, each item of the kind; none for a model without attributes.
pub(super) fn items<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_sequence()?.iter().map(item).collect()
}

/// A list with at least one item, each of the kind.
pub(super) fn list<T>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    items(value, item).filter(|items| !items.is_empty())
}

/// A list without repetitions; a single item stands for a list of one, as in RecBole.
pub(super) fn distinct<T: PartialEq>(value: &Value, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    let items = if value.is_sequence() { list(value, item)? } else { vec![item(value)?] };
    items.iter().enumerate().all(|(i, x)| !items[..i].contains(x)).then_some(items)
}

/// `None` (null, or the word that RecBole prints for it), or the kind.
pub(super) fn optional<T>(value: &Value, some: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    if value.is_null() || value.as_str() == Some("None") { Some(None) } else { some(value).map(Some) }
}

/// One of the words that an enum serialises to.
pub(super) fn word<T: DeserializeOwned>(value: &Value) -> Option<T> {
    value.as_str().and_then(|_| serde_yaml::from_value(value.clone()).ok())
}

/// The word of an enum's value; the value itself for numbers and lists of them.
pub(super) fn value(x: impl Serialize) -> Value {
    serde_yaml::to_value(x).expect("enums, numbers, text and lists of them are YAML")
}

pub(super) fn metric(value: &Value) -> Option<MetricKind> {
    MetricKind::named(value.as_str()?)
}

/// `Recall@10`.
pub(super) fn metric_at(value: &Value) -> Option<MetricAt> {
    value.as_str()?.parse().ok()
}

/// `[5,inf)`; a list of two numbers is a closed interval, since RecBole reads the list's text.
pub(super) fn interval(value: &Value) -> Option<Interval> {
    let interval = match value {
        Value::Sequence(ends) if ends.len() == 2 => {
            Interval { low: ends[0].as_f64()?, low_closed: true, high: ends[1].as_f64()?, high_closed: true }
        }
        Value::String(text) => {
            let text = text.trim();
            let (low_closed, rest) =
                text.strip_prefix('[').map(|r| (true, r)).or(text.strip_prefix('(').map(|r| (false, r)))?;
            let (high_closed, inner) =
                rest.strip_suffix(']').map(|r| (true, r)).or(rest.strip_suffix(')').map(|r| (false, r)))?;
            let (low, high) = inner.split_once(',')?;
            Interval { low: low.trim().parse().ok()?, low_closed, high: high.trim().parse().ok()?, high_closed }
        }
        _ => return None,
    };
    let Interval { low, low_closed, high, high_closed } = interval;
    (low < high || (low == high && low_closed && high_closed)).then_some(interval)
}

/// `{column: interval}`; `None` for none.
pub(super) fn val_interval(value: &Value) -> Option<Vec<(String, Interval)>> {
    let pairs = optional(value, |v| v.as_mapping().cloned())?.unwrap_or_default();
    pairs.iter().map(|(column, v)| Some((text(column)?, interval(v)?))).collect()
}

/// The arguments of `clip_grad_norm_`; `norm_type` may be infinite.
pub(super) fn clip_grad_norm(value: &Value) -> Option<ClipGradNorm> {
    let pairs = value.as_mapping()?;
    let known = pairs.keys().all(|k| matches!(k.as_str(), Some("max_norm" | "norm_type")));
    let norm_type = pairs.get("norm_type").map_or(Some(2.0), |v| v.as_f64().filter(|x| *x > 0.0))?;
    known.then_some(ClipGradNorm { max_norm: positive(pairs.get("max_norm")?)?, norm_type })
}
