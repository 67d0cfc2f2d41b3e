//! `dif-sr sweep run`

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use dif_sr::run_folder::RunResult;
use dif_sr::sweep::{SweepFolder, Task};
use dif_sr::{Error, Result};
use serde_json::json;

use super::super::{Outcome, call, output, ranks};
use super::pool;

/// Where engines say which task of an array this is.
const INDICES: [&str; 2] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The folder of the sweep.
    #[arg(value_name = "DIR")]
    sweep: PathBuf,
    /// This task alone [default: what SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX says, or else all].
    #[arg(long, value_name = "N")]
    task: Option<usize>,
    /// Run all tasks here, N at a time [default: 1].
    #[arg(long, value_name = "N", conflicts_with = "task")]
    jobs: Option<NonZeroUsize>,
    /// Hand the task back to Slurm if it is interrupted and can go on.
    #[arg(long, conflicts_with = "jobs")]
    requeue: bool,
}

pub fn run(args: &RunArgs, json: bool) -> Result<Outcome> {
    ranks::alone().map_err(|error| error.hint("unset its variables, and number tasks by --task"))?;
    let folder = SweepFolder::open(&args.sweep)?;
    let number = match (args.task, args.jobs) {
        (Some(number), _) => Some(number),
        (None, Some(_)) => None,
        (None, None) => number_of_array()?,
    };
    let Some(number) = number else {
        if args.requeue {
            return Err(Error::new("expected one task beside --requeue, found none").hint("name it with --task=N"));
        }
        return pool::run(&folder, args.jobs.map_or(1, NonZeroUsize::get), json);
    };
    let ended = one(&folder, folder.task(number)?, json);
    if let Err(error) = &ended
        && args.requeue
        && error.is_interruption()
    {
        requeue().unwrap_or_else(|e| output::note(&e.to_string()));
    }
    ended
}

/// The number that an engine gives to a process of an array.
fn number_of_array() -> Result<Option<usize>> {
    let mut found: Option<(&str, usize)> = None;
    for name in INDICES {
        let Some(text) = std::env::var_os(name) else { continue };
        let text = text.to_string_lossy();
        let number: usize = text.parse().map_err(|_| {
            Error::new(format!("expected the number of a task in {name}, found `{text}`")).hint("name it with --task=N")
        })?;
        match found {
            Some((other, another)) if another != number => {
                return Err(Error::new(format!(
                    "expected one task, found {another} in {other} and {number} in {name}"
                ))
                .hint("name it with --task=N"));
            }
            _ => found = Some((name, number)),
        }
    }
    Ok(found.map(|(_, number)| number))
}

/// Carries a task's run to its end, in this process, which the engine's signals reach.
fn one(folder: &SweepFolder, task: &Task, json: bool) -> Result<Outcome> {
    if task.dropped {
        output::note(&format!("{} is dropped from the sweep", task.in_words()));
        return Ok(Outcome::Pass);
    }
    let ended = attempt(folder, task, json);
    // The result may be there, and could not be printed.
    if let Err(error) = &ended
        && !error.is_interruption()
        && !folder.is_done(task)
    {
        folder.failed(task, error.to_string()).unwrap_or_else(|e| output::note(&e.to_string()));
    }
    ended
}

fn attempt(folder: &SweepFolder, task: &Task, json: bool) -> Result<Outcome> {
    let _lock = folder.take(task)?;
    if !folder.is_done(task) {
        folder.forget_failure(task);
        return call(folder.arguments(task)?, json);
    }
    let run = folder.run(task);
    if json {
        output::print_json(&json!({ "run": output::place(&run), "result": RunResult::read(&run)? }))?;
    } else {
        output::print(&format!("{} is done: {}", task.in_words(), run.display()))?;
    }
    Ok(Outcome::Pass)
}

/// Gives the job of this process back to Slurm's queue, if nobody has cancelled it.
fn requeue() -> Result<()> {
    let unknown = |problem: String| Error::new(problem).hint("submit the task once more");
    let variable = |name: &str| {
        std::env::var(name)
            .map_err(|_| unknown(format!("expected the number of a job in {name}, found none: not requeued")))
    };
    // SLURM_JOB_ID will not do: for the last task of an array it is the number of the array, with all of its tasks.
    let job = format!("{}_{}", variable("SLURM_ARRAY_JOB_ID")?, variable("SLURM_ARRAY_TASK_ID")?);
    let slurm = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(&job).output();
        let output = output.map_err(|e| unknown(format!("cannot run {program}: {e}")))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(unknown(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))),
        }
    };
    match &*slurm("squeue", &["--noheader", "--format=%T", "--jobs"])? {
        "RUNNING" => slurm("scontrol", &["requeue"]).map(drop),
        // A job that was cancelled is completing.
        state => {
            output::note(&format!("job {job} is {}: not requeued", if state.is_empty() { "over" } else { state }));
            Ok(())
        }
    }
}
