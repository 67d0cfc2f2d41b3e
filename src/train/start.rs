//! A new run from the state that another run saved: more epochs, or other steps, with the other's evidence as it was.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::saved::{self, Saved, SharedRows};
use super::{Position, Prepared, Training};
use crate::config::RunConfig;
use crate::run_folder::{CONFIG, Origin, watch};
use crate::tensors::{self, TensorFile};
use crate::{Error, Result};

/// The state of another run: parameters, Adam's moments, the order of the rows, the generators, the best model so far.
#[derive(Debug)]
pub struct Start {
    /// Which run it is, and where in its training.
    pub origin: Origin,
    run: PathBuf,
    config: RunConfig,
    saved: Saved,
    /// The file of the best model so far.
    best: Option<PathBuf>,
    /// That no process works in the other run until its state is here.
    watch: Option<File>,
}

impl Start {
    /// Reads the state that the run in this folder, finished or not, saved last. Nothing in the folder changes.
    ///
    /// # Errors
    /// No such run; one at which another process is at work; one that has saved nothing; damaged files.
    pub fn read(run: &Path) -> Result<Self> {
        if !run.join(CONFIG).is_file() {
            return Err(Error::new("expected the folder of a run, found no config.yaml in it")
                .at(run)
                .hint("name the folder that `dif-sr train` printed"));
        }
        let watch = watch(run)?;
        let path = run.join("last.safetensors");
        if !path.exists() {
            return Err(Error::new("expected the training that the run saved, found no such file")
                .at(&path)
                .hint("name a run that has saved one, or begin a run without --from"));
        }
        let last = TensorFile::open(&path, |_| true)?;
        let (saved, config) = saved::metadata(&last, &path)?;
        let best = saved.best.as_deref().map(|seal| best_model(run, seal)).transpose()?;
        let Position { epoch, batch, .. } = saved.position;
        let sha256 = last.seal.unwrap_or_default();
        let origin = Origin { run: run.display().to_string(), sha256, epoch, batch };
        Ok(Self { origin, run: run.to_owned(), config, saved, best, watch })
    }

    /// The other run's configuration with `overrides`.
    ///
    /// # Errors
    /// A key that the saved state depends on.
    pub fn config(&self, overrides: &[(String, String)]) -> Result<RunConfig> {
        let keys = || RunConfig::CHANGEABLE.iter().chain(&RunConfig::CHANGEABLE_FROM);
        if let Some((key, _)) = overrides.iter().find(|(key, _)| !keys().any(|other| other == key)) {
            let mut keys: Vec<&str> = keys().copied().collect();
            keys.sort_unstable();
            return Err(Error::new(format!("`{key}` is part of what the run has trained, and cannot change"))
                .at(&self.run)
                .hint(format!("only {} can; begin a run without --from for the others", keys.join(", "))));
        }
        self.config.changed(&[], overrides)
    }

    /// Checks that a training of this configuration can begin here, and has something left to do.
    ///
    /// # Errors
    /// Other data, another kind of device; no more epochs than were trained; early stopping that is over.
    pub fn check(&self, config: &RunConfig, prepared: &Prepared) -> Result<()> {
        let (trained, epochs) = (self.origin.epoch, config.train.epochs);
        if epochs <= trained {
            let problem = format!("expected more epochs than the {trained} that the run has trained, found {epochs}");
            return Err(Error::new(problem).at(&self.run).hint(format!("give --epochs={} or more", trained + 1)));
        }
        let mut stopping = self.saved.position.stopping.clone();
        stopping.allow(config.train.stopping_step);
        if let Some(without) = stopping.over_after() {
            return Err(Error::new(format!(
                "the run has stopped early, as its last {without} evaluations were no better than its best"
            ))
            .at(&self.run)
            .hint(format!("give --stopping_step={without} or more, of which these evaluations are a part")));
        }
        let Prepared { splits, fingerprint, model, ranks, .. } = prepared;
        let mut training = Training::over(config, model, splits, ranks)?;
        self.put(&mut training, fingerprint, SharedRows::Leave).map(drop)
    }

    /// Puts `training`, which must be at its start, where the other run was.
    pub(super) fn put(&self, training: &mut Training, data: &str, rows: SharedRows) -> Result<Saved> {
        saved::begin(&self.run.join("last.safetensors"), training, data, rows)
    }

    /// Lets other processes work in the other run again.
    pub(super) fn release(&self) {
        _ = self.watch.as_ref().map(File::unlock);
    }

    pub(super) fn best(&self) -> Option<&Path> {
        self.best.as_deref()
    }
}

/// The model with this seal, which lies under one of two names ([`super::record`]).
fn best_model(run: &Path, seal: &str) -> Result<PathBuf> {
    for name in ["best.safetensors", "best.safetensors.next"] {
        let path = run.join(name);
        if tensors::seal(&path).is_ok_and(|found| found.as_deref() == Some(seal)) {
            return Ok(path);
        }
    }
    Err(Error::new("expected the best model of the saved training, found another, a damaged one or none")
        .at(run.join("best.safetensors"))
        .hint("put the file back, or begin a run without --from"))
}
