//! What real implementations get wrong outside of a case: initial values, dropout, determinism, the optimizer's settings.
//!
//! Initial values are tensors, `init.<parameter>`; the others are JSON in the dump's metadata (docs/verify.md).

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compare::largest;
use crate::rules::Rules;
use crate::{Case, Dump, Error, Result, Tensor};

/// The deviation of PyTorch's `nn.Embedding`, which nothing overwrites in attribute tables.
const TABLE: f64 = 1.0;
/// How many standard errors an estimate may be off: one in a million is.
const SIGMAS: f64 = 5.0;

/// What is checked outside of the golden tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `init.<parameter>`: the distribution of a new model's parameters.
    InitialValues,
    /// `dropout_sites`: where and by which rate elements are dropped.
    Dropout,
    /// `determinism`: what differs between two forward passes.
    Determinism,
    /// `optimizer`: its class and settings.
    OptimizerSettings,
}

/// One such check.
#[derive(Debug, Clone, Serialize)]
pub struct Fact {
    pub kind: Kind,
    /// The key; the name that `--accept` takes.
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

    /// What to dump for it: a key of a tensor, or of the metadata.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::InitialValues => "init.<parameter>",
            Self::Dropout => "dropout_sites",
            Self::Determinism => "determinism",
            Self::OptimizerSettings => "optimizer",
        }
    }
}

/// Everything that a dump says of itself outside of the golden tensors; `initial` are its `init.*`.
///
/// # Errors
/// A key that is none, or metadata of another form.
pub(crate) fn facts(case: &Case, rules: &Rules, dump: &Dump, initial: &BTreeMap<&str, &Tensor>) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for (name, tensor) in initial {
        facts.push(initial_value(case, name, name.strip_prefix("init.").unwrap_or(name), tensor)?);
    }
    if let Some(sites) = metadata::<Vec<Site>>(dump, Kind::Dropout)? {
        facts.push(dropout_sites(case, &sites));
    }
    if let Some(Determinism { largest_difference }) = metadata(dump, Kind::Determinism)? {
        facts.push(determinism(case, rules, largest_difference));
    }
    if let Some(optimizer) = metadata::<Optimizer>(dump, Kind::OptimizerSettings)? {
        facts.push(settings(case, &optimizer));
    }
    Ok(facts)
}

fn metadata<T: DeserializeOwned>(dump: &Dump, kind: Kind) -> Result<Option<T>> {
    let read = |text: &String| {
        serde_json::from_str(text).map_err(|e| {
            Error::new(format!(
                "metadata `{}`: expected JSON of the form that docs/verify.md gives, found: {e}",
                kind.key()
            ))
            .hint("write it as `dif_sr.Dump` does, or leave it out")
        })
    };
    dump.metadata.get(kind.key()).map(read).transpose()
}

fn fact(kind: Kind, name: &str, holds: bool, found: String) -> Fact {
    Fact { kind, name: name.to_owned(), holds, accepted: false, found }
}

/// Whether values may be drawn as the reference draws them: N(0, `initializer_range`²) for weights, N(0, 1) for attribute tables, 0 for
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
    let is_table = parameter.contains("feature_embed_layer_list");
    let deviation = if is_table { TABLE } else { case.config.initializer_range };
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

/// What differs between two forward passes with dropout 0 or in evaluation.
#[derive(Deserialize)]
struct Determinism {
    largest_difference: f64,
}

fn determinism(case: &Case, rules: &Rules, difference: f64) -> Fact {
    let most = case.tensors.get("out.scores").map_or(1.0, |scores| largest(scores.values()));
    // An order of additions that varies from pass to pass is no fault.
    let holds = difference <= rules.tolerance("out.scores").bound(most);
    let found = match holds {
        true if difference == 0.0 => "two passes are equal".to_owned(),
        true => format!("two passes differ by {difference:.1e}, rounding"),
        false => format!(
            "two passes differ by {difference:.1e}, expected to be equal: something is drawn in each, as by dropout"
        ),
    };
    fact(Kind::Determinism, "determinism", holds, found)
}

/// The optimizer's class and the settings of its groups, in PyTorch's names: of any form, for another optimizer has others.
#[derive(Deserialize)]
struct Optimizer {
    class: String,
    groups: Vec<serde_json::Map<String, Value>>,
}

