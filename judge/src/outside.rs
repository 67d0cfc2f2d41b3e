//! What real implementations get wrong outside of a case: initial values, dropout, determinism, the optimizer's settings.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::{compare, largest};
use crate::rules::Rules;
use crate::{Case, Config, Error, Result, Tensor};

/// RecBole's `initializer_range`: the deviation of every trained weight.
const TRAINED: f64 = 0.02;
/// Of PyTorch's `nn.Embedding`, which nothing overwrites in attribute tables.
const TABLE: f64 = 1.0;
/// How many standard errors an estimate may be off: one in a million is.
const SIGMAS: f64 = 5.0;
/// The rates that the dropout calls are to be recorded with, different so that they can be told apart.
const RATES: [f64; 2] = [0.5, 0.3];

/// What is checked outside of the golden tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `init.<parameter>`: the distribution of a new model's parameters.
    InitialValues,
    /// `dropout.<i>`: where and by which rate elements are dropped.
    Dropout,
    /// `repeat.<key>`: a second forward pass.
    Determinism,
    /// `optimizer.<setting>`
    OptimizerSettings,
}

/// One such check.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    pub kind: Kind,
    /// The key, or the first part of several; the name that `--accept` takes.
    pub name: String,
    pub holds: bool,
    /// Whether it departs and is accepted.
    pub accepted: bool,
    /// What was found, beside what is expected.
    pub found: String,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::InitialValues, Self::Dropout, Self::Determinism, Self::OptimizerSettings];

    /// The name that `--require` takes.
    pub fn id(self) -> &'static str {
        match self {
            Self::InitialValues => "initial_values",
            Self::Dropout => "dropout",
            Self::Determinism => "determinism",
            Self::OptimizerSettings => "optimizer_settings",
        }
    }

    /// What to dump for it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::InitialValues => "init.<parameter>",
            Self::Dropout => "dropout.<i>",
            Self::Determinism => "repeat.<key>",
            Self::OptimizerSettings => "optimizer.<setting>",
        }
    }
}

/// Everything that a dump says of itself outside of the golden tensors.
///
/// # Errors
/// A key that is none, or a tensor of the wrong form.
pub(crate) fn facts(
    case: &Case,
    rules: &Rules,
    outside: &BTreeMap<&str, &Tensor>,
    known: &BTreeMap<&str, &Tensor>,
) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    let mut dropout = BTreeMap::new();
    for (&name, &tensor) in outside {
        let (prefix, rest) = name.split_once('.').unwrap_or((name, ""));
        let fact = match prefix {
            "init" => Some(initial_value(case, name, rest, tensor)?),
            "repeat" => Some(repeated(rules, name, rest, tensor, known)?),
            "optimizer" => Some(setting(case, name, rest, tensor)?),
            _ => {
                dropout.insert(number(name, rest)?, tensor);
                None
            }
        };
        facts.extend(fact);
    }
    if !dropout.is_empty() {
        facts.push(dropout_sites(case, &dropout)?);
    }
    facts.sort_by(|a, b| a.kind.cmp(&b.kind).then(a.name.cmp(&b.name)));
    Ok(facts)
}

fn fact(kind: Kind, name: &str, holds: bool, found: String) -> Fact {
    Fact { kind, name: name.to_owned(), holds, accepted: false, found }
}

/// Whether values may be drawn as the reference draws them: N(0, 0.02²) for weights, N(0, 1) for attribute tables, 0 for
/// biases, 1 for the weights of a LayerNorm.
fn initial_value(case: &Case, name: &str, parameter: &str, tensor: &Tensor) -> Result<Fact> {
    if !case.tensors.contains_key(&format!("param.{parameter}")) {
        let parameters = case.tensors.keys().filter_map(|key| key.strip_prefix("param."));
        let near = crate::error::nearest(parameter, parameters).map_or("", |(near, _)| near);
        return Err(Error::new(format!("found `{name}`, which is no parameter of {}", case.name))
            .hint(format!("is `init.{near}` meant?")));
    }
    let values = tensor.values();
    let constant = match () {
        () if parameter.ends_with("LayerNorm.weight") => Some(1.0),
        () if parameter.ends_with(".bias") => Some(0.0),
        () => None,
    };
    let kind = Kind::InitialValues;
    if let Some(constant) = constant {
        let holds = values.iter().all(|&value| value == constant);
        return Ok(fact(kind, name, holds, format!("{}, expected {constant} everywhere", range(values))));
    }
    let deviation = if parameter.contains("feature_embed_layer_list") { TABLE } else { TRAINED };
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let found = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
    let kurtosis = values.iter().map(|value| ((value - mean) / found).powi(4)).sum::<f64>() / n;
    let width = tensor.shape().last().copied().unwrap_or(1);
    let padding_is_zero = parameter == "item_embedding.weight" && values.iter().take(width).all(|&value| value == 0.0);
    // Without a zero row the estimate is of the others alone.
    let drawn =
        (found / deviation - 1.0).abs() <= SIGMAS / (2.0 * n).sqrt() && mean.abs() <= SIGMAS * deviation / n.sqrt();
    let normal = n < 200.0 || (kurtosis - 3.0).abs() <= SIGMAS * (24.0 / n).sqrt() + 0.1;
    let mut text = format!("mean {mean:.4}, deviation {found:.4}, expected 0 and {deviation}");
    if padding_is_zero {
        text += "; row 0, the padding item's, is zero, expected to be drawn like all others";
    }
    if drawn && !normal {
        text += &format!("; kurtosis {kurtosis:.2}, expected 3, a normal distribution's");
    }
    Ok(fact(kind, name, drawn && normal && !padding_is_zero, text))
}

