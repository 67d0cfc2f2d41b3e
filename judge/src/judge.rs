//! Holds what an implementation computed on a case to that case, and names the first stage that departs.

use std::collections::{BTreeMap, BTreeSet};

use crate::cause::{Search, unknown};
use crate::context::Context;
use crate::error::nearest;
use crate::keys::{Keys, patterns};
use crate::outside::{self, Fact, Kind};
use crate::report::{Accepted, Departure, Missing, Report, Verdict};
use crate::rules::Rules;
use crate::stage::group;
use crate::table::Observed;
use crate::{Case, Comparison, Dtype, Dump, Error, Group, Result, Stage, Tensor};

/// What a dump must hold to be called DIF-SR: the function from a sequence to scores, the loss, its gradients, and what
/// training makes of them.
const COMPLETE: [Stage; 4] = [Stage::Scores, Stage::Losses, Stage::Gradients, Stage::OptimizerSteps];

/// Metadata: the parameters that have no gradient.
const MISSING_GRADIENTS: &str = "missing_gradients";

/// Holds dumps to a case.
///
/// ```
/// use judge::{Case, Dump, Judge, Verdict};
///
/// let case = Case::bundled("gate")?;
/// // In place of your implementation's: the case's own scores.
/// let dump: Dump = [("out.scores".to_owned(), case.tensors["out.scores"].clone())].into_iter().collect();
/// assert_eq!(Judge::of(&case).judge(&dump)?.verdict, Verdict::Incomplete);
/// assert_eq!(Judge::of(&case).require(["scores"])?.judge(&dump)?.verdict, Verdict::Pass);
/// # Ok::<(), judge::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Judge<'a> {
    case: &'a Case,
    stages: BTreeSet<Stage>,
    kinds: BTreeSet<Kind>,
    accept: Vec<Deviation>,
    float32_labels: bool,
    noise: Option<(Dtype, BTreeMap<String, f64>)>,
}

/// A deliberate deviation.
#[derive(Debug, Clone)]
struct Deviation {
    name: String,
    reason: String,
    of: What,
}

#[derive(Debug, Clone)]
enum What {
    /// A fault of the table, by its number: what it makes of every tensor is held.
    Fault(usize),
    /// A key, or a fact.
    Key,
    Stages(Vec<Stage>),
}

impl<'a> Judge<'a> {
    /// A judge that requires all that makes DIF-SR: the scores, the total loss, all gradients, and the parameters after
    /// five Adam steps.
    pub fn of(case: &'a Case) -> Self {
        let (kinds, accept) = (BTreeSet::new(), Vec::new());
        Self { case, stages: COMPLETE.into(), kinds, accept, float32_labels: false, noise: None }
    }

