//! Why a dump departs: the faults whose signatures are the dump's numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::rules::Rules;
use crate::table::{Observed, Table};
use crate::{Case, Comparison, Stage, Tensor};

/// What is known of the reason for a departure.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// With these faults planted, the authors' formulas give the dump's numbers up to the departing stage.
    Reproduced {
        /// Of each the faults that act together: several where the dump cannot tell them apart.
        alternatives: Vec<Vec<Named>>,
        /// The key that would tell them apart, if the case has one.
        #[serde(skip_serializing_if = "Option::is_none")]
        dump_next: Option<String>,
        /// The first stage that the faults do not explain; `None` if they explain the whole dump.
        unexplained_from: Option<Stage>,
    },
    /// None of the faults known to this project gives the dump's numbers.
    Unknown {
        /// How many were tried alone, and in pairs.
        tried: [usize; 2],
        /// What the numbers say of themselves.
        known: Vec<String>,
        /// The last stage before that is right.
        agrees_at: Option<Stage>,
        /// What is computed since then.
        look_at: Vec<&'static str>,
        /// Stages before the departing one of which the dump holds nothing, after the last one that it holds.
        not_dumped_before: Vec<Stage>,
    },
}

/// A fault by its name, and in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The name that `--accept` takes.
    pub id: String,
    /// What is wrong, beside what is right.
    pub text: String,
}

/// A dump's tensors that the table knows.
pub(crate) struct Search<'a> {
    rules: &'a Rules,
    table: &'a Table,
    /// By key: where it belongs, what it is in a few numbers, and whether it departs.
    observed: BTreeMap<&'a str, (Stage, Observed, bool)>,
    elements: BTreeMap<&'a str, usize>,
    /// Accepted faults, one of which is part of every cause.
    accepted: Vec<usize>,
}

/// Faults that reproduce the dump up to the departing stage.
struct Candidate {
    faults: Vec<usize>,
    unexplained_from: Option<Stage>,
}

impl<'a> Search<'a> {
    /// `None` without a table. `departs` says which tensors are neither within tolerance nor accepted.
    pub fn new(
        case: &'a Case,
        rules: &'a Rules,
        dump: &BTreeMap<&'a str, &'a Tensor>,
        departs: impl Fn(&str) -> bool,
        accepted: &[usize],
    ) -> Option<Self> {
        let table = case.table.as_ref()?;
        let known = dump.iter().filter(|(name, _)| table.knows(name) && rules.has_signature(name));
        let observed =
            known.filter_map(|(&name, tensor)| Some((name, (Stage::of(name)?.0, Observed::of(tensor), departs(name)))));
        let elements = case.keys().filter_map(|key| Some((key, case.golden(key)?.values().len())));
        Some(Self {
            rules,
            table,
            observed: observed.collect(),
            elements: elements.collect(),
            accepted: accepted.into(),
        })
    }

    /// The faults that reproduce the dump up to its first departing stage, those first that explain most.
    pub fn run(&self) -> Option<Cause> {
        let stage = self.observed.values().filter(|(_, _, departs)| *departs).map(|(stage, ..)| *stage).min()?;
        let single = (0..self.table.faults.len()).filter(|_| self.accepted.is_empty()).filter_map(|fault| {
            let unexplained_from = self.single_from(fault);
            self.is_cause(unexplained_from, stage, |key| self.single_shows(fault, key))
                .then_some(Candidate { faults: vec![fault], unexplained_from })
        });
        let mut found: Vec<Candidate> = single.collect();
        if found.iter().all(|candidate| candidate.unexplained_from.is_some()) {
            let pairs = self.table.all_pairs().filter(|(_, faults)| {
                self.accepted.is_empty() || faults.iter().any(|fault| self.accepted.contains(fault))
            });
            found.extend(pairs.filter_map(|(pair, faults)| {
                let unexplained_from = self.pair_from(pair)?;
                let shows = |key: &str| faults.iter().any(|&fault| self.single_shows(fault, key));
                // What explains a part must need both.
                let both = unexplained_from.is_none() || faults.iter().all(|&fault| self.is_seen(fault, stage));
                (both && self.is_cause(unexplained_from, stage, shows))
                    .then_some(Candidate { faults: faults.to_vec(), unexplained_from })
            }));
        }
        let furthest = |c: &Candidate| (c.unexplained_from.is_none(), c.unexplained_from, usize::MAX - c.faults.len());
        let most = found.iter().map(furthest).max()?;
        found.retain(|candidate| furthest(candidate) == most);
        Some(self.named(&found))
    }

