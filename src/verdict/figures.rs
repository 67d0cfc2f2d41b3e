//! Published figures, and the one golden run: values of which no spread is known, held to a margin stated in advance.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::statistics::mean;
use super::{Finding, Outcome, Record, Row, named, worst};
use crate::eval::MetricValues;
use crate::run_folder::LossRow;
use crate::{Error, Result};

/// The section `figures` of an expectation.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Where the values come from.
    pub source: String,
    margin: Margin,
    /// What the values are about: keys of the configuration that runs must have so.
    of: Map<String, Value>,
    /// The one run that a golden file holds; another seed is another run.
    run: Option<GoldenRun>,
    pub valid: MetricValues,
    pub test: MetricValues,
}

/// The one run that a golden file holds.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenRun {
    /// Its seed: another seed is another run.
    pub seed: i64,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch of the best evaluation, from 0.
    pub best_epoch: usize,
    /// The total loss of every batch.
    pub losses: Vec<f32>,
}

/// Batch losses beside those of a golden run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// How many were compared.
    pub compared: usize,
    /// How many of these are equal to the bit.
    pub equal: usize,
    /// The largest relative difference of the others.
    pub largest: f64,
}

impl Tally {
    /// Compares one more.
    pub fn add(&mut self, ours: f32, golden: f32) {
        self.compared += 1;
        self.equal += usize::from(ours == golden);
        self.largest = self.largest.max(f64::from((ours - golden).abs()) / f64::from(golden));
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, equal, largest } = self;
        write!(f, "{equal} of {compared} the golden run's to the bit")?;
        if equal < compared { write!(f, ", the others within {largest:.1e}") } else { Ok(()) }
    }
}

/// The section's form: values in a golden file, or written out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiguresForm {
    source: String,
    margin: Margin,
    #[serde(default)]
    of: Map<String, Value>,
    /// A golden whole-run file, from the expectation's folder.
    golden: Option<PathBuf>,
    #[serde(default)]
    valid: Map<String, Value>,
    #[serde(default)]
    test: Map<String, Value>,
}

/// How far a result may lie from what is expected, either way.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Margin {
    /// For every metric, in its own unit.
    metric: f64,
    /// For the best epoch.
    epoch: Option<usize>,
}

/// The parts of a golden whole-run file that are needed here.
#[derive(Debug, Deserialize)]
struct Golden {
    valid: Vec<MetricValues>,
    test: MetricValues,
    #[serde(default)]
    batches: Vec<Batch>,
    resolved_config: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Batch {
    loss: f32,
}

impl Figures {
    /// Checks the section of the expectation at `path`, and reads the golden file that it names.
    pub fn new(form: FiguresForm, path: &Path) -> Result<Self> {
        let FiguresForm { source, margin, mut of, golden, valid, test } = form;
        let wrong =
            |problem: String| Error::new(problem).at(path).hint("correct the file; docs/verdict.md has its form");
        if !(margin.metric.is_finite() && margin.metric >= 0.0) {
            return Err(wrong(format!("`margin.metric`: expected a number of at least 0, found {}", margin.metric)));
        }
        if golden.is_some() != (valid.is_empty() && test.is_empty()) {
            return Err(wrong(
                "expected either `golden` or values under `valid` and `test`, found both or neither".into(),
            ));
        }
        let metrics = |named: Map<String, Value>| MetricValues::try_from(named).map_err(|e| e.at(path));
        let (valid, test) = (metrics(valid)?, metrics(test)?);
        if golden.is_none() && margin.epoch.is_some() {
            return Err(wrong("expected `margin.epoch` beside `golden` alone, which has a best epoch".into()));
        }
        let Some(golden) = golden else {
            return Ok(Self { source, margin, of, run: None, valid, test });
        };
        let golden_path = path.parent().unwrap_or(Path::new("")).join(golden);
        let text = fs::read_to_string(&golden_path).map_err(|e| {
            Error::io(&golden_path, "read the golden file", e)
                .hint("correct `figures.golden`, a path from the expectation's folder")
        })?;
        let golden: Golden = serde_json::from_str(&text)
            .map_err(|e| Error::new(format!("expected a golden file, found {e}")).at(&golden_path))?;
        let (run, valid) = golden.best().ok_or_else(|| {
            Error::new("expected a seed, and metrics under `valid` with their `valid_metric`, found none")
                .at(&golden_path)
        })?;
        of.extend(golden.resolved_config.get_key_value("dataset").map(|(key, value)| (key.clone(), value.clone())));
        Ok(Self { source, margin, of, run: Some(run), valid, test: golden.test })
    }

    /// Whether the values are about runs of this configuration.
    ///
    /// # Errors
    /// A key of `of` that has another value.
    pub fn check(&self, config: &Map<String, Value>) -> Result<()> {
        let Some((key, expected)) =
            self.of.iter().find(|&(key, expected)| !config.get(key).is_some_and(|own| equal(own, expected)))
        else {
            return Ok(());
        };
        let found = config.get(key).map_or("none".to_owned(), ToString::to_string);
        Err(Error::new(format!("expected runs whose `{key}` is {expected}, found {found}"))
            .hint("name the expectation of what the runs computed with --expect"))
    }

