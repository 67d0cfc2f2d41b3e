//! Why a dump departs: the faults whose signatures are the dump's numbers.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::context::Context;
use crate::rules::Rules;
use crate::table::{Observed, Table, allowed};
use crate::{Case, Config, Stage, Tensor};

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
        /// Whether it would tell each from each, not some alone.
        #[serde(skip)]
        tells_all: bool,
        /// Whether the same dump would tell them apart, were it computed in float64.
        #[serde(skip_serializing_if = "is_false")]
        float64_tells: bool,
        /// Whether they fit within tolerance, but no closer: another size of the same fault may be nearer.
        #[serde(skip_serializing_if = "is_false")]
        nearly: bool,
        /// Whether the dump is of float32, whose rounding under a fault may be more than the tolerance.
        #[serde(skip)]
        float32: bool,
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
    /// The names of faults that do the same in this case, which `text` describes too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub twins: Vec<String>,
}

fn is_false(value: &bool) -> bool {
    !value
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
    /// The largest gap between the dump and what they give, before that stage, in parts of what is allowed.
    gap: f64,
}

/// A fault explains a departing tensor that lies nearer to what the fault makes of it than to what is right, by this
/// factor at least. Without it, small faults would pass for each other wherever they are within tolerance of each other.
const NEARER: f64 = 0.5;
/// Of the faults that explain a dump, those are told together whose gap is at most so many times the smallest: rounding
/// decides between them.
const ALIKE: f64 = 10.0;
/// A gap that another order of the same float64 operations may have, in parts of what is allowed.
const ROUNDING: f64 = 1e-3;
/// What rounding leaves of the right fault's gap, in parts of what is allowed: sums of many errors are far below their
/// bound, and attribute losses in pure float64 move the largest parameter by half of it at most (golden README).
const CLOSE: f64 = 0.5;

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

    /// The faults that reproduce the dump up to its first departing stage: of all that do those that explain most, and of
    /// these the nearest.
    pub fn run(&self) -> Option<Cause> {
        let stage = self.observed.values().filter(|(_, _, departs)| *departs).map(|(stage, ..)| *stage).min()?;
        let alone = (0..self.table.faults.len()).filter(|_| self.accepted.is_empty());
        let mut found: Vec<Candidate> = alone.filter_map(|fault| self.alone(fault, stage)).collect();
        // Of pairs the table keeps nothing behind the losses.
        if found.iter().all(|candidate| candidate.unexplained_from.is_some_and(|from| from < Stage::Gradients)) {
            let pairs = self.table.all_pairs().filter(|(_, faults)| {
                self.accepted.is_empty() || faults.iter().any(|fault| self.accepted.contains(fault))
            });
            found.extend(pairs.filter_map(|(pair, faults)| self.together(pair, faults, stage)));
        }
        let furthest = |c: &Candidate| (c.unexplained_from.is_none(), c.unexplained_from, usize::MAX - c.faults.len());
        let most = found.iter().map(furthest).max()?;
        found.retain(|candidate| furthest(candidate) == most);
        let nearest = found.iter().map(|candidate| candidate.gap).fold(f64::INFINITY, f64::min);
        found.retain(|candidate| candidate.gap <= ROUNDING.max(ALIKE * nearest));
        Some(self.named(&found))
    }

    fn alone(&self, fault: usize, stage: Stage) -> Option<Candidate> {
        let gap = |key: &str, found: &Observed| {
            let expected = self.table.single(fault, key)?;
            Some((found.gap(expected), allowed(expected, self.rules.tolerance(key))))
        };
        self.candidate(vec![fault], stage, gap)
    }

    fn together(&self, pair: usize, faults: [usize; 2], stage: Stage) -> Option<Candidate> {
        let gap = |key: &str, found: &Observed| {
            let allowed = self.rules.tolerance(key).bound(found.largest());
            Some((self.table.pair_gap(pair, key, found)?, allowed))
        };
        let candidate = self.candidate(faults.to_vec(), stage, gap)?;
        // What explains a part must need both, and one projection in float32 is no evidence.
        let both = !self.is_float32() && faults.iter().all(|&fault| self.is_seen(fault, stage));
        (candidate.unexplained_from.is_none() || both).then_some(candidate)
    }

    /// Faults as the reason for the departure at `stage`, if they are. `gap` is how far a tensor is from what they make of
    /// it, and how far it may be; `None` where rounding alone decides, or nothing is kept.
    fn candidate(
        &self,
        faults: Vec<usize>,
        stage: Stage,
        gap: impl Fn(&str, &Observed) -> Option<(f64, f64)>,
    ) -> Option<Candidate> {
        let (mut gaps, mut to_faults, mut to_golden, mut seen) = (Vec::new(), 0.0, 0.0, false);
        for (key, (at, found, departs)) in &self.observed {
            let departs_first = *departs && *at == stage;
            let Some((gap, allowed)) = gap(key, found) else { continue };
            gaps.push((*at, if gap == 0.0 { 0.0 } else { gap / allowed }));
            if departs_first {
                let golden = self.table.golden(key)?;
                let unit = self.rules.tolerance(key).bound(golden[2]);
                seen = true;
                to_faults += (gap / unit).powi(2);
                to_golden += (found.gap(golden) / unit).powi(2);
            }
        }
        let unexplained_from = gaps.iter().filter(|(_, gap)| *gap > 1.0).map(|(at, _)| *at).min();
        let explained = |at: Stage| unexplained_from.is_none_or(|from| at < from);
        let nearer = to_faults <= NEARER.powi(2) * to_golden;
        let gap = gaps.into_iter().filter(|(at, _)| explained(*at)).map(|(_, gap)| gap).fold(0.0, f64::max);
        (seen && nearer && explained(stage)).then_some(Candidate { faults, unexplained_from, gap })
    }

    /// How many faults are tried alone, and in pairs.
    pub fn tried(&self) -> [usize; 2] {
        [self.table.faults.len(), self.table.pairs()]
    }

    /// Whether a fault changes something of a stage that departs.
    fn is_seen(&self, fault: usize, stage: Stage) -> bool {
        self.observed.iter().any(|(key, (at, _, departs))| *at == stage && *departs && self.shows(fault, key))
    }

    fn named(&self, found: &[Candidate]) -> Cause {
        let name = |&fault: &usize| {
            let known = &self.table.faults[fault];
            Named { id: known.id.clone(), text: known.text.clone(), twins: known.twins.clone() }
        };
        // Where rounding does not decide between two sizes of a fault, it does not between them and others.
        let undecided = self.is_float32() || found.iter().all(|candidate| candidate.gap > 10.0 * ROUNDING);
        let advice = if found.len() > 1 { self.tells_apart(found) } else { None };
        Cause::Reproduced {
            alternatives: found.iter().map(|candidate| candidate.faults.iter().map(name).collect()).collect(),
            dump_next: advice.as_ref().map(|(key, _)| key.clone()),
            tells_all: advice.is_some_and(|(_, all)| all),
            float64_tells: found.len() > 1 && self.in_float64_told(found),
            nearly: found.len() > 1 && undecided || found.iter().all(|candidate| candidate.gap > CLOSE),
            float32: self.is_float32(),
            unexplained_from: found[0].unexplained_from,
        }
    }

    fn shows(&self, fault: usize, key: &str) -> bool {
        self.table.shows(fault, key, self.elements[key], self.rules.tolerance(key))
    }

    /// The first key that the dump lacks of those that tell most of the candidates apart, and whether it tells all.
    fn tells_apart(&self, found: &[Candidate]) -> Option<(String, bool)> {
        let faults: Option<Vec<usize>> = found.iter().map(Candidate::fault).collect();
        let faults = faults?;
        let lacking =
            self.elements.keys().filter(|key| !self.observed.contains_key(*key) && self.rules.has_signature(key));
        let kinds = lacking.filter_map(|&key| {
            let tells =
                |a: usize, b: usize| self.table.tells([a, b], key, self.elements[key], self.rules.tolerance(key));
            let mut kinds: Vec<usize> = Vec::new();
            for &fault in &faults {
                if kinds.iter().all(|&other| tells(fault, other)) {
                    kinds.push(fault);
                }
            }
            Some((kinds.len(), Stage::of(key)?, key)).filter(|(kinds, ..)| *kinds > 1)
        });
        let best = kinds.min_by_key(|&(kinds, stage, key)| (usize::MAX - kinds, stage, key))?;
        Some((best.2.to_owned(), best.0 == faults.len()))
    }

    fn is_float32(&self) -> bool {
        self.rules.in_float64().is_some()
    }

    /// Whether a dump of float32 would tell the candidates apart in float64.
    fn in_float64_told(&self, found: &[Candidate]) -> bool {
        let Some(exact) = self.rules.in_float64() else { return false };
        let told = |a: &Candidate, b: &Candidate| {
            let (Some(a), Some(b)) = (a.fault(), b.fault()) else { return false };
            self.observed.keys().any(|key| self.table.tells([a, b], key, self.elements[key], exact.tolerance(key)))
        };
        found.windows(2).all(|pair| told(&pair[0], &pair[1]))
    }
}

