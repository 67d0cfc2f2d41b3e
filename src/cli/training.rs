//! What `train` and `reproduce` share: a run that begins or goes on, and the signals that interrupt it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dif_sr::config::{ComputePath, RunConfig};
use dif_sr::data::copies::difference;
use dif_sr::device::cuda_fault;
use dif_sr::ranks::Ranks;
use dif_sr::run_folder::{RunFolder, RunResult};
use dif_sr::train::{self, Prepared, Start, run};
use dif_sr::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tch::Device;

use super::arguments::ConfigArgs;
use super::output;
use super::ranks::{of_rank, on_own_gpu, together};
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
    pub fn begin(config: RunConfig, out: Option<PathBuf>, ranks: &Ranks) -> Result<Self> {
        let stop = stop_on_signals()?;
        let config = on_own_gpu(config, ranks);
        let prepared = prepare(&config, ranks, &stop, None)?;
        let folder = together(ranks, RunFolder::create(out, &config, None, ranks.size()))?;
        Ok(Self { config, folder, prepared, stop })
    }

    /// A new run from the state of another, in which nothing changes.
    pub fn begin_from(
        run: &Path,
        config_args: &ConfigArgs,
        overrides: &[(String, String)],
        out: Option<PathBuf>,
        ranks: &Ranks,
    ) -> Result<Self> {
        let stop = stop_on_signals()?;
        let read = || {
            let same = |out: &PathBuf| {
                out.canonicalize().ok().is_some_and(|out| run.canonicalize().is_ok_and(|run| run == out))
            };
            if out.as_ref().is_some_and(same) {
                return Err(Error::new("expected --out to be a new folder, found that of --from")
                    .at(run)
                    .hint("name another one: a run that another begins from stays as it is"));
            }
            if !config_args.files()?.is_empty() {
                return Err(Error::new("a run from another one has its configuration: --config_files cannot be given")
                    .at(run)
                    .hint("leave it out, and give --epochs=… and other keys that may change by themselves"));
            }
            let start = Start::read(run)?;
            let config = start.config(&config_args.overrides(overrides))?;
            Ok((start, config))
        };
        let (start, config) = together(ranks, read())?;
        tell(&config, ranks)?;
        let config = on_own_gpu(config, ranks);
        let mut prepared = prepare(&config, ranks, &stop, None)?;
        let create = || {
            start.check(&config, &prepared)?;
            RunFolder::create(out, &config, Some(start.origin.clone()), ranks.size())
        };
        let folder = together(ranks, create())?;
        prepared.start = Some(start);
        Ok(Self { config, folder, prepared, stop })
    }

    /// A run that was interrupted, with the configuration of its folder.
    pub fn resume(
        path: &Path,
        config_args: &ConfigArgs,
        overrides: &[(String, String)],
        ranks: &Ranks,
    ) -> Result<Self> {
        let stop = stop_on_signals()?;
        let open = || {
            if !config_args.files()?.is_empty() {
                return Err(Error::new("a run goes on as it was begun: --config_files cannot be given")
                    .at(path)
                    .hint("leave it out"));
            }
            RunFolder::open(path, &config_args.overrides(overrides), ranks.size())
        };
        let (folder, config) = together(ranks, open())?;
        tell(&config, ranks)?;
        let config = on_own_gpu(config, ranks);
        let prepared = prepare(&config, ranks, &stop, Some(path))?;
        let folder = together(ranks, Ok(folder))?;
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
            Device::Cuda(index) if prepared.ranks.is_alone() => format!("GPU {index}"),
            Device::Cuda(index) => {
                format!("{} on GPUs, rank 0 on GPU {index}", output::counted(prepared.ranks.size(), "rank"))
            }
            _ => {
                let fault = cuda_fault().filter(|_| config.run.use_gpu.is_none());
                let fault = fault.map_or(String::new(), |fault| format!(" (not a GPU: {fault})"));
                format!("{} of the CPU{fault}", self.threads())
            }
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

    /// `2 threads`, or `4 ranks of 2 threads`.
    fn threads(&self) -> String {
        let threads = output::counted(tch::get_num_threads() as usize, "thread");
        match &self.prepared.ranks {
            ranks if ranks.is_alone() => threads,
            ranks => format!("{} of {threads}", output::counted(ranks.size(), "rank")),
        }
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

/// Takes part in a run whose folder rank 0 owns: as `config` says, or, in a run from another one or that goes on, as rank 0
/// says.
pub fn follow(config: Option<Result<RunConfig>>, ranks: &Ranks) -> Result<()> {
    let follow = || {
        let stop = stop_on_signals()?;
        let config = match config {
            Some(config) => together(ranks, config)?,
            None => {
                together(ranks, Ok(()))?;
                let yaml = ranks.from_first(Vec::new())?;
                RunConfig::from_yaml(&String::from_utf8_lossy(&yaml), "the configuration of rank 0".as_ref())?
            }
        };
        let config = on_own_gpu(config, ranks);
        let prepared = prepare(&config, ranks, &stop, None)?;
        together(ranks, Ok(()))?;
        let followed = catch_unwind(AssertUnwindSafe(|| train::follow(&config, &prepared, &stop)));
        followed.unwrap_or_else(|panic| Err(output::of_panic(panic.as_ref())))
    };
    let result: Result<()> = follow();
    result.map_err(|e| if e.is_interruption() { e } else { of_rank(ranks.rank(), &e) })
}

/// Sees that the data set's first file is there, before it is waited for by others.
pub fn find_data(config: &RunConfig) -> Result<()> {
    let kind =
        config.data.benchmark_filename.as_ref().map_or("inter".to_owned(), |parts| format!("{}.inter", parts[0]));
    let path = config.data.file(&kind);
    fs::metadata(&path).map(drop).map_err(|e| Error::io(path, "read the file", e))
}

/// Gives the other ranks the configuration that rank 0 has read.
fn tell(config: &RunConfig, ranks: &Ranks) -> Result<()> {
    ranks.from_first(config.to_yaml().into_bytes()).map(drop)
}

/// Loads the data, at all ranks at once, who must then agree. `resumed` is the run that would have gone on, for messages.
fn prepare(config: &RunConfig, ranks: &Ranks, stop: &AtomicBool, resumed: Option<&Path>) -> Result<Prepared> {
    let prepared = together(ranks, Prepared::over(config, ranks))?;
    train::agree(config, &prepared)?;
    if !ranks.any(stop.load(Ordering::Relaxed))? {
        return Ok(prepared);
    }
    Err(match resumed.map(Path::display) {
        None => Error::interruption("interrupted while the data were loaded; no run has begun")
            .hint("give the command again"),
        Some(run) => Error::interruption(format!("interrupted while the data were loaded; {run} is as it was"))
            .hint(format!("go on with --resume={run}")),
    })
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
