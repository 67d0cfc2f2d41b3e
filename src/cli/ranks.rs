//! `--ranks`: one run of several processes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dif_sr::config::RunConfig;
use dif_sr::device::gpu_of_rank;
use dif_sr::ranks::{Launch, Launcher, Ranks, local_rank, refuse_launched};
use dif_sr::{Error, Result};

use super::output;

/// How the ranks of a run find each other.
#[derive(Debug, Args)]
pub struct RanksArgs {
    /// Train in several processes as one, numbered by torchrun or variables (env), by srun (slurm) or by mpirun (mpi); with
    /// `none` each is a run of its own (docs/scale.md).
    #[arg(long, value_name = "HOW")]
    ranks: Option<How>,
    /// Where the ranks meet, instead of at MASTER_ADDR: a file, new at every start, in a folder that all of them see.
    #[arg(long = "ranks_file", value_name = "FILE", requires = "ranks")]
    file: Option<PathBuf>,
    /// How long a rank waits for another, at the start and in every exchange.
    #[arg(long = "ranks_timeout", value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// Who starts the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    Env,
    Slurm,
    Mpi,
    None,
}

/// The environment of this process.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A process that has yet to meet the other ranks.
pub enum Coming {
    Alone,
    /// By gloo.
    Gloo(Launch),
    /// By MPI, waiting so long for an exchange.
    Mpi(Duration),
}

impl RanksArgs {
    /// Which rank this process is.
    pub fn read(&self) -> Result<Coming> {
        let timeout = Duration::from_secs(self.timeout);
        let launcher = match self.ranks {
            Some(How::Env) => Launcher::Env,
            Some(How::Slurm) => Launcher::Slurm,
            Some(How::Mpi) if self.file.is_none() => return Ok(Coming::Mpi(timeout)),
            Some(How::Mpi) => {
                return Err(Error::new("expected --ranks=mpi alone, found --ranks_file: ranks meet as mpirun says")
                    .hint("leave it out"));
            }
            Some(How::None) => return Ok(Coming::Alone),
            None => return alone().map(|_| Coming::Alone),
        };
        Launch::read(launcher, self.file.clone(), timeout, &variable).map(Coming::Gloo)
    }
}

impl Coming {
    /// Whether the run is in one process.
    pub fn is_alone(&self) -> bool {
        matches!(self, Self::Alone)
    }

    /// The ranks, once all of them have come. What this one already cannot do, of which the others learn then
    /// ([`together`]), is told at once.
    pub fn meet(self, problem: Option<&Error>) -> Result<Ranks> {
        let launch = match self {
            Self::Alone => return Ok(Ranks::alone()),
            // Its launcher has started all ranks at once.
            Self::Mpi(timeout) => return Ranks::join_mpi(timeout, &variable),
            Self::Gloo(launch) => launch,
        };
        if let Some(error) = problem {
            let seconds = launch.timeout.as_secs();
            let hint = format!("it waits {seconds} s at most to tell the other ranks");
            output::fail_soon(&of_rank(launch.rank, error).hint(hint));
        }
        Ranks::join(&launch)
    }
}

/// Goes on where every rank could do something; what this one cannot do is told at once, before it waits for the others.
pub fn together<T>(ranks: &Ranks, own: Result<T>) -> Result<T> {
    if let Err(error) = &own
        && !ranks.is_alone()
    {
        output::fail_soon(&of_rank(ranks.rank(), error));
    }
    ranks.together(own)
}

/// The configuration with this rank's own GPU.
pub fn on_own_gpu(mut config: RunConfig, ranks: &Ranks) -> RunConfig {
    if !ranks.is_alone() {
        config.run.gpu_id = gpu_of_rank(&config.run, local_rank(&variable));
    }
    config
}

/// An error with the number of its rank; rank 0 speaks for the run.
pub fn of_rank(rank: usize, error: &Error) -> Error {
    let told = if rank == 0 { error.to_string() } else { format!("rank {rank}: {error}") };
    if error.is_interruption() { Error::interruption(told) } else { Error::new(told) }
}

/// One process, which no launcher has started as one of several.
pub fn alone() -> Result<Ranks> {
    refuse_launched(&variable).map(|()| Ranks::alone())
}
