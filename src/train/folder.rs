//! The run folder: all evidence of a run. Files are appended to or replaced atomically, and nothing of another run is
//! overwritten. Only a run that goes on takes something away: the lines behind the checkpoint that it goes on from, which
//! it writes again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::environment::Environment;
use super::events::EventFile;
use super::{Calibration, RunResult};
use crate::config::{Loss, Predictor, RunConfig};
use crate::model::Losses;
use crate::tensors::replace;
use crate::{Error, Result};

/// A folder with `config.yaml`, `environment.json`, `calibration.jsonl`, `log.txt`, `losses.tsv`, `metrics.jsonl`,
/// TensorBoard's events, `last.safetensors`, `best.safetensors`, `ranks.tsv` and, once the run is finished, `result.json`.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    log: File,
    losses: File,
    metrics: File,
    calibrations: File,
    /// Begun with the first values: a run that cannot go on leaves no file.
    events: Option<EventFile>,
    resumed: bool,
    /// Held until the folder is dropped or the process ends, however it ends.
    _lock: File,
}

/// How long the files are that are appended to, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    log: u64,
    losses: u64,
    metrics: u64,
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
        let foreign = !path.join(LOCK).exists();
        let lock = lock(&path)?;
        let entries = fs::read_dir(&path).map_err(|e| Error::io(&path, "read the run folder", e))?;
        if entries.filter_map(|entry| Some(entry.ok()?.file_name())).any(|name| name != LOCK) {
            if foreign {
                _ = fs::remove_file(path.join(LOCK));
            }
            return Err(Error::new("expected a new or empty folder, found files in it")
                .at(&path)
                .hint("choose another place with --out: runs are never overwritten"));
        }
        let mut folder = Self::with_files(path, lock, false)?;
        folder.header(config)?;
        folder.write_json("environment.json", &Environment::here(config)?)?;
        // The last of the files that there are from the start: where it is, the run has begun.
        replace(&folder.path.join("config.yaml"), config.to_yaml().as_bytes())?;
        Ok(folder)
    }

    /// Opens the folder of a run that has begun and is not finished, and reads its configuration, in which `overrides`
    /// may change what does not matter to the computation.
    ///
    /// # Errors
    /// No such run; a finished one; one at which another process is at work; a key that cannot change any more.
    pub fn open(path: &Path, overrides: &[(String, String)]) -> Result<(Self, RunConfig)> {
        if let Some((key, _)) = overrides.iter().find(|(key, _)| !RunConfig::CHANGEABLE.contains(&key.as_str())) {
            return Err(Error::new(format!("a run goes on as it was begun: `{key}` cannot change"))
                .at(path)
                .hint(format!("only {} can; begin another run for the others", RunConfig::CHANGEABLE.join(", "))));
        }
        let yaml = path.join("config.yaml");
        if !yaml.is_file() {
            return Err(Error::new("expected the folder of a run that has begun, found no config.yaml in it")
                .at(path)
                .hint("name a run folder, or begin a run with `dif-sr train --out=…`"));
        }
        let lock = lock(path)?;
        if path.join("result.json").exists() {
            return Err(Error::new("expected a run that is not finished, found its result.json")
                .at(path)
                .hint("`dif-sr gate` judges it, `dif-sr evaluate` evaluates it"));
        }
        let config = RunConfig::load(&[yaml], overrides)?;
        Ok((Self::with_files(path.to_path_buf(), lock, true)?, config))
    }

    fn with_files(path: PathBuf, lock: File, resumed: bool) -> Result<Self> {
        let file = |name: &str| append(&path.join(name));
        let (log, losses, metrics) = (file("log.txt")?, file("losses.tsv")?, file("metrics.jsonl")?);
        let calibrations = file("calibration.jsonl")?;
        Ok(Self { log, losses, metrics, calibrations, events: None, path, resumed, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the run had begun before.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The best model so far.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }

    /// The training as it was last saved.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// Appends a line to `log.txt`.
    pub fn log(&mut self, line: &str) -> Result<()> {
        writeln!(self.log, "{line}").map_err(|e| Error::io(self.path.join("log.txt"), "append to the log", e))
    }

    /// Appends the losses of a batch to `losses.tsv`, in the shortest form that tells any two float32 values apart.
    pub fn losses(&mut self, epoch: usize, batch: usize, losses: &Losses<f64>) -> Result<()> {
        let Losses { total, item, attributes } = losses;
        let losses = [total, item].into_iter().chain(attributes).map(|&loss| (loss as f32).to_string());
        let line: Vec<String> = [epoch, batch].iter().map(usize::to_string).chain(losses).collect();
        self.loss_line(&line.join("\t"))
    }

    fn header(&mut self, config: &RunConfig) -> Result<()> {
        // Without a predictor, and under BPR, there are no attribute losses.
        let predicts = config.model.attribute_predictor == Predictor::Linear && config.model.loss_type == Loss::Ce;
        let attributes = config.data.selected_features.iter().map(String::as_str).filter(|_| predicts);
        let header: Vec<&str> = ["epoch", "batch", "total", "item"].into_iter().chain(attributes).collect();
        self.loss_line(&header.join("\t"))
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
        let events = match &mut self.events {
            Some(events) => events,
            none => none.insert(EventFile::create(&self.path)?),
        };
        events.scalars(epoch, values)
    }

    /// How long the files are now.
    pub(super) fn mark(&self) -> Result<Mark> {
        let length = |(name, file): (&str, &File)| {
            file.metadata().map(|m| m.len()).map_err(|e| Error::io(self.path.join(name), "read the length", e))
        };
        let [log, losses, metrics] = self.appended().map(length);
        Ok(Mark { log: log?, losses: losses?, metrics: metrics? })
    }

    /// Flushes the files to the disk, so that no checkpoint outlasts the lines that it stands behind.
    pub(super) fn flush(&self) -> Result<()> {
        let flush = |(name, file): (&str, &File)| {
            file.sync_data().map_err(|e| Error::io(self.path.join(name), "write the file", e))
        };
        self.appended().into_iter().try_for_each(flush)
    }

    /// Takes away what was appended after the files were so long.
    ///
    /// # Errors
    /// A file that is shorter; nothing has then changed.
    pub(super) fn cut_back(&mut self, mark: Mark) -> Result<()> {
        let now = self.mark()?;
        let files = self.appended().into_iter().zip([mark.log, mark.losses, mark.metrics]);
        for (((name, _), expected), found) in files.clone().zip([now.log, now.losses, now.metrics]) {
            if found < expected {
                return Err(Error::new(format!("expected at least {expected} bytes, found {found}"))
                    .at(self.path.join(name))
                    .hint("put the file back as the run left it"));
            }
        }
        for ((name, file), length) in files {
            file.set_len(length).map_err(|e| Error::io(self.path.join(name), "cut the file", e))?;
        }
        Ok(())
    }

    /// Takes all lines away, as at the start.
    pub(super) fn start_again(&mut self, config: &RunConfig) -> Result<()> {
        self.cut_back(Mark::default())?;
        self.header(config)
    }

    fn appended(&self) -> [(&'static str, &File); 3] {
        [("log.txt", &self.log), ("losses.tsv", &self.losses), ("metrics.jsonl", &self.metrics)]
    }

    /// Adds where a run goes on to `environment.json`.
    pub(super) fn resumed_here(&self, config: &RunConfig) -> Result<()> {
        let path = self.path.join("environment.json");
        let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, "read the file", e))?;
        let here = serde_json::to_value(Environment::here(config)?).expect("text and numbers are JSON");
        let begun: Result<Value, _> = serde_json::from_str(&text);
        let Ok(Value::Object(mut environment)) = begun else {
            return Err(Error::new("expected a JSON object, found something else").at(&path).hint("put the file back"));
        };
        match environment.entry("resumed").or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(places) => places.push(here),
            other => *other = Value::Array(vec![here]),
        }
        self.write_json("environment.json", &environment)
    }

    /// Writes one of the folder's JSON files.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).expect("results are JSON");
        replace(&self.path.join(name), format!("{text}\n").as_bytes())
    }

    /// Writes `result.json`, the last of the run's own files: where it is, the run is finished.
    pub fn finish(&self, result: &RunResult) -> Result<()> {
        self.write_json("result.json", result)
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

/// Locked in a run folder as long as a process is at work in it.
const LOCK: &str = "lock";

/// The folder's lock file, locked: the operating system lets go of it when the process ends.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let file = append(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::new("expected a run folder to itself, found another process at work in it")
                .at(folder)
                .hint("wait for its end, or choose another folder"))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(&path, "lock the file", e).hint("use a file system with locks")),
    }
}

fn append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|e| Error::io(path, "open the file", e).hint("check the folder's permissions and the free space"))
}
