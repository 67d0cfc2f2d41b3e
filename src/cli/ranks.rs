//! `--ranks`: one run of several processes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dif_sr::Result;
use dif_sr::ranks::{Launch, Launcher, Ranks, refuse_launched};

/// How the ranks of a run find each other.
#[derive(Debug, Args)]
pub struct RanksArgs {
    /// Train in several processes as one, numbered by torchrun or variables (env) or by srun (slurm); with `none` each is a
    /// run of its own (docs/scale.md).
    #[arg(long, value_name = "HOW")]
    ranks: Option<How>,
    /// Where the ranks meet, instead of at MASTER_ADDR: a file, new at every start, in a folder that all of them see.
    #[arg(long = "ranks_file", value_name = "FILE", requires = "ranks")]
    file: Option<PathBuf>,
    /// How long a rank waits for another, at the start and in every exchange.
    #[arg(long = "ranks_timeout", value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Who starts the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    Env,
    Slurm,
    None,
}

/// The environment of this process.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The ranks that were asked for, once all of them have come.
pub fn join(args: &RanksArgs) -> Result<Ranks> {
    let launcher = match args.ranks {
        Some(How::Env) => Launcher::Env,
        Some(How::Slurm) => Launcher::Slurm,
        Some(How::None) => return Ok(Ranks::alone()),
        None => return alone(),
    };
    Ranks::join(&Launch::read(launcher, args.file.clone(), Duration::from_secs(args.timeout), &variable)?)
}

/// One process, which no launcher has started as one of several.
pub fn alone() -> Result<Ranks> {
    refuse_launched(&variable).map(|()| Ranks::alone())
}