    /// Requires these stages, and no others: `layer.0.fused_scores`, `layers`, `scores`, `all`, …
    ///
    /// # Errors
    /// A name that is no stage and no check.
    pub fn require<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Result<Self> {
        self = self.require_nothing();
        for name in names {
            let name = name.as_ref();
            if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.id() == name) {
                self.kinds.insert(kind);
            } else if let Some(stages) = Stage::named(name, self.case.config.n_layers) {
                self.stages.extend(stages);
            } else {
                let known = self.requirable();
                let near = nearest(name, known.iter().map(String::as_str)).map_or("", |(near, _)| near);
                return Err(Error::new(format!("expected a stage to require, found `{name}`"))
                    .hint(format!("is `{near}` meant? They are {}", known.join(", "))));
            }
        }
        Ok(self)
    }

    /// Requires nothing: whatever is in the dump is judged.
    pub fn require_nothing(mut self) -> Self {
        self.stages.clear();
        self.kinds.clear();
        self
    }

    /// Takes a deviation for deliberate: a known fault by its name, behind which everything is still held; or a key, a stage or a
    /// check outside of the case (`init.item_embedding.weight`, `dropout_sites`), of which nothing is held.
    ///
    /// # Errors
    /// An unknown name, or an empty reason.
    pub fn accept(mut self, name: &str, reason: &str) -> Result<Self> {
        let table = self.case.table.as_ref();
        let outside = name.starts_with("init.") || Kind::ALL.iter().any(|kind| kind.key() == name);
        let of = if let Some(fault) = table.and_then(|table| table.find(name)) {
            What::Fault(fault)
        } else if let Some(stages) = Stage::named(name, self.case.config.n_layers) {
            What::Stages(stages)
        } else if self.case.golden(name).is_some() || outside {
            What::Key
        } else {
            let faults = table.into_iter().flat_map(|table| &table.faults).map(|fault| fault.id.as_str());
            let near = nearest(name, faults.chain(self.case.keys())).map_or("", |(near, _)| near);
            return Err(Error::new(format!("expected a fault, a stage or a key to accept, found `{name}`"))
                .hint(format!("is `{near}` meant? The report's JSON has the name of the fault that is found")));
        };
        if reason.trim().is_empty() {
            return Err(Error::new(format!("expected a reason to accept `{name}`, found none"))
                .hint("write `NAME=REASON`: the report shows it"));
        }
        self.accept.push(Deviation { name: name.to_owned(), reason: reason.to_owned(), of });
        Ok(self)
    }

    /// Says that attribute losses are summed in float32 on a processor, as the authors' are, so that nothing is allowed for that
    /// rounding.
    pub fn float32_labels(mut self) -> Self {
        self.float32_labels = true;
        self
    }

    /// How far rounding alone moves each tensor of what is computed in `dtype`, as measured by the caller: for cases with
    /// `pooling_mode: max`, whose scores near 1e18 leave what follows to rounding. Ten times as much is allowed.
    pub fn noise(mut self, dtype: Dtype, noise: BTreeMap<String, f64>) -> Self {
        self.noise = Some((dtype, noise));
        self
    }

    /// Compares every tensor of the dump that the case has.
    ///
    /// # Errors
    /// The dump has nothing that is computed and can be judged, a tensor of another shape or type, or a key that is
    /// misspelt.
    pub fn judge(&self, dump: &Dump) -> Result<Report> {
        let gradients = self.absent_gradients(dump)?;
        let dump = gradients.as_ref().unwrap_or(dump);
        let keys = Keys::sort(self.case, dump)?;
        // What was computed in float32 in one place has float32's rounding in all that follow.
        let mut tensors = self.case.tensors.values().chain(keys.known.values().copied());
        let single = tensors.any(|tensor| tensor.dtype() == Dtype::Float32);
        let noise = self.noise_of(dump, single)?;
        let dtype = if single { Dtype::Float32 } else { Dtype::Float64 };
        let rules = Rules::new(self.case, dtype, self.float32_labels, noise);
        let compared: Vec<Comparison> = (keys.known.iter())
            .filter_map(|(name, tensor)| rules.compare(name, tensor, self.case.golden(name)?))
            .collect();
        let accepted = self.accepted(&rules, &keys, &compared);
        let is_accepted = |name: &str| accepted.iter().any(|(keys, _)| keys.contains(name));
        let stages = group(compared.iter().map(|c| (c.clone(), !c.holds() && is_accepted(&c.name))));
        let mut facts = outside::facts(self.case, &rules, dump, &keys.initial).map_err(|error| error.at(&dump.path))?;
        for fact in facts.iter_mut().filter(|fact| !fact.holds) {
            fact.accepted = self.accept.iter().any(|deviation| deviation.name == fact.name);
        }
        // Copies of the case's own inputs and parameters prove nothing.
        if facts.is_empty() && stages.iter().all(|group| group.name <= Stage::Parameters && group.worst.holds()) {
            return Err(Error::new(
                "expected something that was computed (`out.*`, `grad.*`, `train.loss.*`, `after5.*`), found none",
            )
            .at(&dump.path)
            .hint("give what an implementation computes on the case"));
        }
        let not_dumped = self.not_dumped(&stages);
        let departure = self.departure(&rules, &keys, single, &stages, &not_dumped);
        let missing = self.missing(&rules, &keys, &facts);
        let broken = departure.is_some() || facts.iter().any(|fact| !fact.holds && !fact.accepted);
        Ok(Report {
            case: self.case.name.clone(),
            dump: dump.name(),
            precision: if single { "float32" } else { "float64" },
            verdict: match () {
                () if broken => Verdict::Departs,
                () if !missing.is_empty() => Verdict::Incomplete,
                () => Verdict::Pass,
            },
            evidence: keys.evidence(self.case),
            unknown: keys.foreign,
            accepted: self.reported(accepted, &facts),
            stages,
            facts,
            not_dumped,
            missing,
            departure,
        })
    }

    fn requirable(&self) -> Vec<String> {
        let stages = Stage::all(self.case.config.n_layers).into_iter().map(Stage::id);
        let groups = ["layers", "all"].into_iter().chain(Kind::ALL.map(Kind::id));
        stages.chain(groups.map(str::to_owned)).collect()
    }

    /// What rounding does to the case, where it does more than the tolerance allows.
    fn noise_of(&self, dump: &Dump, single: bool) -> Result<Option<&BTreeMap<String, f64>>> {
        let measured =
            self.noise.as_ref().filter(|(dtype, _)| (*dtype == Dtype::Float32) == single).map(|(_, noise)| noise);
        // What comes with the case was measured in float64.
        let noise = measured.or(self.case.noise.as_ref().filter(|_| !single));
        if noise.is_some() || !self.case.config.outweighs_mask() {
            return Ok(noise);
        }
        let (expected, found, hint) = match single {
            true => {
                ("float64", "float32", "its scores near 1e18 leave float32 results to rounding: compute in float64")
            }
            false => {
                ("a measure of rounding", "none", "its scores near 1e18 leave results to rounding: use `dif-sr verify`")
            }
        };
        Err(Error::new(format!("expected {expected} for a case with `pooling_mode: max`, found {found}"))
            .at(&dump.path)
            .hint(hint))
    }

    /// The dump with zeros for gradients that it says do not exist: so a step takes them. `None` if it says nothing of that.
    fn absent_gradients(&self, dump: &Dump) -> Result<Option<Dump>> {
        let Some(text) = dump.metadata.get(MISSING_GRADIENTS) else { return Ok(None) };
        let names: Vec<String> = serde_json::from_str(text).map_err(|e| {
            Error::new(format!("metadata `{MISSING_GRADIENTS}`: expected a JSON list of parameters, found: {e}"))
                .at(&dump.path)
                .hint("write it as `dif_sr.Dump` does, or leave it out")
        })?;
        let mut whole = dump.clone();
        for name in names {
            let key = format!("grad.{name}");
            if let Some(golden) = self.case.tensors.get(&key).filter(|_| !dump.tensors.contains_key(&key)) {
                whole.tensors.insert(key, golden.with(vec![0.0; golden.values().len()]));
            }
        }
        Ok(Some(whole))
    }

    /// Of each accepted deviation the keys that depart as it says, and no otherwise.
    fn accepted<'s>(
        &'s self,
        rules: &Rules,
        keys: &Keys<'_>,
        compared: &[Comparison],
    ) -> Vec<(BTreeSet<String>, &'s Deviation)> {
        let departing = || compared.iter().filter(|c| !c.holds()).map(|c| c.name.as_str());
        let faults: Vec<usize> = self.accept.iter().filter_map(|d| d.fault()).collect();
        let of = |deviation: &Deviation| -> BTreeSet<String> {
            let named = departing().filter(|name| match &deviation.of {
                What::Fault(fault) => self.is_of_fault(rules, *fault, &faults, name, keys.known[name]),
                What::Key => *name == deviation.name,
                What::Stages(stages) => Stage::of(name).is_some_and(|(stage, _)| stages.contains(&stage)),
            });
            named.map(str::to_owned).collect()
        };
        let mut accepted: Vec<_> = self.accept.iter().map(|deviation| (of(deviation), deviation)).collect();
        self.accept_what_follows(departing().collect(), &mut accepted);
        accepted
    }

    /// A table keeps a choice of a stage's keys. Those that it does not keep go with an accepted fault where all that it keeps of
    /// their stage does.
    fn accept_what_follows(&self, departing: Vec<&str>, accepted: &mut [(BTreeSet<String>, &Deviation)]) {
        let Some(table) = self.case.table.as_ref() else { return };
        let stage = |name: &str| Stage::of(name).map(|(stage, _)| stage);
        let of_fault = |name: &str, accepted: &[(BTreeSet<String>, &Deviation)]| {
            accepted.iter().position(|(keys, deviation)| deviation.fault().is_some() && keys.contains(name))
        };
        for &name in departing.iter().filter(|name| !table.knows(name)) {
            let kept = departing.iter().filter(|other| table.knows(other) && stage(other) == stage(name));
            let followed: Option<Vec<usize>> = kept.map(|other| of_fault(other, accepted)).collect();
            if let Some(&first) = followed.as_ref().and_then(|faults| faults.first()) {
                accepted[first].0.insert(name.to_owned());
            }
        }
    }

    /// Whether a tensor that departs is what an accepted fault makes of it, alone or with another accepted one.
    fn is_of_fault(&self, rules: &Rules, fault: usize, faults: &[usize], name: &str, tensor: &Tensor) -> bool {
        let Some(table) = self.case.table.as_ref().filter(|_| rules.has_signature(name)) else { return false };
        let (found, tolerance) = (Observed::of(tensor), rules.tolerance(name));
        if table.single(fault, name).is_some_and(|expected| found.agrees(expected, tolerance)) {
            return true;
        }
        let mut pairs =
            table.all_pairs().filter(|(_, pair)| pair.contains(&fault) && pair.iter().all(|f| faults.contains(f)));
        let allowed = tolerance.bound(found.largest());
        pairs.any(|(pair, _)| table.pair_gap(pair, name, &found).is_some_and(|gap| gap <= allowed))
    }

    fn reported(&self, accepted: Vec<(BTreeSet<String>, &Deviation)>, facts: &[Fact]) -> Vec<Accepted> {
        let report = |(keys, deviation): (BTreeSet<String>, &Deviation)| Accepted {
            name: deviation.name.clone(),
            reason: deviation.reason.clone(),
            text: deviation.fault().and_then(|fault| Some(self.case.table.as_ref()?.faults[fault].text.clone())),
            tensors: keys.len() + facts.iter().filter(|fact| fact.accepted && fact.name == deviation.name).count(),
        };
        accepted.into_iter().map(report).collect()
    }

    /// Stages of the case of which the dump holds nothing. Inputs are there for those who want them checked; nobody has
    /// computed them.
    fn not_dumped(&self, stages: &[Group]) -> Vec<Stage> {
        let in_case: BTreeSet<Stage> = self.case.keys().filter_map(Stage::of).map(|(stage, _)| stage).collect();
        let dumped = |stage: &Stage| stages.iter().any(|group| group.name == *stage);
        in_case.into_iter().filter(|stage| *stage != Stage::Inputs && !dumped(stage)).collect()
    }

    fn departure(
        &self,
        rules: &Rules,
        keys: &Keys<'_>,
        single: bool,
        stages: &[Group],
        not_dumped: &[Stage],
    ) -> Option<Departure> {
        let (stage, first) = stages.iter().find_map(|group| Some((group.name, group.first_departure.clone()?)))?;
        let departs = |name: &str| {
            let Some(golden) = self.case.golden(name) else { return false };
            rules.compare(name, keys.known[name], golden).is_some_and(|c| !c.holds())
        };
        let faults: Vec<usize> = self.accept.iter().filter_map(Deviation::fault).collect();
        let search = Search::new(self.case, rules, &keys.known, departs, &faults);
        let cause = search.as_ref().and_then(Search::run).unwrap_or_else(|| {
            let agrees_at = stages.iter().map(|group| group.name).take_while(|&name| name < stage).last();
            let between = not_dumped.iter().filter(|&&s| s < stage && agrees_at.is_none_or(|before| s > before));
            let context = Context { case: self.case, rules, dump: &keys.known, first: &first, stage, single };
            let tried = search.as_ref().map_or([0, 0], Search::tried);
            unknown(&context, tried, agrees_at, between.copied().collect())
        });
        Some(Departure { stage, tensor: first, cause })
    }

    /// What is required and not in the dump.
    fn missing(&self, rules: &Rules, keys: &Keys<'_>, facts: &[Fact]) -> Vec<Missing> {
        let of_stage = self.stages.iter().filter_map(|&stage| {
            let needed: Vec<&str> = self.case.keys().filter(|key| is_needed(stage, key, rules)).collect();
            let lacking: Vec<&str> = needed.iter().copied().filter(|key| !keys.known.contains_key(key)).collect();
            (!lacking.is_empty()).then(|| Missing {
                stage: stage.id(),
                missing: lacking.len(),
                needed: needed.len(),
                keys: patterns(lacking.into_iter()).into_iter().map(|(pattern, _)| pattern).collect(),
            })
        });
        let lacking = self.kinds.iter().filter(|&&kind| facts.iter().all(|fact| fact.kind != kind));
        let of_kind = lacking.map(|kind| Missing {
            stage: kind.id().to_owned(),
            missing: 1,
            needed: 1,
            keys: vec![kind.key().to_owned()],
        });
        of_stage.chain(of_kind).collect()
    }
}

