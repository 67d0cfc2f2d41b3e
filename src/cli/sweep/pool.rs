//! All tasks of a sweep on this machine, some at a time: each a process of this program, as any engine would run it.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use dif_sr::config::RunConfig;
use dif_sr::run_folder::RunResult;
use dif_sr::sweep::{State, SweepFolder, Task};
use dif_sr::{Error, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::json;

use super::super::training::stop_on_signals;
use super::super::{Outcome, output};

/// How often the processes are looked at.
const GLANCE: Duration = Duration::from_millis(50);

pub fn run(folder: &SweepFolder, jobs: usize, json: bool) -> Result<Outcome> {
    let stop = stop_on_signals()?;
    let is_open = |task: &&Task| folder.state(task) != State::Done;
    let mut waiting: VecDeque<&Task> = folder.tasks().filter(is_open).collect();
    if jobs > 1 && !waiting.is_empty() {
        note_threads(folder)?;
    }
    let mut at_work: Vec<(&Task, Child)> = Vec::new();
    let mut told = false;
    loop {
        while !told && at_work.len() < jobs {
            let Some(task) = waiting.pop_front() else { break };
            match begin(folder, task) {
                Ok(child) => at_work.push((task, child)),
                // The others end in order before the error is told.
                Err(error) => {
                    at_work.iter().for_each(|(_, child)| interrupt(child));
                    at_work.iter_mut().for_each(|(_, child)| _ = child.wait());
                    return Err(error);
                }
            }
            say(&format!("{} begins", task.in_words()));
        }
        if at_work.is_empty() {
            break;
        }
        if stop.load(Ordering::Relaxed) && !told {
            told = true;
            say(&format!("interrupted: {} saved", if at_work.len() == 1 { "a run is" } else { "runs are" }));
            at_work.iter().for_each(|(_, child)| interrupt(child));
        }
        std::thread::sleep(GLANCE);
        let mut i = 0;
        while i < at_work.len() {
            match at_work[i].1.try_wait().map_err(|e| Error::new(format!("cannot wait for a run: {e}")))? {
                Some(status) => ended(folder, at_work.remove(i).0, status),
                None => i += 1,
            }
        }
    }
    let done = folder.tasks().filter(|task| folder.state(task) == State::Done).count();
    let value = json!({ "sweep": output::place(folder.path()), "done": done, "runs": folder.tasks().count() });
    output::result(json, &value, || super::done_in_words(folder, done))?;
    left(folder).map(|()| Outcome::Pass)
}

/// Starts a task in a process group of its own: an interruption at the terminal reaches it once, from here.
fn begin(folder: &SweepFolder, task: &Task) -> Result<Child> {
    let log = folder.logs()?.join(format!("{}.log", task.task));
    let file = OpenOptions::new().create(true).append(true).open(&log);
    let file = file.map_err(|e| Error::io(&log, "open the log", e))?;
    let program = std::env::current_exe().map_err(|e| Error::new(format!("cannot find this program: {e}")))?;
    let mut command = Command::new(program);
    command.args(["sweep", "run"]).arg(folder.path()).arg(format!("--task={}", task.task));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).process_group(0);
    // However this process ends, its runs are interrupted, and save.
    // SAFETY: a system call alone, between fork and exec.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
    command.spawn().map_err(|e| Error::new(format!("cannot start {}: {e}", task.in_words())))
}

fn interrupt(child: &Child) {
    // A process that has ended meanwhile needs no signal.
    _ = kill_process(Pid::from_child(child), Signal::TERM);
}

/// Says how a task ended, and keeps the reason where the task itself could not.
fn ended(folder: &SweepFolder, task: &Task, status: ExitStatus) {
    let is_told = match status.code() {
        Some(0 | 4) => true,
        Some(2) => matches!(folder.state(task), State::Failed { .. }),
        _ => false,
    };
    if !is_told && !folder.is_done(task) {
        let how = match status.signal() {
            Some(9) => "signal 9 ended it, as where no memory is left".to_owned(),
            Some(signal) => format!("signal {signal} ended it"),
            None => format!("it ended with exit code {}", status.code().unwrap_or_default()),
        };
        let reason = format!("{how}; see logs/{}.log, and run it once more", task.task);
        folder.failed(task, reason).unwrap_or_else(|e| output::note(&e.to_string()));
    }
    let state = folder.state(task);
    let figure = match state {
        State::Done => RunResult::read(&folder.run(task)).ok().and_then(|result| {
            result.test.metrics.iter().next().map(|(metric, value)| format!(", test {metric} {value:.4}"))
        }),
        _ => None,
    };
    say(&format!("{}: {}{}", task.in_words(), state.in_words(), figure.unwrap_or_default()));
}

/// Runs that each take every core are slower together than one after the other.
fn note_threads(folder: &SweepFolder) -> Result<()> {
    for (group, _) in folder.groups() {
        let config = RunConfig::load(&[folder.group(group).join("config.yaml")], &[])?;
        if config.run.threads.is_none() {
            output::note(&format!("each run of {group} computes on all cores: set `threads` beside --jobs"));
            break;
        }
    }
    Ok(())
}

/// Tells beside the result, on standard error, which may be gone.
fn say(line: &str) {
    _ = writeln!(std::io::stderr(), "{line}");
}

/// What is left to say of tasks after all were tried: an error where one is not done.
fn left(folder: &SweepFolder) -> Result<()> {
    let states = folder.tasks().map(|task| (task, folder.state(task)));
    let open: Vec<(&Task, State)> = states.filter(|(_, state)| *state != State::Done).collect();
    let failed = open.iter().filter(|(_, state)| matches!(state, State::Failed { .. })).count();
    let all = folder.tasks().count();
    let first = open.iter().find_map(|(task, state)| match state {
        State::Failed { reason } => Some(format!("{}: {reason}", task.in_words())),
        _ => None,
    });
    match (first, open.len()) {
        (_, 0) => Ok(()),
        (Some(first), _) => Err(Error::new(format!("{failed} of {all} runs failed, the first of them {first}"))
            .at(folder.path())
            .hint("`dif-sr sweep status` has all reasons")),
        (None, n) => Err(Error::interruption(format!("{n} of {all} runs are not done"))
            .at(folder.path())
            .hint("go on with `dif-sr sweep run`; `dif-sr sweep status` tells where others are at work")),
    }
}
