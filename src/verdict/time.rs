//! Whether epochs and evaluations take longer than those of the recorded runs, in units of each run's own calibration.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::statistics::{mean, notch, of_runs};
use super::{Finding, Outcome, Record, Row, percent};

/// What decides about a machine's speed: times of different ones do not compare, calibrated or not.
const MACHINE: [&str; 5] = ["cpu", "gpus", "threads", "ranks", "device"];
/// What decides about how a run computes.
const PATH: [&str; 2] = ["compute_path", "precision"];

/// The section `runs.time` of an expectation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// The share by which times must grow to be a regression.
    regression: f64,
    /// The folder of the runs whose times are known, from the expectation's folder; without it those whose metrics are. Some
    /// epochs show what a training takes, so that these may be short.
    pub folder: Option<PathBuf>,
}

impl Time {
    pub const CLAIM: &str = "time";

    pub fn check(&self) -> Result<(), String> {
        match self.regression > 0.0 && self.regression.is_finite() {
            true => Ok(()),
            false => Err(format!("`runs.time.regression`: expected a share above 0, found {}", self.regression)),
        }
    }

    /// Compares the median times. `None` where runs have no calibration, or too few recorded ones are of the
    /// same machine and compute path.
    ///
    /// It fails only if the whole interval lies above the stated growth, in two of our runs at least, whose medians are known
    /// more closely than that growth: one slow run is measured once more before it counts, and a noisy machine proves nothing.
    pub fn judge(&self, reference: &[Record], ours: &[Record], error: f64, source: &str) -> Option<Finding> {
        let own = ours.first()?;
        if !ours.iter().all(|run| is_alike(run, own)) {
            return None;
        }
        let reference: Vec<&Record> = reference.iter().filter(|run| is_alike(run, own)).collect();
        let all: Vec<&Record> = ours.iter().collect();
        let row = |name, of: fn(&Record) -> Option<f64>| self.row(name, of, &reference, &all, error / 2.0);
        let mut rows: Vec<Row> =
            [row("epoch", Record::relative_epoch_time), row("evaluation", Record::relative_evaluation_time)]
                .into_iter()
                .flatten()
                .collect();
        if rows.is_empty() {
            return None;
        }
        let noise = ours.iter().map(noise).fold(0.0, f64::max);
        let noisy = noise > self.regression;
        let slow = super::worst(&rows) == Outcome::Fail;
        let outcome = match super::worst(&rows) {
            Outcome::Fail if noisy || ours.len() < 2 => Outcome::Undecided,
            Outcome::Pass if noisy => Outcome::Undecided,
            other => other,
        };
        // A row alone never says more than the finding: what must be measured again has not failed yet.
        rows.iter_mut().for_each(|row| row.outcome = row.outcome.min(outcome));
        let grown =
            rows.iter().map(|row| row.difference().unwrap_or(0.0) / row.expected).fold(f64::NEG_INFINITY, f64::max);
        let (grown, size) = (percent(grown), percent(self.regression));
        let sentence = match outcome {
            _ if noisy => format!(
                "times are known only within ±{:.1} %, too wide to judge a growth of {size}: measure more epochs, or on a \
                 quieter machine",
                100.0 * noise
            ),
            Outcome::Pass => format!("times did not grow by {size} ({grown} at most)"),
            Outcome::Undecided if slow => {
                format!("times grew by {grown} in one run: measure once more before it counts")
            }
            Outcome::Undecided => {
                format!("times changed by {grown}, which neither shows nor excludes {size}: measure more runs")
            }
            Outcome::Fail => format!("times grew by {grown}, in {} runs: more than {size}", ours.len()),
        };
        Some(Finding { claim: Self::CLAIM, source: source.to_owned(), outcome, sentence, rows })
    }

    fn row(
        &self,
        name: &str,
        of: fn(&Record) -> Option<f64>,
        reference: &[&Record],
        ours: &[&Record],
        error: f64,
    ) -> Option<Row> {
        // Times vary by factors, so that logarithms have the even spread that the statistics need.
        let logs = |runs: &[&Record]| runs.iter().map(|run| of(run).map(f64::ln)).collect::<Option<Vec<f64>>>();
        let (reference, ours) = (logs(reference)?, logs(ours)?);
        let difference = of_runs(&reference, &ours, 0.0, error)?;
        let (expected, size) = (mean(&reference), self.regression.ln_1p());
        // Each run by itself, too: one slow run is no regression that a fast one does not show.
        let outcome = if difference.low > size && ours.iter().all(|run| run - expected > size) {
            Outcome::Fail
        } else if difference.high <= size {
            Outcome::Pass
        } else {
            Outcome::Undecided
        };
        let expected = expected.exp();
        Some(Row {
            name: format!("median {name} / calibration"),
            ours: Some(expected * difference.estimate.exp()),
            expected,
            allowed: expected * self.regression,
            interval: Some([difference.low, difference.high].map(|log| expected * log.exp_m1())),
            p: Some(difference.p),
            outcome,
            one_sided: true,
            decimals: 2,
        })
    }
}

/// Whether two runs computed in the same way on the same kind of machine, each from its begin to its end.
fn is_alike(a: &Record, b: &Record) -> bool {
    let stayed = |run: &Record| {
        let places = run.environment.get("resumed").and_then(Value::as_array);
        places.into_iter().flatten().all(|at| MACHINE.iter().all(|key| at.get(key) == run.environment.get(*key)))
    };
    stayed(a)
        && stayed(b)
        && MACHINE.iter().all(|key| a.environment(key) == b.environment(key))
        && PATH.iter().all(|key| a.config.get(*key) == b.config.get(*key))
}

/// How well a run's relative times are known, as a share of them: the notch of its median calibration, and that of its epochs
/// or evaluations.
fn noise(run: &Record) -> f64 {
    notch(&run.calibration_seconds).hypot(notch(&run.epoch_seconds).max(notch(&run.evaluation_seconds)))
}