impl Deviation {
    fn fault(&self) -> Option<usize> {
        if let What::Fault(fault) = self.of { Some(fault) } else { None }
    }
}

/// Whether a stage that is required needs a key: all that a stage has, but of losses the total, of optimizer steps the
/// parameters after them, and nothing that is rounding noise.
fn is_needed(stage: Stage, key: &str, rules: &Rules) -> bool {
    let of_stage = Stage::of(key).is_some_and(|(of, _)| of == stage);
    of_stage
        && match stage {
            Stage::Losses => key == "out.loss.total",
            Stage::Gradients => !rules.is_null(key),
            Stage::OptimizerSteps => key.starts_with("after5.") && !rules.is_null(key),
            _ => true,
        }
}

/// Panics with the report unless the dump is that of a DIF-SR, complete and right: for `#[test]` functions.
///
/// # Panics
/// Something departs, is missing, or cannot be judged.
#[track_caller]
pub fn assert_holds(case: &Case, dump: &Dump) {
    Judge::of(case).assert_holds(dump);
}

impl Judge<'_> {
    /// Panics with the report unless the dump holds all that is required, and all of it is right.
    ///
    /// # Panics
    /// Something departs, is missing, or cannot be judged.
    #[track_caller]
    pub fn assert_holds(&self, dump: &Dump) {
        match self.judge(dump) {
            Ok(report) if report.holds() => {}
            Ok(report) => panic!("{report}"),
            Err(error) => panic!("{error}"),
        }
    }
}
