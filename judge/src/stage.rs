//! The stages of the computation, in its order: where every tensor of a case belongs.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

use crate::Comparison;

/// What is computed together. The order of the variants is that of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The batch and the items' attributes.
    Inputs,
    /// The tables of items, positions and attributes.
    Embedding,
    /// All other parameters.
    Parameters,
    /// What enters the encoder: the items' vectors after their LayerNorm.
    EncoderInput,
    /// The vector of each attribute at each position.
    PooledAttributes,
    /// A part of the layer of this number.
    Layer(usize, Part),
    /// The vector at the last item of each sequence.
    SequenceOutput,
    /// Of every item.
    Scores,
    /// Of the batch, before any step.
    Losses,
    /// Of the total loss, at the initial parameters.
    Gradients,
    /// The losses after the first step, and the parameters after the last.
    OptimizerSteps,
}

/// A part of a layer, in the order of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Of each stream alone: items, position, attributes.
    StreamScores,
    /// Before scale and mask.
    FusedScores,
    /// After scale, mask and softmax.
    Probabilities,
    /// After the attention's residual and LayerNorm.
    AttentionOutput,
    /// After the feed-forward network's.
    Output,
}

/// The stages outside of layers in the order of the computation, each with the name that `--require` and `--accept` take and the
/// one of reports. Layers stand before the sequence output.
const STAGES: [(Stage, &str, &str); 10] = [
    (Stage::Inputs, "inputs", "inputs"),
    (Stage::Embedding, "embedding", "embedding"),
    (Stage::Parameters, "parameters", "other parameters"),
    (Stage::EncoderInput, "input", "encoder input"),
    (Stage::PooledAttributes, "pooled", "pooled attributes"),
    (Stage::SequenceOutput, "seq_output", "sequence output"),
    (Stage::Scores, "scores", "item scores"),
    (Stage::Losses, "losses", "losses"),
    (Stage::Gradients, "gradients", "gradients"),
    (Stage::OptimizerSteps, "optimizer_steps", "optimizer steps"),
];

/// The same of the parts of a layer; the first name is a tensor's, too.
const PARTS: [(Part, &str, &str); 5] = [
    (Part::StreamScores, "stream_scores", "scores of each stream"),
    (Part::FusedScores, "fused_scores", "fused scores"),
    (Part::Probabilities, "attention_probs", "attention probabilities"),
    (Part::AttentionOutput, "attention_output", "attention output"),
    (Part::Output, "output", "output"),
];

