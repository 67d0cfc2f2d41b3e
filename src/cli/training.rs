//! What `train` and `reproduce` share: a run that begins or goes on, and the signals that interrupt it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dif_sr::config::{ComputePath, RunConfig};
use dif_sr::data::copies::difference;
use dif_sr::run_folder::{RunFolder, RunResult};
use dif_sr::train::{Prepared, Start, run};
use dif_sr::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tch::Device;

use super::arguments::ConfigArgs;
use super::output;
use super::watch::Watch;

/// A run, ready to be trained.
pub struct Training {
    pub config: RunConfig,
    pub folder: RunFolder,
    prepared: Prepared,
    stop: Arc<AtomicBool>,
}

impl Training {
    /// A new run. All that can be wrong with the input is found out before a folder is made.
    pub fn begin(config: RunConfig, out: Option<PathBuf>) -> Result<Self> {
        let stop = stop_on_signals()?;
        let prepared = Prepared::new(&config)?;
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interruption("interrupted while the data were loaded; no run has begun")
                .hint("give the command again"));
        }
        let folder = RunFolder::create(out, &config, None)?;
        Ok(Self { config, folder, prepared, stop })
    }

    /// A new run from the state of another, in which nothing changes.
    pub fn begin_from(
        run: &Path,
        config_args: &ConfigArgs,
        overrides: &[(String, String)],
        out: Option<PathBuf>,
    ) -> Result<Self> {
        if !config_args.files()?.is_empty() {
            return Err(Error::new("a run from another one has its configuration: --config_files cannot be given")
                .at(run)
                .hint("leave it away, and give --epochs=… and other keys that may change by themselves"));
        }
        let stop = stop_on_signals()?;
        let start = Start::read(run)?;
        let config = start.config(&config_args.overrides(overrides))?;
        let mut prepared = Prepared::new(&config)?;
        start.check(&config, &prepared)?;
        if stop.load(Ordering::Relaxed) {
            return Err(Error::interruption("interrupted while the data were loaded; no run has begun")
                .hint("give the command again"));
        }
        let folder = RunFolder::create(out, &config, Some(start.origin.clone()))?;
        prepared.start = Some(start);
        Ok(Self { config, folder, prepared, stop })
    }

    /// A run that was interrupted, with the configuration of its folder.
    pub fn resume(path: &Path, config_args: &ConfigArgs, overrides: &[(String, String)]) -> Result<Self> {
        if !config_args.files()?.is_empty() {
            return Err(Error::new("a run goes on as it was begun: --config_files cannot be given")
                .at(path)
                .hint("leave it away"));
        }
        let stop = stop_on_signals()?;
        let (folder, config) = RunFolder::open(path, &config_args.overrides(overrides))?;
        let prepared = Prepared::new(&config)?;
        if stop.load(Ordering::Relaxed) {
            let run = path.display();
            return Err(Error::interruption(format!("interrupted while the data were loaded; {run} is as it was"))
                .hint(format!("go on with --resume={run}")));
        }
        Ok(Self { config, folder, prepared, stop })
    }

    /// In what the data differ from the copy that published figures are of.
    pub fn other_copy(&self) -> Option<String> {
        difference(&self.prepared.dataset, &self.prepared.splits)
    }

    /// What will be done where, for a reader.
    pub fn in_words(&self) -> String {
        let Self { config, prepared, folder, .. } = self;
        let (train, model) = (&config.train, config.model.model.name());
        let device = match prepared.model.device() {
            Device::Cuda(index) => format!("GPU {index}"),
            _ => output::counted(tch::get_num_threads() as usize, "thread") + " of the CPU",
        };
        let path = match config.run.compute_path {
            ComputePath::Reference => "reference",
            ComputePath::Fast => "fast",
        };
        let batches = prepared.splits.train.n().div_ceil(train.train_batch_size);
        format!(
            "{model} on {}, seed {}: {} path, {device}\n{} of {batches} batches, or fewer: {} in a row that are no better end it\n\
             run folder: {}, with RecBole's log in log.txt",
            config.data.dataset,
            config.run.seed,
            path,
            output::counted(train.epochs, "epoch"),
            output::counted(train.stopping_step + 1, "evaluation"),
            folder.path().display(),
        )
    }

    /// Trains to the end and tests, unless a signal interrupts it.
    pub fn run(&mut self, mut watch: Watch) -> Result<RunResult> {
        // Libtorch's errors inside of the model arrive as panics, which pass by what ends a training in order.
        let trained = catch_unwind(AssertUnwindSafe(|| {
            run(&self.config, &self.prepared, &mut self.folder, &mut watch, &self.stop)
        }));
        trained.unwrap_or_else(|panic| {
            let last = self.folder.last();
            let saved = match last.exists() {
                true => format!("; the last good checkpoint is {}", last.display()),
                false => "; no checkpoint had been written yet".to_owned(),
            };
            Err(self.folder.stopped(output::of_panic(panic.as_ref()).and(&saved)))
        })
    }
}

/// A flag that SIGINT and SIGTERM set; a second signal ends the process at once.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag not yet set.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .map_err(|e| Error::new(format!("cannot watch for signal {signal}: {e}")))?;
    }
    Ok(stop)
}
