//! How fast runs converge: epochs until `valid_metric` reaches a target.

use serde::Deserialize;

use super::statistics::{mean, median, of_runs};
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
        match reference.iter().find(|run| run.reaches(*target).is_none()) {
            None => Ok(()),
            Some(run) => Err(format!(
                "`runs.convergence.target`: expected a {} that every recorded run reaches, found {target}, which seed {} \
                 does not",
                run.valid_metric, run.seed
            )),
        }
    }

    /// Compares the epochs; the seconds until then are told, not judged.
    pub fn judge(&self, reference: &[Record], ours: &[Record], error: f64, source: &str) -> Finding {
        let reach = |runs: &[Record]| runs.iter().map(|run| run.reaches(self.target)).collect::<Option<Vec<_>>>();
        let name = format!("epochs to valid {} of {}", reference[0].valid_metric, self.target);
        let finding = |outcome, sentence, rows| Finding {
            claim: "convergence",
            source: source.to_owned(),
            outcome,
            sentence,
            rows,
        };
        if let Some(run) = ours.iter().find(|run| run.valid_metric != reference[0].valid_metric) {
            let sentence =
                format!("{name}: a run was validated by {}, so that its epochs do not compare", run.valid_metric);
            return finding(Outcome::Undecided, sentence, Vec::new());
        }
        let expected = reach(reference).expect("the target was checked against the recorded runs");
        let epochs = |reached: &[(usize, f64)]| reached.iter().map(|&(epochs, _)| epochs as f64).collect::<Vec<f64>>();
        let seconds = |reached: &[(usize, f64)]| median(&reached.iter().map(|&(_, s)| s).collect::<Vec<f64>>());
        let allowed = self.margin * mean(&epochs(&expected));
        let mut row = Row {
            name: name.clone(),
            ours: None,
            expected: mean(&epochs(&expected)),
            allowed: Some(allowed),
            interval: None,
            p: None,
            outcome: Some(Outcome::Fail),
            one_sided: false,
            decimals: 1,
        };
        let Some(reached) = reach(ours) else {
            let sentence = format!("{name}: a run never reaches it, every recorded one does");
            return finding(Outcome::Fail, sentence, vec![row]);
        };
        // Runs are looked at after every `eval_step` epochs, each side's own.
        let steps = reference.iter().chain(ours).map(|run| run.evaluated.first().map_or(1, |first| first + 1));
        let step = steps.max().unwrap_or(1) as f64;
        let difference = of_runs(&epochs(&expected), &epochs(&reached), step, error)
            .expect("there are at least three recorded runs");
        let outcome = difference.near(allowed);
        row.ours = Some(mean(&epochs(&reached)));
        row.interval = Some([difference.low, difference.high]);
        (row.p, row.outcome) = (Some(difference.p), Some(outcome));
        let what = match outcome {
            Outcome::Pass => "near",
            Outcome::Undecided => "neither near nor apart from",
            Outcome::Fail => "apart from",
        };
        let sentence = format!(
            "{name}: {:.1}, between {:.1} and {:.1} more than the recorded runs' {:.1}: {what} them",
            mean(&epochs(&reached)),
            difference.low,
            difference.high,
            row.expected
        );
        let told = Row {
            name: "seconds until then".to_owned(),
            ours: Some(seconds(&reached)),
            expected: seconds(&expected),
            allowed: None,
            interval: None,
            p: None,
            outcome: None,
            one_sided: false,
            decimals: 1,
        };
        finding(outcome, sentence, vec![row, told])
    }
}
