//! Why a dump departs from a case that has no table of causes: the case is computed again with each known fault planted.

use std::collections::BTreeMap;
use std::mem::discriminant;

use judge::{Cause, Dump, Judge, Named, Report, Stage};
use tch::Kind;

use super::fault::Fault;
use super::what_if::WhatIf;
use super::{Case, judge_of, to_judge};
use crate::Result;

/// Holds a dump to a case as [`Judge::judge`] does, and looks for the cause where the judge has no table.
///
/// # Errors
/// As [`Judge::judge`].
pub fn against(case: &Case, judge: &Judge<'_>, dump: &Dump) -> Result<Report> {
    let mut report = judge.judge(dump)?;
    let Some(departure) = &mut report.departure else { return Ok(report) };
    let search = Search { case, dump, stage: departure.stage, judge: judge_of(case, Kind::Double) };
    if let Cause::Unknown { tried, .. } = &mut departure.cause
        && case.judged.faults().next().is_none()
    {
        match search.run()? {
            Some(cause) => departure.cause = cause,
            None => *tried = [Fault::all(case).len(), 0],
        }
    }
    Ok(report)
}

/// What a search is about.
struct Search<'a> {
    case: &'a Case,
    dump: &'a Dump,
    /// Where the dump departs first.
    stage: Stage,
    judge: Judge<'a>,
}

impl Search<'_> {
    /// The first fault that reproduces the dump up to the departing stage, or else the first two; of several the one that
    /// explains most.
    fn run(&self) -> Result<Option<Cause>> {
        let all = Fault::all(self.case);
        let singles: Vec<Vec<Fault>> = all.iter().map(|&fault| vec![fault]).collect();
        let pairs = all.iter().enumerate().flat_map(|(i, &a)| all[i + 1..].iter().map(move |&b| vec![a, b]));
        let pairs: Vec<_> = pairs.filter(|pair| discriminant(&pair[0]) != discriminant(&pair[1])).collect();
        // Faults that show no earlier than in training are few and far apart: pairs of them would cost seconds.
        let pairs = if self.trains() { Vec::new() } else { pairs };
        for candidates in [singles, pairs] {
            let mut found = None;
            for faults in candidates {
                if !self.reproduces(&faults)? {
                    continue;
                }
                let from = self.unexplained_from(&faults)?;
                let better = |&(_, most): &(Vec<Fault>, Option<Stage>)| further(from) > further(most);
                if found.as_ref().is_none_or(better) {
                    found = Some((faults, from));
                }
            }
            if let Some((faults, unexplained_from)) = found {
                let named = |fault: &Fault| Named { id: fault.id(self.case), text: fault.describe(self.case) };
                let alternatives = vec![faults.iter().map(named).collect()];
                return Ok(Some(Cause::Reproduced { alternatives, dump_next: None, unexplained_from }));
            }
        }
        Ok(None)
    }

    fn trains(&self) -> bool {
        self.stage >= Stage::Gradients
    }

    /// Whether faults give the dump's numbers up to the departing stage, with attribute labels of either kind.
    fn reproduces(&self, faults: &[Fault]) -> Result<bool> {
        for labels in [Kind::Float, Kind::Double] {
            let what_if = WhatIf::new(self.case, faults, labels);
            let explained = |from: Option<Stage>, last: Stage| from.is_none_or(|from| from > last);
            let forward = self.departs_from(&what_if.forward(), self.stage.min(Stage::Losses))?;
            // Training takes longer, and few faults are unseen before.
            if explained(forward, self.stage.min(Stage::Losses))
                && (!self.trains() || explained(self.departs_from(&what_if.train(), self.stage)?, self.stage))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first stage in which the dump departs from what the faults predict, under the kind of labels that explains most.
    fn unexplained_from(&self, faults: &[Fault]) -> Result<Option<Stage>> {
        let mut first = Vec::new();
        for labels in [Kind::Float, Kind::Double] {
            first.push(self.departs_from(&WhatIf::new(self.case, faults, labels).train(), Stage::OptimizerSteps)?);
        }
        Ok(first.into_iter().max_by_key(|&stage| further(stage)).flatten())
    }

    /// The first stage up to `last` in which the dump departs from the case with other numbers.
    fn departs_from(&self, predicted: &BTreeMap<String, tch::Tensor>, last: Stage) -> Result<Option<Stage>> {
        let mut other = self.case.judged.clone();
        for (name, tensor) in &mut other.tensors {
            if let Some(predicted) = predicted.get(name) {
                *tensor = to_judge(predicted);
            }
        }
        let up_to = |name: &str| Stage::of(name).is_some_and(|(stage, _)| stage <= last);
        let kept = self.dump.tensors.iter().filter(|(name, _)| up_to(name) && other.tensors.contains_key(*name));
        let kept: Dump = kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        if kept.tensors.is_empty() {
            return Ok(None);
        }
        Ok(self.judge.clone().held_to(&other).first_departure(&kept)?)
    }
}

/// Sorts by how much is explained: everything most.
fn further(from: Option<Stage>) -> (bool, Option<Stage>) {
    (from.is_none(), from)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn gate() -> Case {
        tch::set_num_threads(1);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gate");
        Case::load(&path).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The faults that are found in the case computed with these.
    fn found(case: &Case, faults: &[Fault]) -> Vec<String> {
        let tensors = WhatIf::new(case, faults, Kind::Double).train();
        let dump: Dump = tensors.iter().map(|(name, tensor)| (name.clone(), to_judge(tensor))).collect();
        let report = against(case, &judge_of(case, Kind::Double), &dump).unwrap_or_else(|e| panic!("{e}"));
        match report.departure.unwrap_or_else(|| panic!("{faults:?} departs")).cause {
            Cause::Reproduced { alternatives, unexplained_from: None, .. } => {
                alternatives.concat().into_iter().map(|fault| fault.id).collect()
            }
            other => panic!("{faults:?}: {other}"),
        }
    }

    #[test]
    fn every_fault_is_told_from_all_others() {
        let case = gate();
        for fault in Fault::all(&case) {
            assert_eq!(found(&case, &[fault]), [fault.id(&case)], "{}", fault.describe(&case));
        }
    }

    #[test]
    fn two_faults_that_show_in_one_stage_are_found_together() {
        let (case, pair) = (gate(), [Fault::PositionAddedToInput, Fault::LayerNormEps(1e-5)]);
        assert_eq!(found(&case, &pair), pair.map(|fault| fault.id(&case)));
    }
}
