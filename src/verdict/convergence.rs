//! How fast runs converge: epochs until `valid_metric` reaches a target.

use serde::Deserialize;

use super::statistics::{mean, of_runs};
use super::{Finding, Outcome, Record, Row};

/// The section `runs.convergence` of an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convergence {
    /// Of `valid_metric`, which every recorded run reaches.
    target: f64,
    /// What is near: a share of the recorded runs' epochs.
    margin: f64,
}

impl Convergence {
    /// Checks the section against the recorded runs.
    pub fn check(&self, reference: &[Record]) -> Result<(), String> {
        let Self { target, margin } = self;
        if !(*target > 0.0 && *target < 1.0 && *margin > 0.0 && margin.is_finite()) {
            return Err(format!(
                "`runs.convergence`: expected a target between 0 and 1 and a margin above 0, found {target} and {margin}"
            ));
        }
        if let Some(run) = reference.iter().find(|run| !run.is_whole()) {
            return Err(format!(
                "`runs.convergence`: expected recorded runs from the first epoch on, found seed {}, which was begun from \
                 another run's state",
                run.seed
            ));
        }
        match reference.iter().find(|run| run.reaches(*target).is_none()) {
            None => Ok(()),
            Some(run) => Err(format!(
                "`runs.convergence.target`: expected a {} that every recorded run reaches, found {target}, which seed {} \
                 does not",
                run.valid_metric, run.seed
            )),
        }
    }

    /// Compares the epochs.
    pub fn judge(&self, reference: &[Record], ours: &[Record], error: f64, source: &str) -> Finding {
        let reach = |runs: &[Record]| runs.iter().map(|run| run.reaches(self.target)).collect::<Option<Vec<_>>>();
        let name = format!("epochs to valid {} of {}", reference[0].valid_metric, self.target);
        let finding = |outcome, what: String, rows| Finding {
            claim: "convergence",
            source: source.to_owned(),
            outcome,
            sentence: format!("{name}: {what}"),
            rows,
        };
        if let Some(run) = ours.iter().find(|run| run.valid_metric != reference[0].valid_metric) {
            let what = format!("a run was validated by {}, so that its epochs do not compare", run.valid_metric);
            return finding(Outcome::Undecided, what, Vec::new());
        }
        if ours.iter().any(|run| !run.is_whole()) {
            let what = "a run was begun from another's state, so that its epochs do not compare".to_owned();
            return finding(Outcome::Undecided, what, Vec::new());
        }
        let expected = reach(reference).expect("the target was checked against the recorded runs");
        let allowed = self.margin * mean(&expected);
        let row = Row {
            name: name.clone(),
            expected: mean(&expected),
            allowed,
            outcome: Outcome::Fail,
            decimals: 1,
            ..Row::default()
        };
        let Some(reached) = reach(ours) else {
            return finding(Outcome::Fail, "a run never reaches it, every recorded one does".to_owned(), vec![row]);
        };
        // Runs are looked at after every `eval_step` epochs, each side's own.
        let steps = reference.iter().chain(ours).map(|run| run.evaluated.first().map_or(1, |first| first + 1));
        let step = steps.max().unwrap_or(1) as f64;
        let difference = of_runs(&expected, &reached, step, error).expect("there are at least three recorded runs");
        let outcome = difference.near(allowed);
        let what = match outcome {
            Outcome::Pass => "near",
            Outcome::Undecided => "neither near nor apart from",
            Outcome::Fail => "apart from",
        };
        let ours = mean(&reached);
        let what = format!(
            "{ours:.1}, between {:.1} and {:.1} more than the recorded runs' {:.1}: {what} them",
            difference.low, difference.high, row.expected
        );
        let interval = Some([difference.low, difference.high]);
        finding(outcome, what, vec![Row { ours: Some(ours), interval, p: Some(difference.p), outcome, ..row }])
    }
}