    /// Compares the runs' means with every expected value. Where the values are those of one seed, runs of others are not judged,
    /// and do not pass.
    ///
    /// # Errors
    /// As [`Figures::check`]; an expected metric that a run did not compute.
    pub fn judge(&self, runs: &[Record]) -> Result<Finding> {
        runs.iter().try_for_each(|run| self.check(&run.config).map_err(|e| e.at(&run.path)))?;
        let golden = self.run.as_ref();
        let (runs, others): (Vec<&Record>, Vec<&Record>) =
            runs.iter().partition(|run| golden.is_none_or(|own| own.seed == run.seed));
        let finding = |outcome, sentence, rows| Finding {
            claim: "figures",
            source: self.source.clone(),
            outcome,
            sentence,
            rows,
        };
        let not_judged = golden.filter(|_| !others.is_empty()).map(|own| {
            let seeds: Vec<String> = others.iter().map(|run| run.seed.to_string()).collect();
            format!("the figures are those of seed {}, and say nothing of seed {}", own.seed, seeds.join(", "))
        });
        if runs.is_empty() {
            return Ok(finding(Outcome::Undecided, not_judged.unwrap_or_default(), Vec::new()));
        }
        let mut rows = Vec::new();
        if let (Some(run), Some(allowed)) = (golden, self.margin.epoch) {
            let ours = mean(&runs.iter().map(|run| run.best_epoch as f64).collect::<Vec<_>>());
            rows.push(row("best epoch".to_owned(), ours, run.best_epoch as f64, allowed as f64, 0));
        }
        let valid: fn(&Record) -> &MetricValues = |run| &run.best_valid;
        for (split, expected, of) in [("valid", &self.valid, valid), ("test", &self.test, |run| &run.test)] {
            for run in &runs {
                let lacking = expected.names().filter(|metric| of(run).get(*metric).is_none());
                let lacking: Vec<String> = lacking.map(|metric| metric.to_string()).collect();
                if !lacking.is_empty() {
                    let lacking = lacking.join(", ");
                    return Err(Error::new(format!(
                        "expected {lacking} of the {split} part, which the run did not compute"
                    ))
                    .at(&run.path)
                    .hint("run it with this in metrics and topk, or expect something else with --expect"));
                }
            }
            // In the order of the run's metrics.
            for metric in of(runs[0]).names() {
                if let Some(expected) = expected.get(metric) {
                    let ours: Vec<f64> = runs.iter().filter_map(|run| of(run).get(metric)).collect();
                    rows.push(row(format!("{split} {metric}"), mean(&ours), expected, self.margin.metric, 4));
                }
            }
        }
        let failed = named(&rows, Outcome::Fail);
        let sentence = if failed.is_empty() {
            format!("all {} values are within their margin", rows.len())
        } else {
            format!("{} of {} values are outside their margin: {}", failed.len(), rows.len(), failed.join(", "))
        };
        Ok(match (worst(&rows), not_judged) {
            (Outcome::Pass, Some(not_judged)) => finding(Outcome::Undecided, format!("{sentence}; {not_judged}"), rows),
            (outcome, _) => finding(outcome, sentence, rows),
        })
    }

    /// How many batch losses of the run in `folder` are the golden run's to the bit, for a reader. `None` where they cannot be:
    /// another seed, and the fast path, whose dropout masks are others.
    pub fn equal_losses(&self, run: &Record, folder: &Path) -> Result<Option<String>> {
        let is_reference = run.config.get("compute_path").is_some_and(|path| path == "reference");
        let Some(golden) = self.golden_run(run.seed, is_reference) else { return Ok(None) };
        let mut tally = Tally::default();
        let losses = LossRow::read(folder)?;
        losses.iter().zip(&golden.losses).for_each(|(ours, golden)| tally.add(ours.total(), *golden));
        let (all, own) = (golden.losses.len(), losses.len());
        let of_both = if all == own { String::new() } else { format!("; it has {all}, this run {own}") };
        Ok(match tally.compared {
            0 => None,
            n if n == tally.equal && all == own => {
                Some(format!("all {all} batch losses are the golden run's to the bit"))
            }
            _ => Some(format!("batch losses: {tally}{of_both}")),
        })
    }

    /// The golden run whose batch losses a run of this seed on the reference path, or another, can be held to.
    pub fn golden_run(&self, seed: i64, is_reference: bool) -> Option<&GoldenRun> {
        self.run.as_ref().filter(|golden| is_reference && golden.seed == seed && !golden.losses.is_empty())
    }

    /// How many values are judged.
    pub fn count(&self) -> usize {
        let epoch = self.run.is_some() && self.margin.epoch.is_some();
        usize::from(epoch) + self.valid.names().count() + self.test.names().count()
    }
}

impl Golden {
    /// The best epoch, the first with the highest `valid_metric`, with its metrics.
    fn best(&self) -> Option<(GoldenRun, MetricValues)> {
        let seed = self.resolved_config.get("seed")?.as_i64()?;
        let metric = self.resolved_config.get("valid_metric")?.as_str()?.parse().ok()?;
        let mut best: Option<(usize, f64)> = None;
        for (epoch, metrics) in self.valid.iter().enumerate() {
            let score = metrics.get(metric)?;
            if best.is_none_or(|(_, highest)| score > highest) {
                best = Some((epoch, score));
            }
        }
        best.map(|(best_epoch, _)| {
            let losses = self.batches.iter().map(|batch| batch.loss).collect();
            let run = GoldenRun { seed, epochs: self.valid.len(), best_epoch, losses };
            (run, self.valid[best_epoch].clone())
        })
    }
}

/// Whether two values are equal, numbers by what they are worth: 0 is 0.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => a == b,
    }
}

fn row(name: String, ours: f64, expected: f64, allowed: f64, decimals: usize) -> Row {
    // Values are decimals of four places; half a unit of a further place absorbs their binary representation.
    let near = (ours - expected).abs() <= allowed + 5e-6;
    let outcome = if near { Outcome::Pass } else { Outcome::Fail };
    Row { name, ours: Some(ours), expected, allowed, outcome, decimals, ..Row::default() }
}
