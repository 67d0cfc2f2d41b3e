//! The run folder: all evidence of a run. Files are appended to or replaced atomically, and nothing of another run is
//! overwritten. Only a run that goes on takes something away: the lines behind the checkpoint that it goes on from, which
//! it writes again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::events::EventFile;
use super::files::{AS_LEFT, LOCK, append, append_line, cannot_make, end_with_a_line, lock, new_folder};
use super::{Calibration, Environment, LossRow, MetricsLine, Origin, RankRow, RunResult};
use crate::config::RunConfig;
use crate::model::Losses;
use crate::tensors::{replace, replace_json};
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
    /// Where the run began, if not at the beginning.
    origin: Option<Origin>,
    /// The processes that train together, if there are several.
    ranks: Option<usize>,
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
    /// Makes `path`, or `checkpoint_dir/<dataset>-<date>-<time>`, and writes what is known before the run, which `ranks`
    /// processes train and which begins at `origin`, if not at the beginning.
    ///
    /// # Errors
    /// A folder that exists and is not empty: nothing of another run is overwritten.
    pub fn create(path: Option<PathBuf>, config: &RunConfig, origin: Option<Origin>, ranks: usize) -> Result<Self> {
        let path = match path {
            Some(path) => fs::create_dir_all(&path).map(|()| path.clone()).map_err(|e| cannot_make(&path, e))?,
            None => {
                let time = jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S").to_string();
                new_folder(&config.run.checkpoint_dir, &format!("{}-{time}", config.data.dataset))?
            }
        };
        let foreign = !path.join(LOCK).exists();
        let lock = lock(&path)?;
        let entries = fs::read_dir(&path).map_err(|e| Error::io(&path, "read the run folder", e))?;
        let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        if !foreign && names.iter().all(|name| is_unbegun(&path, name)) {
            names.iter().filter(|name| *name != LOCK).for_each(|name| _ = fs::remove_file(path.join(name)));
        } else if names.iter().any(|name| name != LOCK) {
            if foreign {
                _ = fs::remove_file(path.join(LOCK));
            }
            return Err(Error::new("expected a new or empty folder, found files in it")
                .at(&path)
                .hint("choose another place with --out: runs are never overwritten"));
        }
        Self::begin(&path, lock, config, origin, ranks).inspect_err(|_| {
            // Best effort: what is left is an empty folder, in which a run can begin once the fault is cured.
            let begun = [LOG, LossRow::FILE, MetricsLine::FILE, Calibration::FILE, Environment::FILE, LOCK];
            begun.iter().for_each(|name| _ = fs::remove_file(path.join(name)));
        })
    }

    fn begin(path: &Path, lock: File, config: &RunConfig, origin: Option<Origin>, ranks: usize) -> Result<Self> {
        let begun = origin.as_ref().map(|origin| format!("# {origin}.\n")).unwrap_or_default();
        let mut folder = Self::with_files(path, lock, false, origin, ranks)?;
        folder.loss_line(&LossRow::header(config))?;
        let environment =
            Environment { from: folder.origin.clone(), ranks: folder.ranks, ..Environment::here(config)? };
        folder.write_json(Environment::FILE, &environment)?;
        // The last of the files that there are from the start: where it is, the run has begun.
        replace(&folder.path.join(CONFIG), (begun + &config.to_yaml()).as_bytes())?;
        Ok(folder)
    }

    /// Opens the folder of a run that has begun and is not finished, and reads its configuration, in which `overrides`
    /// may change what does not matter to the computation.
    ///
    /// # Errors
    /// No such run; a finished one; one at which another process is at work; a key that cannot change any more. Nothing
    /// in the folder has then changed.
    pub fn open(path: &Path, overrides: &[(String, String)], ranks: usize) -> Result<(Self, RunConfig)> {
        if let Some((key, _)) = overrides.iter().find(|(key, _)| !RunConfig::CHANGEABLE.contains(&key.as_str())) {
            return Err(Error::new(format!("a run goes on as it was begun: `{key}` cannot change"))
                .at(path)
                .hint(format!("only {} can; begin another run for the others", RunConfig::CHANGEABLE.join(", "))));
        }
        let yaml = path.join(CONFIG);
        if !yaml.is_file() {
            return Err(Error::new("expected the folder of a run that has begun, found no config.yaml in it")
                .at(path)
                .hint("name a run folder, or begin a run with `dif-sr train --out=…`"));
        }
        // Of a begun run `config.yaml` is the last of the first files: a folder without the others holds something else.
        let origin = environment(path)?.from;
        if fs::read_to_string(&yaml).is_ok_and(|text| text.trim().is_empty()) {
            return Err(Error::new("expected the configuration of the run, found an empty file")
                .at(&yaml)
                .hint(AS_LEFT));
        }
        let config = RunConfig::load(&[yaml], overrides)?;
        let lock = lock(path)?;
        if path.join(RunResult::FILE).exists() {
            return Err(Error::new("expected a run that is not finished, found its result.json")
                .at(path)
                .hint("`dif-sr gate` judges it, `dif-sr evaluate` evaluates it"));
        }
        Ok((Self::with_files(path, lock, true, origin, ranks)?, config))
    }

    /// Opens the files that are appended to, which a run that goes on must have.
    fn with_files(path: &Path, lock: File, resumed: bool, origin: Option<Origin>, ranks: usize) -> Result<Self> {
        let file = |name: &str| append(&path.join(name), !resumed);
        let (log, losses, metrics) = (file(LOG)?, file(LossRow::FILE)?, file(MetricsLine::FILE)?);
        let (calibrations, path) = (file(Calibration::FILE)?, path.to_path_buf());
        let (events, ranks) = (None, (ranks > 1).then_some(ranks));
        Ok(Self { log, losses, metrics, calibrations, events, path, resumed, origin, ranks, _lock: lock })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the run had begun before.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Where the run began, if not at the beginning.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
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
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn log(&mut self, line: &str) -> Result<()> {
        append_line(&mut self.log, line).map_err(|e| Error::io(self.path.join(LOG), "append to the log", e))
    }

    /// Leaves the reason of the end in the log: the folder is the evidence.
    pub fn stopped(&mut self, error: Error) -> Error {
        // The disk may be full, and the error is the one to tell.
        let _ = self.log(&log_line(&format!("stopped: {error}")));
        error
    }

    /// Appends the losses of a batch to `losses.tsv`.
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn losses(&mut self, epoch: usize, batch: usize, losses: &Losses<f64>) -> Result<()> {
        self.loss_line(&LossRow::new(epoch, batch, losses).line())
    }

    fn loss_line(&mut self, line: &str) -> Result<()> {
        append_line(&mut self.losses, line).map_err(|e| Error::io(self.path.join(LossRow::FILE), "append losses", e))
    }

    /// Appends a JSON line to `metrics.jsonl`.
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn metrics(&mut self, line: &MetricsLine) -> Result<()> {
        let line = serde_json::to_string(line).expect("metrics are JSON");
        append_line(&mut self.metrics, &line)
            .map_err(|e| Error::io(self.path.join(MetricsLine::FILE), "append metrics", e))
    }

    /// Appends a line to `calibration.jsonl`.
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn calibration(&mut self, calibration: &Calibration) -> Result<()> {
        let line = serde_json::to_string(calibration).expect("seconds are JSON");
        append_line(&mut self.calibrations, &line)
            .map_err(|e| Error::io(self.path.join(Calibration::FILE), "append a calibration", e))
    }

    /// Appends values at an epoch to TensorBoard's events.
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn scalars(&mut self, epoch: usize, values: impl IntoIterator<Item = (String, f64)>) -> Result<()> {
        let events = match &mut self.events {
            Some(events) => events,
            none => none.insert(EventFile::create(&self.path, self.resumed.then_some(epoch))?),
        };
        events.scalars(epoch, values)
    }

    /// How long the files are now.
    pub(crate) fn mark(&self) -> Result<Mark> {
        let length = |(name, file): (&str, &File)| {
            file.metadata().map(|m| m.len()).map_err(|e| Error::io(self.path.join(name), "read the length", e))
        };
        let [log, losses, metrics] = self.appended().map(length);
        Ok(Mark { log: log?, losses: losses?, metrics: metrics? })
    }

    /// Flushes the files to the disk, so that no checkpoint outlasts the lines that it stands behind.
    pub(crate) fn flush(&self) -> Result<()> {
        let flush = |(name, file): (&str, &File)| {
            file.sync_data().map_err(|e| Error::io(self.path.join(name), "write the file", e))
        };
        self.appended().into_iter().try_for_each(flush)
    }

    /// Checks that no file is shorter than it was at the mark.
    pub(crate) fn check_length(&self, mark: Mark) -> Result<()> {
        let lengths = |mark: Mark| [mark.log, mark.losses, mark.metrics];
        let found = lengths(self.mark()?);
        for (((name, _), expected), found) in self.appended().into_iter().zip(lengths(mark)).zip(found) {
            if found < expected {
                return Err(Error::new(format!("expected at least {expected} bytes, found {found}"))
                    .at(self.path.join(name))
                    .hint(AS_LEFT));
            }
        }
        Ok(())
    }

    /// Takes away what was appended after the files were so long, which [`RunFolder::check_length`] has found them to be, and the
    /// events of `epoch` and later ones.
    pub(crate) fn cut_back(&mut self, mark: Mark, epoch: usize) -> Result<()> {
        EventFile::cut_back(&self.path, epoch)?;
        for ((name, file), length) in self.appended().into_iter().zip([mark.log, mark.losses, mark.metrics]) {
            file.set_len(length).map_err(|e| Error::io(self.path.join(name), "cut the file", e))?;
        }
        Ok(())
    }

    /// Takes all lines away, as at the start.
    ///
    /// # Errors
    /// A run that has been saved, whose checkpoint is not there any more; nothing has then changed.
    pub(crate) fn start_again(&mut self, config: &RunConfig) -> Result<()> {
        // The first evaluation of a run is its best, and is saved before there is a second one.
        let path = self.path.join(MetricsLine::FILE);
        let metrics = fs::read_to_string(&path).map_err(|e| Error::io(&path, "read the file", e))?;
        let header = LossRow::header(config);
        let begun = !metrics.is_empty() || self.mark()?.losses > header.len() as u64 + 1;
        if let Some(origin) = self.origin.as_ref().filter(|_| !begun) {
            return Err(Error::new("the run ended before it had taken over the state that it begins from")
                .at(&self.path)
                .hint(format!("remove the folder, and give `dif-sr train --from={}` again", origin.run)));
        }
        if self.best().exists() || self.origin.is_some() || metrics.matches("\"valid\":").count() > 1 {
            return Err(Error::new("expected the training that was saved, found no such file")
                .at(self.last())
                .hint("put the file back, or begin another run"));
        }
        self.cut_back(Mark::default(), 0)?;
        self.loss_line(&header)
    }

    fn appended(&self) -> [(&'static str, &File); 3] {
        [(LOG, &self.log), (LossRow::FILE, &self.losses), (MetricsLine::FILE, &self.metrics)]
    }

    /// Adds where a run goes on to `environment.json`, once nothing refuses it any more.
    pub(crate) fn resumed_here(&self, config: &RunConfig) -> Result<()> {
        end_with_a_line(&self.path.join(Calibration::FILE), &self.calibrations)?;
        let mut environment = environment(&self.path)?;
        environment.resumed.push(Environment { ranks: self.ranks, ..Environment::here(config)? });
        self.write_json(Environment::FILE, &environment)
    }

    /// Writes `ranks.tsv`.
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn ranks(&self, rows: impl IntoIterator<Item = RankRow>) -> Result<()> {
        replace(&self.path.join(RankRow::FILE), &RankRow::write(rows))
    }

    /// Writes one of the folder's JSON files.
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        replace_json(&self.path.join(name), value)
    }

    /// Writes `result.json`, the last of the run's own files: where it is, the run is finished.
    ///
    /// # Errors
    /// The file cannot be written to: a full disk, say.
    pub fn finish(&self, result: &RunResult) -> Result<()> {
        self.write_json(RunResult::FILE, result)
    }
}

/// The environment of a run that has begun.
fn environment(folder: &Path) -> Result<Environment> {
    Environment::read(folder).map_err(|e| e.hint("name a run folder, or put the file back"))
}

/// RecBole's log.
pub(crate) const LOG: &str = "log.txt";
/// The resolved configuration.
pub(crate) const CONFIG: &str = "config.yaml";

/// Whether a file in a run folder is what a process leaves that is killed before its run has begun: one of the first files,
/// with nothing of a training in it.
fn is_unbegun(folder: &Path, name: &OsStr) -> bool {
    let written = [LOCK, Environment::FILE, "environment.json.part", "config.yaml.part"];
    let at_most = |lines: usize| fs::read_to_string(folder.join(name)).is_ok_and(|text| text.lines().count() <= lines);
    match name.to_str() {
        Some(LossRow::FILE) => at_most(1),
        Some(LOG | MetricsLine::FILE | Calibration::FILE) => at_most(0),
        name => name.is_some_and(|name| written.contains(&name)),
    }
}

/// RecBole's format: `19 Jan 18:11    INFO  message`.
pub(crate) fn log_line(message: &str) -> String {
    format!("{}    INFO  {message}", jiff::ZonedDateTime::now().strftime("%d %b %H:%M"))
}
