//! What a report shows of a run: its record, and its curves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::verdict::record::metrics_of;
use crate::verdict::{Metrics, Record};
use crate::{Error, Result};

/// A finished run as its folder holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub folder: PathBuf,
    pub record: Record,
    /// Sums of the losses over each epoch's batches: total and item.
    pub losses: BTreeMap<usize, (f64, f64)>,
    /// The validation's metrics after each evaluated epoch.
    pub valid: BTreeMap<usize, Metrics>,
    /// RecBole's log.
    pub log: String,
}

impl Run {
    /// Reads a run folder.
    pub fn load(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::new("expected the folder of a finished run, found none")
                .at(folder)
                .hint("a report shows curves, which records do not hold"));
        }
        let record = Record::load(folder)?;
        let path = folder.join("log.txt");
        let log = fs::read_to_string(&path).map_err(|e| Error::io(&path, "read the run", e))?;
        let (mut losses, mut valid) = (BTreeMap::new(), BTreeMap::new());
        for line in metrics_of(folder)? {
            if let (Some(total), Some(item)) = (line.train_loss, line.item_loss) {
                losses.insert(line.epoch, (total, item));
            }
            if let Some(metrics) = line.valid {
                valid.insert(line.epoch, metrics);
            }
        }
        Ok(Self { folder: folder.to_path_buf(), record, losses, valid, log })
    }

    /// What the report calls the run: its folder.
    pub fn name(&self) -> String {
        self.folder.display().to_string()
    }

    /// A metric of the validation, by epoch.
    pub fn curve(&self, metric: &str) -> Vec<(f64, f64)> {
        self.valid.iter().filter_map(|(&epoch, metrics)| Some((epoch as f64, metrics.get(metric)?))).collect()
    }
}
