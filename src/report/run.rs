//! What a report shows of a run: its record, and its curves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

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

#[derive(Deserialize)]
struct Line {
    epoch: usize,
    train_loss: Option<f64>,
    item_loss: Option<f64>,
    valid: Option<Metrics>,
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
        let read = |path: &Path| fs::read_to_string(path).map_err(|e| Error::io(path, "read the run", e));
        let log = read(&folder.join("log.txt"))?;
        let path = folder.join("metrics.jsonl");
        let text = read(&path)?;
        let (mut losses, mut valid) = (BTreeMap::new(), BTreeMap::new());
        for (i, line) in text.lines().enumerate() {
            let line: Line = serde_json::from_str(line).map_err(|e| {
                Error::new(format!("expected an epoch or an evaluation, found {e}"))
                    .at(&path)
                    .line(i as u64 + 1)
                    .hint("the file is damaged: use a run folder as it was written")
            })?;
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
