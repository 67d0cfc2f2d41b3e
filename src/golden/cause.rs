//! Why a dump departs: the fault that, planted in the case, gives the dump's numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::discriminant;

use serde::Serialize;
use tch::{Kind, Tensor};

use super::judge::Judge;
use super::what_if::WhatIf;
use super::{Case, Fault, Part, Stage};

/// What is known of the reason for a departure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// With these faults planted, the case gives the dump's numbers up to the departing stage.
    Reproduced {
        /// One, or two.
        faults: Vec<Fault>,
        /// Each fault in words.
        because: Vec<String>,
        /// The first stage that the faults do not explain; `None` if they explain the whole dump.
        unexplained_from: Option<Stage>,
    },
    /// None of the faults known to this project gives the dump's numbers.
    Unknown {
        /// How many were tried, alone and in pairs.
        tried: usize,
        /// What the departing stage computes.
        look_at: &'static str,
        /// Stages before the departing one of which the dump holds nothing, after the last one that it holds.
        not_dumped_before: Vec<Stage>,
    },
}

/// What a search is about.
pub(super) struct Search<'a> {
    pub case: &'a Case,
    pub judge: &'a Judge,
    pub golden: &'a BTreeMap<String, Tensor>,
    /// The tensors that the case knows.
    pub dump: &'a BTreeMap<&'a str, &'a Tensor>,
    /// Where the dump departs first.
    pub stage: Stage,
}

impl Search<'_> {
    /// The best of the faults that reproduce the dump up to the departing stage: one fault if one does, else two.
    pub fn run(&self, not_dumped_before: Vec<Stage>) -> Cause {
        let all = Fault::all(self.case);
        let singles = all.iter().map(|&fault| vec![fault]);
        let pairs = all.iter().enumerate().flat_map(|(i, &a)| all[i + 1..].iter().map(move |&b| vec![a, b]));
        let pairs = pairs.filter(|pair| discriminant(&pair[0]) != discriminant(&pair[1]));
        // Faults that show no earlier than in training are few and far apart: pairs of them would cost seconds.
        let pairs = pairs.filter(|_| !self.trains());
        match self.best(singles).or_else(|| self.best(pairs)) {
            Some(faults) => Cause::Reproduced {
                because: faults.iter().map(|fault| fault.describe(self.case)).collect(),
                unexplained_from: self.unexplained_from(&faults),
                faults,
            },
            None => Cause::Unknown { tried: all.len(), look_at: computes(self.stage), not_dumped_before },
        }
    }

    fn trains(&self) -> bool {
        self.stage >= Stage::Gradients
    }

    /// The candidate with the smallest error in relation to what is allowed, if it is allowed.
    fn best(&self, candidates: impl Iterator<Item = Vec<Fault>>) -> Option<Vec<Fault>> {
        let rated = candidates.map(|faults| (self.ratio(&faults), faults)).filter(|(ratio, _)| *ratio <= 1.0);
        rated.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, faults)| faults)
    }

    /// The largest error over what is allowed, up to the departing stage.
    fn ratio(&self, faults: &[Fault]) -> f64 {
        let ratio = |labels: Kind| {
            let what_if = WhatIf::new(self.case, faults, labels);
            let forward = self.largest(&what_if.forward(), self.stage.min(Stage::Losses));
            // Training takes longer, and few faults are unseen before.
            if self.trains() && forward <= 1.0 { self.largest(&what_if.train(), self.stage) } else { forward }
        };
        let first = ratio(Kind::Float);
        // The kind of the attribute labels shows from the losses on.
        if first <= 1.0 || self.stage < Stage::Losses { first } else { first.min(ratio(Kind::Double)) }
    }

    /// The largest error over what is allowed, up to a stage; infinite as soon as one is not allowed.
    fn largest(&self, predicted: &BTreeMap<String, Tensor>, last: Stage) -> f64 {
        let mut errors = self.errors(predicted, last).map(|(_, ratio)| ratio);
        errors
            .try_fold(0.0, |largest: f64, ratio| (ratio <= 1.0).then_some(largest.max(ratio)))
            .unwrap_or(f64::INFINITY)
    }

    /// The stage and the error of each tensor of the dump up to a stage, held to what is predicted, or else to the case.
    fn errors<'b>(
        &'b self,
        predicted: &'b BTreeMap<String, Tensor>,
        last: Stage,
    ) -> impl Iterator<Item = (Stage, f64)> + 'b {
        self.dump.iter().filter_map(move |(&name, &tensor)| {
            let (stage, _) = Stage::of(name).filter(|(stage, _)| *stage <= last)?;
            let expected = predicted.get(name).or_else(|| self.golden.get(name))?;
            Some((stage, self.judge.compare(name, tensor, expected)?.ratio()))
        })
    }

    /// The first stage in which the dump departs from what the faults predict.
    fn unexplained_from(&self, faults: &[Fault]) -> Option<Stage> {
        let first = |labels: Kind| {
            let predicted = WhatIf::new(self.case, faults, labels).train();
            self.errors(&predicted, Stage::OptimizerSteps)
                .filter(|(_, ratio)| *ratio > 1.0)
                .map(|(stage, _)| stage)
                .min()
        };
        // The kind of labels under which the dump is explained furthest.
        let rounded = first(Kind::Float)?;
        first(Kind::Double).map(|exact| rounded.max(exact))
    }
}

