//! What the runs of a sweep gave: for each group its records and, once all are there, its verdict.

use std::path::PathBuf;

use serde::Serialize;

use super::{State, SweepFolder, Task};
use crate::Result;
use crate::eval::MetricValues;
use crate::verdict::statistics::{deviation, mean};
use crate::verdict::{Outcome, Record, Verdict};

/// A sweep as far as it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// In the order of the sweep.
    pub groups: Vec<GroupSummary>,
    /// The runs that are not finished.
    pub missing: Vec<Missing>,
}

/// A run that is not finished.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Missing {
    /// Which.
    #[serde(flatten)]
    pub task: Task,
    /// How far it is.
    #[serde(flatten)]
    pub state: State,
}

/// The finished runs of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupSummary {
    /// Its name.
    pub group: String,
    /// How many runs are planned.
    pub planned: usize,
    /// The metric that picks the best epoch, and configurations: `recall@10`.
    pub valid_metric: Option<String>,
    /// Its value after the best epoch, of each finished run.
    pub valid: Vec<f64>,
    /// Of the test's metrics over the finished runs.
    pub test: MetricValues,
    /// Their deviations, of two runs or more.
    pub deviation: MetricValues,
    /// The verdict on the runs once all are there; `None` before, and where nothing is expected.
    pub verdict: Option<Verdict>,
    /// Whether something is expected.
    pub is_held: bool,
    /// The finished runs.
    #[serde(skip)]
    pub records: Vec<Record>,
    /// The folders of the finished runs.
    #[serde(skip)]
    pub runs: Vec<PathBuf>,
}

impl Summary {
    /// Reads all finished runs and judges the groups of which none is missing: a verdict on the seeds that happen to be done is
    /// one that can be stopped at will.
    ///
    /// # Errors
    /// A run that is damaged, an expectation that cannot be read.
    pub fn of(folder: &SweepFolder) -> Result<Self> {
        let (mut groups, mut missing) = (Vec::new(), Vec::new());
        for (group, tasks) in folder.groups() {
            let mut runs = Vec::new();
            for &task in &tasks {
                match folder.state(task) {
                    State::Done => runs.push(folder.run(task)),
                    state => missing.push(Missing { task: task.clone(), state }),
                }
            }
            let records = runs.iter().map(|run| Record::load(run)).collect::<Result<Vec<_>>>()?;
            let expectation = folder.expectation(group)?;
            let is_held = expectation.is_some();
            let whole = expectation.filter(|_| records.len() == tasks.len());
            let metrics = records.first().map_or_else(Vec::new, |record| record.test.names().collect());
            let values = |metric| records.iter().map(|record| record.test_at(metric)).collect::<Vec<f64>>();
            let several = metrics.iter().filter(|_| records.len() > 1);
            let valid_metric = records.first().map(|record| record.valid_metric);
            let valid = |record: &Record| valid_metric.and_then(|metric| record.best_valid.get(metric));
            groups.push(GroupSummary {
                group: group.to_owned(),
                planned: tasks.len(),
                valid_metric: valid_metric.map(|metric| metric.to_string()),
                valid: records.iter().filter_map(valid).collect(),
                test: metrics.iter().map(|&metric| (metric, mean(&values(metric)))).collect(),
                deviation: several.map(|&metric| (metric, deviation(&values(metric)))).collect(),
                verdict: whole.map(|expectation| expectation.verdict(&records)),
                is_held,
                records,
                runs,
            });
        }
        Ok(Self { groups, missing })
    }

    /// The worst verdict; `None` where nothing was judged.
    pub fn outcome(&self) -> Option<Outcome> {
        self.groups.iter().filter_map(|group| Some(group.verdict.as_ref()?.outcome)).max()
    }

    /// How many runs are planned, and finished.
    pub fn counts(&self) -> (usize, usize) {
        let planned = self.groups.iter().map(|group| group.planned).sum::<usize>();
        (planned, planned - self.missing.len())
    }
}
