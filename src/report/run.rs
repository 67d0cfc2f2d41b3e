//! What a report shows of a run: its record, and its curves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::eval::{MetricAt, MetricValues};
use crate::run_folder::{self, EpochLine, MetricsLine};
use crate::verdict::Record;
use crate::{Error, Result};

/// A finished run as its folder holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The run folder.
    pub folder: PathBuf,
    /// The evidence that verdicts are made from.
    pub record: Record,
    /// What each epoch's training gave.
    pub trained: BTreeMap<usize, EpochLine>,
    /// The validation's metrics after each evaluated epoch.
    pub valid: BTreeMap<usize, MetricValues>,
    /// RecBole's log.
    pub log: String,
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// A folder that is none of a finished run.
    pub fn load(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::new("expected the folder of a finished run, found none")
                .at(folder)
                .hint("a report shows curves, which records do not hold"));
        }
        let record = Record::load(folder)?;
        let log = run_folder::text(&folder.join(run_folder::LOG))?;
        let (mut trained, mut valid) = (BTreeMap::new(), BTreeMap::new());
        for line in MetricsLine::read(folder)? {
            match line {
                MetricsLine::Epoch(line) => drop(trained.insert(line.epoch, line)),
                MetricsLine::Evaluation(line) => drop(valid.insert(line.epoch, line.valid)),
            }
        }
        Ok(Self { folder: folder.to_path_buf(), record, trained, valid, log })
    }

    /// What the report calls the run: its folder.
    pub fn name(&self) -> String {
        self.folder.display().to_string()
    }

    /// A value of the training, by epoch.
    pub fn training(&self, value: fn(&EpochLine) -> f64) -> Vec<(f64, f64)> {
        self.trained.iter().map(|(&epoch, line)| (epoch as f64, value(line))).collect()
    }

    /// A metric of the validation, by epoch.
    pub fn curve(&self, metric: MetricAt) -> Vec<(f64, f64)> {
        self.valid.iter().filter_map(|(&epoch, metrics)| Some((epoch as f64, metrics.get(metric)?))).collect()
    }
}

/// Models and data sets of the runs: `SASRecD on ml-100k`.
pub(super) fn title(runs: &[Run]) -> String {
    let models = each_once(runs.iter().map(|run| text_of(run.record.config.get("model")))).join(", ");
    let datasets = each_once(runs.iter().map(|run| run.record.dataset.clone())).join(", ");
    format!("{models} on {datasets}")
}

/// Runs that are draws of one thing, different seeds of one configuration, in the order of their first. A seed that comes once
/// more, the same run named twice say, is no further draw.
pub(super) fn draws(runs: &[Run]) -> Vec<Vec<&Run>> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    for run in runs {
        let is_another_draw = |group: &&mut Vec<&Run>| {
            group[0].record.config == run.record.config && group.iter().all(|own| own.record.seed != run.record.seed)
        };
        match groups.iter_mut().find(is_another_draw) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups
}

/// The different ones, in the order of their first.
pub(super) fn each_once(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    texts.filter(|text| seen.insert(text.clone())).collect()
}

/// A value of a configuration for a reader, text without its quotes.
pub(super) fn text_of(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => Value::Null.to_string(),
    }
}