/// What a stage computes from the one before it.
fn computes(stage: Stage) -> &'static str {
    match stage {
        Stage::Inputs => "which batch the implementation ran on: `in.*` of the case are its inputs",
        Stage::Embedding => "how the tables were copied from the case's `param.*`",
        Stage::Parameters => "how the parameters were copied from the case's `param.*`, and whether any is transposed",
        Stage::Layer(0, Part::FusedScores) => {
            "the item, position and attribute look-ups, the LayerNorm of the items, the query and key projections and \
             the fusion, with the streams in the order attributes, item, position"
        }
        Stage::Layer(_, Part::FusedScores) => {
            "the query and key projections of this layer and the fusion; positions and attributes enter every layer \
             unchanged"
        }
        Stage::Layer(_, Part::Probabilities) => {
            "the scale, the mask and the softmax over keys, and whether dropout is 0"
        }
        Stage::Layer(_, Part::AttentionOutput) => {
            "the value projection (of items alone), the product with the probabilities, the dense layer, the residual \
             and the LayerNorm"
        }
        Stage::Layer(_, Part::Output) => "the feed-forward network: its activation, the residual and the LayerNorm",
        Stage::SequenceOutput => "which position the output is taken from",
        Stage::Scores => "the product with the item embedding: all items, the padding item included, without a bias",
        Stage::Losses => "the softmax over all items, the attribute labels, what their mean runs over, and `lamdas`",
        Stage::Gradients => "what is detached, and which loss the gradients are of",
        Stage::OptimizerSteps => {
            "Adam's settings (learning_rate of the case, betas 0.9 and 0.999, eps 1e-8, no weight decay) and what is \
             trained"
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reproduced { because, unexplained_from, .. } => {
                write!(f, "{}", because.join("; and "))?;
                match unexplained_from {
                    None => write!(f, " (reproduces every number of the dump)"),
                    Some(stage) => write!(f, " (reproduces the dump up to here; something else shows at {stage})"),
                }
            }
            Self::Unknown { tried, look_at, not_dumped_before } => {
                if *tried > 0 {
                    write!(f, "none of the {tried} faults tried reproduces it; ")?;
                }
                write!(f, "look at {look_at}")?;
                if let [first, rest @ ..] = &not_dumped_before[..] {
                    write!(f, "; to come closer, dump {first}")?;
                    rest.iter().try_for_each(|stage| write!(f, ", {stage}"))?;
                }
                Ok(())
            }
        }
    }
}
