//! `dif-sr sweep …`

mod gather;
mod plan;
mod pool;
mod run;
mod status;
mod submit;

use clap::Subcommand;
use dif_sr::Result;
use dif_sr::sweep::SweepFolder;

use super::Outcome;

#[derive(Debug, Subcommand)]
pub enum SweepCommand {
    /// Check a sweep.yaml and all that it names, and write its runs as tasks.
    ///
    /// Over a sweep that is there, runs are added (more seeds, say) or dropped; what has begun stays as it is. --key=value
    /// sets a key of all runs.
    Plan(plan::PlanArgs),
    /// Run the tasks that are not finished: all of them here, or one for an engine.
    ///
    /// A task whose run is finished is skipped, one that was interrupted goes on where it was, one at which another process is
    /// at work is left to it (exit code 4).
    Run(run::RunArgs),
    /// Hand the tasks that are not finished to an engine as job arrays, and return at once.
    Submit(submit::SubmitArgs),
    /// How far the runs are, and why some failed.
    Status(status::StatusArgs),
    /// Write the record, the verdict and the report of each group, and a table and a page of all.
    ///
    /// Exit codes: 2 while runs are missing; then that of the worst verdict.
    Gather(gather::GatherArgs),
}

pub fn run(command: SweepCommand, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    match command {
        SweepCommand::Plan(args) => plan::run(&args, overrides, json),
        SweepCommand::Run(args) => run::run(&args, json),
        SweepCommand::Submit(args) => submit::run(&args, json),
        SweepCommand::Status(args) => status::run(&args, json),
        SweepCommand::Gather(args) => gather::run(&args, json),
    }
}

/// `9 of 12 runs are done`.
fn done_in_words(folder: &SweepFolder, done: usize) -> String {
    format!("{done} of {} runs are done", folder.tasks().count())
}
