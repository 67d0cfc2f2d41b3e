//! What a report shows of a run: its record, and its curves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::eval::{MetricAt, MetricValues};
use crate::run_folder::{self, MetricsLine};
use crate::verdict::Record;
use crate::{Error, Result};

/// A finished run as its folder holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The run folder.
    pub folder: PathBuf,
    /// The evidence that verdicts are made from.
    pub record: Record,
    /// Sums of the losses over each epoch's batches: total and item.
    pub losses: BTreeMap<usize, (f64, f64)>,
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
        let (mut losses, mut valid) = (BTreeMap::new(), BTreeMap::new());
        for line in MetricsLine::read(folder)? {
            match line {
                MetricsLine::Epoch(line) => drop(losses.insert(line.epoch, (line.train_loss, line.item_loss))),
                MetricsLine::Evaluation(line) => drop(valid.insert(line.epoch, line.valid)),
            }
        }
        Ok(Self { folder: folder.to_path_buf(), record, losses, valid, log })
    }

    /// What the report calls the run: its folder.
    pub fn name(&self) -> String {
        self.folder.display().to_string()
    }

    /// A metric of the validation, by epoch.
    pub fn curve(&self, metric: MetricAt) -> Vec<(f64, f64)> {
        self.valid.iter().filter_map(|(&epoch, metrics)| Some((epoch as f64, metrics.get(metric)?))).collect()
    }
}
