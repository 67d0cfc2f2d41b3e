//! The stages of the computation, in its order: where every tensor of a case belongs.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::Comparison;
use crate::model::names;

/// What is computed together. The order of the variants is that of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The batch and the items' attributes.
    Inputs,
    /// The tables of items, positions and attributes.
    Embedding,
    /// All other parameters.
    Parameters,
    /// A part of the layer of this number.
    Layer(usize, Part),
    /// The last layer's output at the last item.
    SequenceOutput,
    /// Of all items.
    Scores,
    /// Of the batch, before any step.
    Losses,
    /// Of the total loss.
    Gradients,
    /// The losses after the first step, and the parameters after the last.
    OptimizerSteps,
}

/// A part of a layer, in the order of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Attention scores after the fusion.
    FusedScores,
    /// After scaling, mask and softmax.
    Probabilities,
    /// Of the attention block, after its LayerNorm.
    AttentionOutput,
    /// Of the layer.
    Output,
}

/// Tensors of one stage.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The stage.
    pub name: Stage,
    /// How many tensors were compared.
    pub tensors: usize,
    /// The one with the largest error in relation to what is allowed.
    pub worst: Comparison,
    /// The first in the order of the computation that is not within tolerance; of several, the worst.
    #[serde(skip)]
    pub first_departure: Option<Comparison>,
}

impl Stage {
    /// The stage of a tensor by its name in the case, with its order inside of the stage; `None` for unknown names.
    pub fn of(name: &str) -> Option<(Self, usize)> {
        let (prefix, rest) = name.split_once('.')?;
        let is = |start: &str| rest.starts_with(start);
        Some(match prefix {
            "in" => (Self::Inputs, 0),
            "param" if names::is_table(rest) => (Self::Embedding, 0),
            "param" => (Self::Parameters, 0),
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
}

impl Part {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "fused_scores" => Self::FusedScores,
            "attention_probs" => Self::Probabilities,
            "attention_output" => Self::AttentionOutput,
            "output" => Self::Output,
            _ => return None,
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inputs => f.write_str("inputs"),
            Self::Embedding => f.write_str("embedding"),
            Self::Parameters => f.write_str("other parameters"),
            Self::Layer(k, Part::FusedScores) => write!(f, "layer {k}: fused scores"),
            Self::Layer(k, Part::Probabilities) => write!(f, "layer {k}: attention probabilities"),
            Self::Layer(k, Part::AttentionOutput) => write!(f, "layer {k}: attention output"),
            Self::Layer(k, Part::Output) => write!(f, "layer {k}: output"),
            Self::SequenceOutput => f.write_str("sequence output"),
            Self::Scores => f.write_str("item scores"),
            Self::Losses => f.write_str("losses"),
            Self::Gradients => f.write_str("gradients"),
            Self::OptimizerSteps => f.write_str("optimizer steps"),
        }
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Sorts comparisons into their stages. Those of unknown names are left out: callers have refused them before.
pub(super) fn group(comparisons: impl IntoIterator<Item = Comparison>) -> Vec<Group> {
    let mut stages: BTreeMap<Stage, Vec<(usize, Comparison)>> = BTreeMap::new();
    for comparison in comparisons {
        if let Some((stage, order)) = Stage::of(&comparison.name) {
            stages.entry(stage).or_default().push((order, comparison));
        }
    }
    let groups = stages.into_iter().filter_map(|(name, comparisons)| {
        let by_ratio = |a: &&(usize, Comparison), b: &&(usize, Comparison)| a.1.ratio().total_cmp(&b.1.ratio());
        let worst = comparisons.iter().max_by(by_ratio)?.1.clone();
        let first = comparisons.iter().filter(|(_, c)| !c.holds());
        let first = first.min_by(|a, b| a.0.cmp(&b.0).then(b.1.ratio().total_cmp(&a.1.ratio())));
        Some(Group { name, tensors: comparisons.len(), worst, first_departure: first.map(|(_, c)| c.clone()) })
    });
    groups.collect()
}
