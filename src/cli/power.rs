//! `dif-sr power`

use std::path::PathBuf;

use clap::Args;
use dif_sr::verdict::{Expectation, Simulation, power};
use dif_sr::{Error, Result};

use super::progress::Progress;
use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct PowerArgs {
    /// An expectation with recorded runs.
    #[arg(long, value_name = "FILE")]
    expect: PathBuf,
    /// Numbers of runs to judge.
    #[arg(long, value_name = "N", num_args = 1.., default_values_t = [1, 3, 5], value_parser = at_least_one)]
    runs: Vec<usize>,
    /// Simulations of each cell; 1,000 know a share to ±3.1 points at most.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least_one)]
    repetitions: usize,
    /// Seeds the simulation.
    #[arg(long, default_value_t = 2020)]
    seed: u64,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a whole number of at least 1".to_owned())
}

pub fn run(args: &PowerArgs, json: bool) -> Result<Outcome> {
    let expectation = Expectation::load(&args.expect)?;
    let reference = expectation.reference().ok_or_else(|| {
        Error::new("expected recorded runs under `runs`, found figures alone")
            .at(&args.expect)
            .hint("published figures have no spread to simulate from")
    })?;
    let PowerArgs { runs, repetitions, seed, .. } = args;
    let simulation = Simulation {
        repetitions: *repetitions,
        seed: *seed,
        runs: runs.clone(),
        drops: vec![0.0, 0.01, 0.02, 0.05, 0.1],
    };
    let mut progress = Progress::of_stages(true);
    let power = power(reference, &simulation, |done| progress.step("Simulate", done, *repetitions));
    output::result(json, &power, || power.markdown())?;
    Ok(Outcome::Pass)
}