fn range(values: &[f64]) -> String {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    if low == high { format!("{low}") } else { format!("{low:.4} to {high:.4}") }
}

/// A second forward pass in evaluation must give what the first one gave.
fn repeated(rules: &Rules, name: &str, key: &str, tensor: &Tensor, known: &BTreeMap<&str, &Tensor>) -> Result<Fact> {
    let Some(first) = known.get(key) else {
        return Err(Error::new(format!("found `{name}` without `{key}`, of which it is the second pass"))
            .hint(format!("dump `{key}` too")));
    };
    let found = compare(key, tensor, first, rules.tolerance(key));
    let bound = largest(first.values());
    let (error, _) = found.error_and_bound();
    let text = match found.holds() {
        true if error == 0.0 => "equal to the bit".to_owned(),
        true => format!("differs by {error:.1e}, rounding"),
        false => format!("differs by {error:.1e} of {bound:.1e} between two passes: is dropout on, in evaluation?"),
    };
    Ok(fact(Kind::Determinism, name, found.holds(), text))
}

/// A setting of the optimizer, a single number.
fn setting(case: &Case, name: &str, setting: &str, tensor: &Tensor) -> Result<Fact> {
    let expected = [
        ("lr", case.config.learning_rate),
        ("beta1", 0.9),
        ("beta2", 0.999),
        ("eps", 1e-8),
        ("weight_decay", 0.0),
        ("amsgrad", 0.0),
    ];
    let Some((_, value)) = expected.iter().find(|(key, _)| *key == setting) else {
        let near = crate::error::nearest(setting, expected.iter().map(|(key, _)| *key)).map_or("", |(near, _)| near);
        return Err(Error::new(format!("found `{name}`, which is no setting of Adam")).hint(format!(
            "is `optimizer.{near}` meant? The others are lr, beta1, beta2, eps, weight_decay, amsgrad"
        )));
    };
    let Some(found) = tensor.scalar() else {
        return Err(Error::new(format!("expected a single number in `{name}`, found shape {:?}", tensor.shape()))
            .hint("write the setting as a tensor of one element"));
    };
    let holds = (found - value).abs() <= 1e-6 * value.abs();
    Ok(fact(Kind::OptimizerSettings, name, holds, format!("{found}, expected {value}")))
}

fn number(name: &str, rest: &str) -> Result<usize> {
    rest.parse().map_err(|_| {
        Error::new(format!("found `{name}`, expected `dropout.<i>` with the number of the call, from 0"))
            .hint("number the calls of one forward pass in their order")
    })
}

/// A call of dropout.
#[derive(Debug, Clone, PartialEq)]
struct Site {
    rate: f64,
    shape: Vec<usize>,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {:?}", self.rate, self.shape)
    }
}

/// The calls that DIF-SR makes: of the encoder's input, and in each layer of the probabilities, behind the dense layer
/// and behind the feed-forward network.
fn sites(config: &Config, batch: usize) -> Vec<Site> {
    let [hidden, attention] = RATES;
    let vectors = Site { rate: hidden, shape: vec![batch, config.max_len, config.hidden_size] };
    let probs = Site { rate: attention, shape: vec![batch, config.n_heads, config.max_len, config.max_len] };
    let layer = [probs, vectors.clone(), vectors.clone()];
    std::iter::once(vectors).chain((0..config.n_layers).flat_map(|_| layer.clone())).collect()
}

fn dropout_sites(case: &Case, calls: &BTreeMap<usize, &Tensor>) -> Result<Fact> {
    let read = calls.iter().map(|(i, tensor)| match tensor.values() {
        [rate, shape @ ..] if !shape.is_empty() => {
            Ok(Site { rate: (rate * 1e6).round() / 1e6, shape: shape.iter().map(|&n| n as usize).collect() })
        }
        _ => Err(Error::new(format!("expected the rate and the shape in `dropout.{i}`, found {:?}", tensor.shape()))
            .hint("write [rate, size of axis 0, size of axis 1, …]")),
    });
    let (found, expected) = (read.collect::<Result<Vec<Site>>>()?, sites(&case.config, case.batch()));
    if found == expected {
        return Ok(fact(Kind::Dropout, "dropout", true, format!("{} calls, as expected", found.len())));
    }
    let mut text = format!("{} calls, expected {}", found.len(), expected.len());
    let (mut over, mut lacking) = (found.clone(), expected.clone());
    over.retain(|site| lacking.iter().position(|other| other == site).map(|i| lacking.remove(i)).is_none());
    let listed = |sites: &[Site]| sites.iter().map(Site::to_string).collect::<Vec<_>>().join(", ");
    if !over.is_empty() {
        text += &format!("; not expected: {}", listed(&over));
    }
    if !lacking.is_empty() {
        text += &format!("; missing: {}", listed(&lacking));
    }
    if over.is_empty() && lacking.is_empty() {
        text += &format!("; in another order: {}", listed(&found));
    }
    Ok(fact(Kind::Dropout, "dropout", false, text))
}