    /// How many faults are tried alone, and in pairs.
    pub fn tried(&self) -> [usize; 2] {
        [self.table.faults.len(), self.table.pairs()]
    }

    /// Whether what agrees up to here is the reason for the departure: it must be seen there.
    fn is_cause(&self, unexplained_from: Option<Stage>, stage: Stage, shows: impl Fn(&str) -> bool) -> bool {
        let departing = self.observed.iter().filter(|(_, (at, _, departs))| *at == stage && *departs);
        unexplained_from.is_none_or(|from| from > stage) && departing.into_iter().any(|(key, _)| shows(key))
    }

    /// Whether a fault changes something of a stage that departs.
    fn is_seen(&self, fault: usize, stage: Stage) -> bool {
        self.observed.iter().any(|(key, (at, _, departs))| *at == stage && *departs && self.single_shows(fault, key))
    }

    fn single_shows(&self, fault: usize, key: &str) -> bool {
        self.table.shows(fault, key, self.elements[key], self.rules.tolerance(key))
    }

    /// The first stage at which a fault does not give the dump's numbers.
    fn single_from(&self, fault: usize) -> Option<Stage> {
        let unlike = self.observed.iter().filter(|(key, (_, found, _))| {
            self.table.single(fault, key).is_some_and(|expected| !found.agrees(expected, self.rules.tolerance(key)))
        });
        unlike.map(|(_, (stage, ..))| *stage).min()
    }

    /// The same of a pair; `None` if nothing that departs is kept for pairs.
    fn pair_from(&self, pair: usize) -> Option<Option<Stage>> {
        let (mut seen, mut first) = (false, None);
        for (key, (stage, found, departs)) in &self.observed {
            let Some(agrees) = self.table.pair_agrees(pair, key, found, self.rules.tolerance(key)) else { continue };
            seen |= departs;
            if !agrees {
                first = Some(first.map_or(*stage, |first: Stage| first.min(*stage)));
            }
        }
        seen.then_some(first)
    }

    fn named(&self, found: &[Candidate]) -> Cause {
        let name = |&fault: &usize| {
            let known = &self.table.faults[fault];
            Named { id: known.id.clone(), text: known.text.clone() }
        };
        let dump_next = match found {
            [a, b, ..] => self.tells_apart(a, b),
            _ => None,
        };
        Cause::Reproduced {
            alternatives: found.iter().map(|candidate| candidate.faults.iter().map(name).collect()).collect(),
            dump_next,
            unexplained_from: found[0].unexplained_from,
        }
    }

    /// The first key that the dump lacks and in which two candidates differ.
    fn tells_apart(&self, a: &Candidate, b: &Candidate) -> Option<String> {
        let (&[a], &[b]) = (&a.faults[..], &b.faults[..]) else { return None };
        let lacking = self.elements.iter().filter(|(key, _)| !self.observed.contains_key(*key));
        let telling = lacking.filter(|&(key, &elements)| {
            self.rules.has_signature(key) && self.table.tells([a, b], key, elements, self.rules.tolerance(key))
        });
        telling.filter_map(|(key, _)| Some((Stage::of(key)?, *key))).min().map(|(_, key)| key.to_owned())
    }
}

/// What is said of a departure that no fault of the table explains.
pub(crate) struct Surroundings<'a> {
    /// Where the dump departs first.
    pub first: &'a Comparison,
    pub stage: Stage,
    /// The last stage before it that is right.
    pub agrees_at: Option<Stage>,
    /// The stages between the two, of which the dump holds nothing.
    pub between: Vec<Stage>,
}

impl Surroundings<'_> {
    pub fn cause(self, tried: [usize; 2], known: Vec<String>) -> Cause {
        let mut look_at: Vec<&str> = self.between.iter().flat_map(|&stage| operations(stage, "")).collect();
        look_at.extend(operations(self.stage, &self.first.name));
        look_at.dedup();
        Cause::Unknown { tried, known, agrees_at: self.agrees_at, look_at, not_dumped_before: self.between }
    }
}

