//! The run folder: all evidence of a run. It is only ever appended to, and files are replaced atomically.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::environment::Environment;
use super::events::EventFile;
use super::{BatchLosses, Calibration};
use crate::config::{Loss, Predictor, RunConfig};
use crate::tensors::replace;
use crate::{Error, Result};

/// A folder with `config.yaml`, `environment.json`, `calibration.jsonl`, `log.txt`, `losses.tsv`, `metrics.jsonl`,
/// TensorBoard's events, `best.safetensors`, `ranks.tsv` and `result.json`.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    log: File,
    losses: File,
    metrics: File,
    calibrations: File,
    events: EventFile,
}

impl RunFolder {
    /// Makes `path`, or `checkpoint_dir/<dataset>-<date>-<time>`, and writes what is known before the run.
    ///
    /// # Errors
    /// A folder that exists and is not empty: nothing of another run is overwritten.
    pub fn create(path: Option<PathBuf>, config: &RunConfig) -> Result<Self> {
        let path = match path {
            Some(path) => fs::create_dir_all(&path).map(|()| path.clone()).map_err(|e| cannot_make(&path, e))?,
            None => new_folder(config)?,
        };
        let mut entries = fs::read_dir(&path).map_err(|e| Error::io(&path, "read the run folder", e))?;
        if entries.next().is_some() {
            return Err(Error::new("expected a new or empty folder, found files in it")
                .at(&path)
                .hint("choose another place with --out: runs are never overwritten"));
        }
        replace(&path.join("config.yaml"), config.to_yaml().as_bytes())?;
        let file = |name: &str| append(&path.join(name));
        let (log, losses, metrics) = (file("log.txt")?, file("losses.tsv")?, file("metrics.jsonl")?);
        let (calibrations, events) = (file("calibration.jsonl")?, EventFile::create(&path)?);
        let mut folder = Self { log, losses, metrics, calibrations, events, path };
        // Without a predictor, and under BPR, there are no attribute losses.
        let predicts = config.model.attribute_predictor == Predictor::Linear && config.model.loss_type == Loss::Ce;
        let attributes = config.data.selected_features.iter().map(String::as_str).filter(|_| predicts);
        let header: Vec<&str> = ["epoch", "batch", "total", "item"].into_iter().chain(attributes).collect();
        folder.loss_line(&header.join("\t"))?;
        folder.write_json("environment.json", &Environment::here(config))?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The best model so far.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// Appends a line to `log.txt`.
    pub fn log(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}").map_err(|e| Error::io(self.path.join("log.txt"), "append to the log", e))
    }

    /// Appends the losses of a batch to `losses.tsv`, in the shortest form that tells any two float32 values apart.
    pub fn losses(&mut self, epoch: usize, batch: usize, losses: &BatchLosses) -> Result<()> {
        let BatchLosses { total, item, attributes } = losses;
        let losses = [total, item].into_iter().chain(attributes).map(|&loss| (loss as f32).to_string());
        let line: Vec<String> = [epoch, batch].iter().map(usize::to_string).chain(losses).collect();
        self.loss_line(&line.join("\t"))
    }

    fn loss_line(&mut self, line: &str) -> Result<()> {
        writeln!(self.losses, "{line}").map_err(|e| Error::io(self.path.join("losses.tsv"), "append losses", e))
    }

    /// Appends a JSON line to `metrics.jsonl`.
    pub fn metrics(&mut self, line: &impl Serialize) -> Result<()> {
        let line = serde_json::to_string(line).expect("metrics are JSON");
        writeln!(self.metrics, "{line}").map_err(|e| Error::io(self.path.join("metrics.jsonl"), "append metrics", e))
    }

    /// Appends a line to `calibration.jsonl`.
    pub fn calibration(&mut self, calibration: &Calibration) -> Result<()> {
        let line = serde_json::to_string(calibration).expect("seconds are JSON");
        writeln!(self.calibrations, "{line}")
            .map_err(|e| Error::io(self.path.join("calibration.jsonl"), "append a calibration", e))
    }

    /// Appends values at an epoch to TensorBoard's events.
    pub fn scalars(&mut self, epoch: usize, values: impl IntoIterator<Item = (String, f64)>) -> Result<()> {
        self.events.scalars(epoch, values)
    }

    /// Writes one of the folder's JSON files.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).expect("results are JSON");
        replace(&self.path.join(name), format!("{text}\n").as_bytes())
    }
}

/// Makes `checkpoint_dir/<dataset>-<date>-<time>`; runs that start in the same second get `-2`, `-3`, … behind it.
fn new_folder(config: &RunConfig) -> Result<PathBuf> {
    let parent = &config.run.checkpoint_dir;
    fs::create_dir_all(parent).map_err(|e| cannot_make(parent, e))?;
    let name = format!("{}-{}", config.data.dataset, jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S"));
    let mut number = 1;
    loop {
        let path = parent.join(if number == 1 { name.clone() } else { format!("{name}-{number}") });
        // Whoever makes it owns it.
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(cannot_make(&path, e)),
        }
    }
}

fn cannot_make(path: &Path, e: std::io::Error) -> Error {
    Error::io(path, "make the run folder", e).hint("choose another place with --out or checkpoint_dir")
}

fn append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|e| Error::io(path, "open the file", e))
}
