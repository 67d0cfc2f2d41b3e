//! Recorded runs: what several seeds of the reference gave, and whether other runs are near them.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::convergence::Convergence;
use super::statistics::{mean, of_users};
use super::time::Time;
use super::{Finding, Outcome, Record, Row, counted, named, percent, worst};
use crate::config::RunConfig;
use crate::eval::MetricAt;
use crate::{Error, Result};

/// The section `runs` of an expectation.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    source: String,
    /// The recorded runs.
    pub records: Vec<Record>,
    /// The metrics that are compared.
    pub metrics: Vec<MetricAt>,
    /// What is near: a share of the recorded mean.
    margin: f64,
    /// The chance, at most, that runs of the reference itself fail: all metrics together.
    error: f64,
    convergence: Option<Convergence>,
    time: Option<Time>,
    /// The runs whose times are known, where they are others.
    timed: Option<Vec<Record>>,
}

/// The section's form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceForm {
    source: String,
    /// The folder of the records, from the expectation's folder.
    folder: PathBuf,
    /// The seeds that are taken of it; without them all.
    seeds: Option<Vec<i64>>,
    metrics: Vec<String>,
    margin: f64,
    error: f64,
    convergence: Option<Convergence>,
    time: Option<Time>,
}

impl Reference {
    /// Checks the section of the expectation at `path`, and reads the recorded runs.
    ///
    /// # Errors
    /// A value that the section cannot have, or recorded runs that are none.
    pub fn new(form: ReferenceForm, path: &Path) -> Result<Self> {
        let ReferenceForm { source, folder, seeds, metrics, margin, error, convergence, time } = form;
        let wrong =
            |problem: String| Error::new(problem).at(path).hint("correct the file; docs/verdict.md has its form");
        if !(margin > 0.0 && margin < 1.0) {
            return Err(wrong(format!("`runs.margin`: expected a share between 0 and 1, found {margin}")));
        }
        if !(error > 0.0 && error < 0.5) {
            return Err(wrong(format!("`runs.error`: expected a probability between 0 and 0.5, found {error}")));
        }
        if metrics.is_empty() {
            return Err(wrong("`runs.metrics`: expected at least one metric, found none".to_owned()));
        }
        let metrics: Vec<MetricAt> =
            metrics.iter().map(|name| name.parse()).collect::<Result<_>>().map_err(|e| e.at(path))?;
        if let Some(twice) = (1..metrics.len()).find(|&i| metrics[..i].contains(&metrics[i])) {
            let name = metrics[twice];
            return Err(wrong(format!("`runs.metrics`: expected different metrics, found {name} twice")));
        }
        time.iter().try_for_each(Time::check).map_err(wrong)?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let records = load_records(&beside.join(folder), seeds)?;
        let timed = time.as_ref().and_then(|time| time.folder.as_ref());
        let timed = timed.map(|folder| load_timed(&beside.join(folder), &records[0])).transpose()?;
        convergence.iter().try_for_each(|it| it.check(&records)).map_err(wrong)?;
        let without = |metric: &&MetricAt| records.iter().all(|run| run.test_at(**metric) == 0.0);
        if let Some(metric) = metrics.iter().find(without) {
            return Err(wrong(format!(
                "`runs.metrics`: expected a metric that is not 0 in all recorded runs, found {metric}"
            )));
        }
        Ok(Self { source, records, metrics, margin, error, convergence, time, timed })
    }

    /// Whether runs of this configuration can be held to the recorded ones.
    ///
    /// # Errors
    /// Another data set; where convergence is judged, another metric that picks the best epoch.
    pub fn check(&self, config: &RunConfig) -> Result<()> {
        let own = &self.records[0];
        let dataset = config.data.dataset.as_str();
        if dataset != own.dataset {
            return Err(Error::new(format!("expected runs on {}, as the recorded ones, found {dataset}", own.dataset))
                .hint("name the expectation of the runs' data set with --expect"));
        }
        let metric = config.eval.valid_metric;
        if self.convergence.is_some() && metric != own.valid_metric {
            let problem =
                format!("expected `valid_metric` to be {}, as of the recorded runs, found {metric}", own.valid_metric);
            return Err(
                Error::new(problem).hint("convergence is that of `valid_metric`: judge it by runs with the same")
            );
        }
        Ok(())
    }

    /// Whether runs are near the recorded ones, converge as fast and take no longer.
    ///
    /// # Errors
    /// Runs of other targets.
    pub fn judge(&self, runs: &[Record]) -> Result<Vec<Finding>> {
        Record::of_the_targets(&self.records[0], runs)?;
        let mut findings = vec![self.judge_metrics(runs)];
        findings.extend(self.convergence.iter().map(|it| it.judge(&self.records, runs, self.error, &self.source)));
        let timed = self.timed.as_ref().unwrap_or(&self.records);
        findings.extend(self.time.iter().filter_map(|it| it.judge(timed, runs, self.error, &self.source)));
        Ok(findings)
    }