/// Tensors of one stage.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    pub name: Stage,
    /// How many tensors were compared.
    pub tensors: usize,
    /// How many of them depart as an accepted deviation says.
    #[serde(skip_serializing_if = "is_zero")]
    pub accepted: usize,
    /// The one with the largest error in relation to what is allowed; of those that depart otherwise than accepted, if any.
    pub worst: Comparison,
    /// The first in the order of the computation that is neither within tolerance nor accepted; of several, the worst.
    #[serde(skip)]
    pub first_departure: Option<Comparison>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Stage {
    /// The stage of a tensor by its name in the case, with its order inside of the stage; `None` for unknown names.
    pub fn of(name: &str) -> Option<(Self, usize)> {
        let (prefix, rest) = name.split_once('.')?;
        let is = |start: &str| rest.starts_with(start);
        Some(match prefix {
            "in" => (Self::Inputs, 0),
            "param" if is("item_embedding.") || is("position_embedding.") || is("feature_embed_layer") => {
                (Self::Embedding, 0)
            }
            "param" => (Self::Parameters, 0),
            "out" if rest == "input" => (Self::EncoderInput, 0),
            "out" if is("pooled.") => (Self::PooledAttributes, 0),
            "out" if is("layer.") => {
                let (layer, part) = rest.strip_prefix("layer.")?.split_once('.')?;
                (Self::Layer(layer.parse().ok()?, Part::named(part)?), 0)
            }
            "out" if rest == "seq_output" => (Self::SequenceOutput, 0),
            "out" if rest == "scores" => (Self::Scores, 0),
            "out" if rest == "loss.item" => (Self::Losses, 0),
            "out" if is("loss.attribute.") => (Self::Losses, 1),
            "out" if rest == "loss.total" => (Self::Losses, 2),
            "grad" => (Self::Gradients, 0),
            "train" => match rest.strip_prefix("loss.")?.parse().ok()? {
                0 => return None,
                1 => (Self::Losses, 3),
                step => (Self::OptimizerSteps, step),
            },
            "after5" => (Self::OptimizerSteps, usize::MAX),
            _ => return None,
        })
    }

    /// The stage that `--require` calls so; `layers` has `n_layers` of them, `all` every one.
    pub(crate) fn named(name: &str, n_layers: usize) -> Option<Vec<Self>> {
        let all = Self::all(n_layers);
        let of_name: Vec<Self> = match name {
            "layers" => all.into_iter().filter(|stage| matches!(stage, Self::Layer(..))).collect(),
            "all" => all,
            _ => all.into_iter().filter(|stage| stage.id() == name || stage.to_string() == name).collect(),
        };
        (!of_name.is_empty()).then_some(of_name)
    }

    /// Every stage of a model, in order.
    pub(crate) fn all(n_layers: usize) -> Vec<Self> {
        let outside = |stages: Range<usize>| STAGES[stages].iter().map(|&(stage, ..)| stage);
        let layers = (0..n_layers).flat_map(|k| PARTS.map(|(part, ..)| Self::Layer(k, part)));
        outside(0..5).chain(layers).chain(outside(5..10)).collect()
    }

    /// The name that `--require` and `--accept` take.
    pub fn id(self) -> String {
        match self {
            Self::Layer(k, part) => format!("layer.{k}.{}", names(&PARTS, part)[0]),
            _ => names(&STAGES, self)[0].to_owned(),
        }
    }
}

impl Part {
    fn named(name: &str) -> Option<Self> {
        // Of each stream one: `stream_scores.item`.
        let name = match name.split_once('.') {
            Some(("stream_scores", _)) => "stream_scores",
            _ => Some(name).filter(|&name| name != "stream_scores")?,
        };
        PARTS.iter().find(|(_, id, _)| *id == name).map(|&(part, ..)| part)
    }
}

/// Both names of a stage or a part.
fn names<T: PartialEq>(table: &[(T, &'static str, &'static str)], of: T) -> [&'static str; 2] {
    table.iter().find(|(each, ..)| *each == of).map_or([""; 2], |(_, id, name)| [id, name])
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Layer(k, part) => write!(f, "layer {k}: {}", names(&PARTS, part)[1]),
            stage => f.write_str(names(&STAGES, stage)[1]),
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Sorts comparisons, each with whether it is accepted as it is, into their stages.
pub(crate) fn group(comparisons: impl IntoIterator<Item = (Comparison, bool)>) -> Vec<Group> {
    let mut stages: BTreeMap<Stage, Vec<(usize, Comparison, bool)>> = BTreeMap::new();
    for (comparison, accepted) in comparisons {
        if let Some((stage, order)) = Stage::of(&comparison.name) {
            stages.entry(stage).or_default().push((order, comparison, accepted));
        }
    }
    let groups = stages.into_iter().filter_map(|(name, comparisons)| {
        let departing = comparisons.iter().filter(|(_, c, accepted)| !c.holds() && !accepted);
        let first = departing.clone().min_by(|a, b| a.0.cmp(&b.0).then(b.1.ratio().total_cmp(&a.1.ratio())));
        let by_ratio = |a: &&(usize, Comparison, bool), b: &&(usize, Comparison, bool)| {
            (!a.2).cmp(&!b.2).then(a.1.ratio().total_cmp(&b.1.ratio()))
        };
        let worst = comparisons.iter().max_by(by_ratio)?.1.clone();
        let accepted = comparisons.iter().filter(|(_, _, accepted)| *accepted).count();
        let first_departure = first.map(|(_, c, _)| c.clone());
        Some(Group { name, tensors: comparisons.len(), accepted, worst, first_departure })
    });
    groups.collect()
}