fn settings(case: &Case, optimizer: &Optimizer) -> Fact {
    let mut wrong = Vec::new();
    let betas = optimizer.groups.iter().filter_map(|group| group.get("betas")).filter(|betas| !betas.is_null());
    match optimizer.class == "Adam" {
        true => {
            let malformed = betas.filter(|betas| betas.as_array().is_none_or(|betas| betas.len() != 2));
            wrong.extend(malformed.map(|betas| format!("betas {betas}, expected [0.9, 0.999]")));
        }
        false => wrong.push(format!("{}, expected Adam", optimizer.class)),
    }
    let mut expect = |name: &str, found: Option<&Value>, expected: f64| {
        let number = |found: &Value| found.as_f64().or(found.as_bool().map(f64::from));
        let right = |found: &Value| number(found).is_some_and(|f| (f - expected).abs() <= 1e-9 * expected.abs());
        if let Some(found) = found.filter(|found| !found.is_null() && !right(found)) {
            wrong.push(format!("{name} {found}, expected {expected}"));
        }
    };
    for group in &optimizer.groups {
        let betas = group.get("betas");
        expect("lr", group.get("lr"), case.config.learning_rate);
        expect("beta1", betas.and_then(|betas| betas.get(0)), 0.9);
        expect("beta2", betas.and_then(|betas| betas.get(1)), 0.999);
        expect("eps", group.get("eps"), 1e-8);
        for name in ["weight_decay", "amsgrad", "maximize"] {
            expect(name, group.get(name), 0.0);
        }
    }
    wrong.dedup();
    let found = if wrong.is_empty() { "Adam with the case's settings".to_owned() } else { wrong.join("; ") };
    fact(Kind::OptimizerSettings, "optimizer", wrong.is_empty(), found)
}

/// A call of dropout, in training with the usual rates.
#[derive(Deserialize)]
struct Site {
    rate: f64,
    shape: Vec<usize>,
}

impl Site {
    fn elements(&self) -> usize {
        self.shape.iter().fold(1, |elements, &size| elements.saturating_mul(size))
    }
}

/// DIF-SR drops of the encoder's input, and in each layer of the probabilities, behind the dense layer and behind the
/// feed-forward network: probabilities at one rate, vectors at another, each the same everywhere. Layouts are free, so that
/// what is dropped is told by how many elements it has.
fn dropout_sites(case: &Case, found: &[Site]) -> Fact {
    let (b, l, heads, h) = (case.batch(), case.config.max_len, case.config.n_heads, case.config.hidden_size);
    let (vectors, probabilities) = (b * l * h, b * heads * l * l);
    let layer = [probabilities, vectors, vectors];
    let expected: Vec<usize> = std::iter::once(vectors).chain((0..case.config.n_layers).flat_map(|_| layer)).collect();
    let elements: Vec<usize> = found.iter().map(Site::elements).collect();
    let mut wrong = Vec::new();
    if elements == expected {
        // By place: a case may have as many probabilities as elements of vectors.
        let of_attention = |i: usize| i % 3 == 1;
        for (attention, what) in [(true, "attention probabilities"), (false, "vectors")] {
            let sites = found.iter().enumerate().filter(|(i, _)| of_attention(*i) == attention);
            let mut rates: Vec<f64> = sites.map(|(_, site)| site.rate).collect();
            rates.dedup();
            if rates.len() > 1 {
                wrong.push(format!("{what} are dropped at rates {rates:?}, expected one"));
            }
        }
    } else {
        let count = |elements: &[usize]| {
            let attention = elements.iter().filter(|&&n| n == probabilities).count();
            format!("{} calls, {attention} of attention probabilities", elements.len())
        };
        let other = found.iter().find(|site| ![vectors, probabilities].contains(&site.elements()));
        if count(&elements) != count(&expected) {
            wrong.push(format!("{}, expected {}", count(&elements), count(&expected)));
        } else if other.is_none() {
            wrong.push("the calls are in another order".to_owned());
        }
        wrong.extend(other.map(|Site { rate, shape }| {
            let [vectors, probabilities] = [vec![b, l, h], vec![b, heads, l, l]];
            format!("{rate} of {shape:?}, expected {probabilities:?} or {vectors:?} in any layout")
        }));
    }
    let holds = wrong.is_empty();
    let text = if holds { format!("{} calls, as expected", found.len()) } else { wrong.join("; ") };
    fact(Kind::Dropout, "dropout_sites", holds, text)
}