impl Candidate {
    /// The fault, if it is one.
    fn fault(&self) -> Option<usize> {
        if let [fault] = self.faults[..] { Some(fault) } else { None }
    }
}

/// What is said of a departure that no fault of the table explains: `tried` are the faults and pairs of the table, `between` the
/// stages behind the last right one, `agrees_at`, of which the dump holds nothing.
pub(crate) fn unknown(
    context: &Context<'_>,
    tried: [usize; 2],
    agrees_at: Option<Stage>,
    between: Vec<Stage>,
) -> Cause {
    let config = &context.case.config;
    let mut look_at: Vec<&str> = between.iter().flat_map(|&stage| operations(stage, "", config)).collect();
    look_at.extend(operations(context.stage, &context.first.name, config));
    look_at.dedup();
    Cause::Unknown { tried, known: context.known(), agrees_at, look_at, not_dumped_before: between }
}

/// What a stage of a case of this configuration computes from those before it; `key` is the tensor that departs, if it is of
/// this stage.
fn operations(stage: Stage, key: &str, config: &Config) -> Option<&'static str> {
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
        Stage::Losses if config.loss_type == "BPR" => {
            "the loss, which is BPR alone: the mean of −ln(σ(score of the positive − score of the negative) + 1e-10), no \
             attribute loss"
        }
        Stage::Losses if key == "out.loss.item" => {
            "the item loss: softmax over all items, item 0 included, mean of rows"
        }
        Stage::Losses if key.starts_with("out.loss.attribute.") => {
            "the attribute loss: binary cross-entropy from logits, labels that count tokens of the target item, the mean \
             over rows and tokens without token 0"
        }
        Stage::Losses if !config.predicts_attributes() => {
            "the total loss, which is the item loss alone: the case predicts no attributes"
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
            Self::Reproduced {
                alternatives,
                dump_next,
                tells_all,
                float64_tells,
                nearly,
                float32,
                unexplained_from,
            } => {
                let each: Vec<String> = alternatives.iter().map(|faults| together(faults)).collect();
                if each.len() > 1 {
                    write!(f, "one of: ")?;
                }
                write!(f, "{}", each.join("; or "))?;
                match unexplained_from {
                    None if *nearly => {
                        write!(f, " (close to every number of the dump; one like it, of another size, may be closer)")?;
                    }
                    None if alternatives.iter().all(|faults| faults.len() > 1) => {
                        write!(f, " (reproduces every number of the dump up to its losses)")?;
                    }
                    None => write!(f, " (reproduces every number of the dump)")?,
                    Some(stage) => {
                        let or = if *float32 { ", or float32's rounding" } else { "" };
                        write!(f, " (reproduces the dump up to here; something else{or} shows at {stage})")?;
                    }
                }
                match dump_next {
                    Some(key) if *tells_all => write!(f, "; dump `{key}` to tell them apart"),
                    Some(key) => write!(f, "; dump `{key}` to tell some of them apart"),
                    None if *float64_tells => write!(f, "; compute in float64 to tell them apart"),
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