/// What a stage computes from those before it; `key` is the tensor that departs, if it is of this stage.
fn operations(stage: Stage, key: &str) -> Option<&'static str> {
    use crate::Part::{AttentionOutput, FusedScores, Output, Probabilities, StreamScores};
    Some(match stage {
        Stage::Inputs => "which batch the implementation ran on: `in.*` of the case are its inputs",
        Stage::Embedding => "how the tables were copied from the case's `param.*`",
        Stage::Parameters => "how the parameters were copied from the case's `param.*`, and whether any is transposed",
        Stage::EncoderInput => "the item look-up and its LayerNorm (nothing else enters the encoder), and dropout",
        Stage::PooledAttributes => "the attribute look-up and the pooling of its tokens, padding tokens left out",
        Stage::Layer(0, StreamScores) => {
            "the query and key projections of each stream, their biases, how heads are split, and position vectors"
        }
        Stage::Layer(_, StreamScores) => {
            "the query and key projections of this layer; positions and attributes enter every layer unchanged"
        }
        Stage::Layer(_, FusedScores) => "the fusion of the streams, in the order attributes, item, position",
        Stage::Layer(_, Probabilities) => {
            "the scale (√ of the item head size), the mask (after the fusion), the softmax over keys, and dropout"
        }
        Stage::Layer(_, AttentionOutput) => {
            "the value projection (of items alone), the product with the probabilities, how heads are merged, the dense \
             layer, dropout, the residual, and the LayerNorm behind it"
        }
        Stage::Layer(_, Output) => {
            "the feed-forward network: two layers, the activation between them, dropout, the residual, and the LayerNorm \
             behind it"
        }
        Stage::SequenceOutput => {
            "which layer and which position the output is taken from (the last layer, position len − 1), and that nothing \
             stands between"
        }
        Stage::Scores => {
            "the product with the item embedding: all items, the padding item included, no bias, no scale, no mask"
        }
        Stage::Losses if key == "out.loss.item" => {
            "the item loss: softmax over all items, item 0 included, mean of rows"
        }
        Stage::Losses if key.starts_with("out.loss.attribute.") => {
            "the attribute loss: binary cross-entropy from logits, labels that count tokens of the target item, the mean \
             over rows and tokens without token 0"
        }
        Stage::Losses => "the total loss: the item loss, and each attribute's times its weight in `lamdas`",
        Stage::Gradients => "what is detached, and which loss the gradients are of",
        Stage::OptimizerSteps => {
            "the optimizer (Adam with the case's learning_rate, betas 0.9 and 0.999, eps 1e-8, no weight decay, no \
             clipping), and what it trains: all parameters but the attribute tables"
        }
    })
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reproduced { alternatives, dump_next, unexplained_from } => {
                let each: Vec<String> = alternatives.iter().map(|faults| together(faults)).collect();
                if each.len() > 1 {
                    write!(f, "one of: ")?;
                }
                write!(f, "{}", each.join("; or "))?;
                match unexplained_from {
                    None => write!(f, " (reproduces every number of the dump)")?,
                    Some(stage) => write!(f, " (reproduces the dump up to here; something else shows at {stage})")?,
                }
                match dump_next {
                    Some(key) => write!(f, "; dump `{key}` to tell them apart"),
                    None if each.len() > 1 => write!(f, "; the table of this case does not tell them apart"),
                    None => Ok(()),
                }
            }
            Self::Unknown { tried: [alone, pairs], known, agrees_at, look_at, not_dumped_before } => {
                for fact in known {
                    write!(f, "{fact}; ")?;
                }
                if *alone > 0 {
                    write!(f, "none of the {alone} known faults and {pairs} pairs of them gives these numbers; ")?;
                }
                if let Some(stage) = agrees_at {
                    write!(f, "{stage} is right, so ")?;
                }
                write!(f, "look at {}", look_at.join("; at "))?;
                if let [first, rest @ ..] = &not_dumped_before[..] {
                    write!(f, "; to come closer, dump {first}")?;
                    rest.iter().try_for_each(|stage| write!(f, ", {stage}"))?;
                }
                Ok(())
            }
        }
    }
}

fn together(faults: &[Named]) -> String {
    faults.iter().map(|fault| fault.text.as_str()).collect::<Vec<_>>().join("; and ")
}