    fn judge_metrics(&self, runs: &[Record]) -> Finding {
        let values = |runs: &[Record], metric| runs.iter().map(|run| run.of_users(metric)).collect::<Vec<_>>();
        let row = |&metric: &MetricAt| self.row(metric, &values(&self.records, metric), &values(runs, metric));
        let rows: Vec<Row> = self.metrics.iter().map(row).collect();
        let outcome = worst(&rows);
        let (recorded, error) = (self.records.len(), self.error);
        // Rounded where 100 times a share is no decimal number.
        let margin = (1e8 * self.margin).round() / 1e6;
        let names = named(&rows, outcome);
        let are = if names.len() == 1 { "is" } else { "are" };
        let names = names.join(" and ");
        let sentence = match (outcome, rows.iter().find(|row| row.outcome == outcome)) {
            (Outcome::Pass, _) | (_, None) => format!(
                "{names} of {} {are} near {recorded} recorded runs: intervals within ±{margin} % at error {error}",
                counted(runs.len(), "run"),
            ),
            (Outcome::Fail, Some(row)) => format!(
                "{} differs from {recorded} recorded runs by {}, between {}: more than chance at error {error}, and not \
                 within ±{margin} %",
                row.name,
                row.relative(row.difference()),
                row.relative_interval(),
            ),
            (Outcome::Undecided, Some(row)) => format!(
                "{} differs from {recorded} recorded runs by {}, between {}, which neither excludes chance nor lies \
                 within ±{margin} %: judge more seeds",
                row.name,
                row.relative(row.difference()),
                row.relative_interval(),
            ),
        };
        Finding { claim: "recorded runs", source: self.source.clone(), outcome, sentence, rows }
    }

    /// A metric's row, from its values `[runs][users]`.
    pub fn row(&self, metric: MetricAt, reference: &[Vec<f64>], ours: &[Vec<f64>]) -> Row {
        // All metrics together err as stated.
        let error = self.error / self.metrics.len() as f64;
        let expected = mean(&reference.iter().map(|run| mean(run)).collect::<Vec<f64>>());
        let difference = of_users(reference, ours, error).expect("there are at least three recorded runs");
        let allowed = self.margin * expected;
        Row {
            name: metric.to_string(),
            ours: Some(expected + difference.estimate),
            expected,
            allowed,
            interval: Some([difference.low, difference.high]),
            p: Some(difference.p),
            outcome: difference.near(allowed),
            decimals: 4,
            ..Row::default()
        }
    }

    /// Which of the runs share a seed with a recorded one, for a reader: they are no independent draw.
    pub fn recorded_seeds(&self, runs: &[Record]) -> Option<String> {
        let recorded = |run: &&Record| self.records.iter().any(|record| record.seed == run.seed);
        let seeds: Vec<String> = runs.iter().filter(recorded).map(|run| run.seed.to_string()).collect();
        (!seeds.is_empty())
            .then(|| format!("recorded runs have the same seed ({}): the intervals suppose another", seeds.join(", ")))
    }

    /// That times were to be judged and are not, for a reader.
    pub fn times_left_out(&self, findings: &[Finding]) -> Option<String> {
        let left_out = self.time.is_some() && findings.iter().all(|finding| finding.claim != Time::CLAIM);
        left_out.then(|| {
            "times are not judged: it takes calibrations of at least three runs, these and recorded ones, all computed alike on \
             one kind of machine"
                .to_owned()
        })
    }

    /// In which keys of the configuration runs differ from the recorded ones, for a reader.
    pub fn differences(&self, runs: &[Record]) -> Option<String> {
        let names = Record::differing(std::iter::once(&self.records[0]).chain(runs));
        (!names.is_empty())
            .then(|| format!("the configuration differs from the recorded runs' in {}", names.join(", ")))
    }
}

/// The runs of a folder whose times are known: of the recorded runs' data and configuration, but for their length.
fn load_timed(folder: &Path, own: &Record) -> Result<Vec<Record>> {
    let timed = load_records(folder, None)?;
    Record::of_the_targets(own, &timed)?;
    let mut differing = Record::differing([own, &timed[0]]);
    differing.retain(|key| key != "epochs");
    if !differing.is_empty() {
        let names = differing.join(", ");
        return Err(Error::new(format!(
            "expected times of the recorded runs' configuration but for `epochs`, found another in {names}"
        ))
        .at(folder)
        .hint("record short runs of that configuration"));
    }
    Ok(timed)
}

/// The records of a folder, all or those of some seeds, in the order of their seeds.
fn load_records(folder: &Path, seeds: Option<Vec<i64>>) -> Result<Vec<Record>> {
    let of = |seed: &i64| Record::load(&folder.join(format!("{seed}.json")));
    let mut records = match seeds {
        Some(seeds) => seeds.iter().map(of).collect::<Result<Vec<_>>>()?,
        None => Record::load_all(folder)?,
    };
    records.sort_by_key(|record| record.seed);
    if records.len() < 3 {
        return Err(Error::new(format!("expected at least three recorded runs, found {}", records.len()))
            .at(folder)
            .hint("a spread needs several seeds: record more with `dif-sr record`"));
    }
    Record::of_one_configuration(&records)?;
    Record::of_the_targets(&records[0], &records)?;
    Ok(records)
}

impl Row {
    /// Ours less what is expected.
    pub fn difference(&self) -> Option<f64> {
        self.ours.map(|ours| ours - self.expected)
    }

    fn relative(&self, difference: Option<f64>) -> String {
        difference.map_or("an unknown amount".to_owned(), |difference| percent(difference / self.expected))
    }

    fn relative_interval(&self) -> String {
        let [low, high] = self.interval.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        format!("{} and {}", percent(low / self.expected), percent(high / self.expected))
    }
}
