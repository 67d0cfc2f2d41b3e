//! One run of a sweep, and how far it is.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SweepFolder;
use crate::config::RunConfig;
use crate::run_folder::{CONFIG, RunResult, try_lock, watch};
use crate::tensors::replace_json;
use crate::{Error, Result};

/// A line of `tasks.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its number, from 0, which it keeps for ever.
    pub task: usize,
    /// Of which it is a run.
    pub group: String,
    /// Of initial values, shuffles and dropout.
    pub seed: i64,
    /// Not in the sweep any more. What there is of the run stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dropped: bool,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// It is finished.
    Done,
    /// A process is at work at it, on any machine whose locks are these.
    Running,
    /// It has begun, nobody is at work at it, and it goes on with its next attempt.
    Interrupted,
    /// The last attempt ended for a reason that is likely to come again.
    Failed {
        /// One sentence.
        reason: String,
    },
    /// It has not begun.
    Waiting,
}

impl State {
    /// For a reader.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Failed { .. } => "failed",
            Self::Waiting => "waiting",
        }
    }

    /// With the reason of a failure.
    pub fn in_words(&self) -> String {
        match self {
            Self::Failed { reason } => format!("failed: {reason}"),
            other => other.word().to_owned(),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Local time.
    pub when: String,
    /// The machine's name.
    pub host: String,
    /// One sentence.
    pub reason: String,
}

impl Task {
    /// For a reader.
    pub fn in_words(&self) -> String {
        format!("task {}, {} with seed {}", self.task, self.group, self.seed)
    }
}

/// How often, and after which time, a lock is asked for that a glance at the state may hold.
const ASKED: (usize, Duration) = (20, Duration::from_millis(50));

impl SweepFolder {
    /// The run folder of a task.
    pub fn run(&self, task: &Task) -> PathBuf {
        self.group(&task.group).join(format!("seed-{}", task.seed))
    }

    fn beside(&self, task: &Task, ending: &str) -> PathBuf {
        self.run(task).with_file_name(format!("seed-{}.{ending}", task.seed))
    }

    /// How far the run is.
    pub fn state(&self, task: &Task) -> State {
        let run = self.run(task);
        // Held while the files are looked at, so that nobody begins or ends meanwhile.
        let glance = File::open(self.beside(task, "lock")).ok();
        let at_work = |file: &File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        if glance.as_ref().is_some_and(at_work) {
            return State::Running;
        }
        if self.is_done(task) {
            return State::Done;
        }
        // Also somebody who resumes the run by hand.
        if watch(&run).is_err() {
            return State::Running;
        }
        let failure = fs::read_to_string(self.beside(task, "failed.json")).ok();
        match failure.map(|text| serde_json::from_str(&text)) {
            Some(Ok(Failure { reason, .. })) => State::Failed { reason },
            Some(Err(_)) => State::Failed { reason: "its reason cannot be read".to_owned() },
            None if self.has_begun(task) => State::Interrupted,
            None => State::Waiting,
        }
    }

    /// Whether the run is finished.
    pub fn is_done(&self, task: &Task) -> bool {
        self.run(task).join(RunResult::FILE).exists()
    }

    /// Whether there is a run, finished or not.
    pub fn has_begun(&self, task: &Task) -> bool {
        self.run(task).join(CONFIG).exists()
    }

    /// Takes the run for this process, until the file is dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// Another process is at work at it ([`Error::is_interruption`]: later it may be free); a file system without locks.
    pub fn take(&self, task: &Task) -> Result<File> {
        let lock = self.beside(task, "lock");
        let (times, pause) = ASKED;
        for _ in 0..times {
            if let Some(file) = try_lock(&lock)? {
                return Ok(file);
            }
            std::thread::sleep(pause);
        }
        Err(Error::interruption("expected a run to itself, found another process at work at it")
            .at(self.run(task))
            .hint("wait for its end: `dif-sr sweep status` tells"))
    }

    /// Leaves the reason of a failure for [`SweepFolder::state`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn failed(&self, task: &Task, reason: String) -> Result<()> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let when = jiff::ZonedDateTime::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        replace_json(&self.beside(task, "failed.json"), &Failure { when, host, reason })
    }

    /// Takes a former failure away: another attempt begins.
    pub fn forget_failure(&self, task: &Task) {
        // One that is not there is none, and one that cannot be removed is replaced or hidden by a result.
        _ = fs::remove_file(self.beside(task, "failed.json"));
    }

    /// The arguments of `dif-sr` that carry a run to its end: those that begin it, or let it go on.
    ///
    /// # Errors
    /// The group's configuration cannot be read.
    pub fn arguments(&self, task: &Task) -> Result<Vec<OsString>> {
        let run = self.run(task);
        let config = self.group(&task.group).join(CONFIG);
        let mut arguments: Vec<OsString> = vec!["train".into()];
        if self.has_begun(task) {
            // A run goes on as it was begun; the data may lie elsewhere meanwhile.
            let data = RunConfig::load(&[config], &[])?.data.data_path;
            arguments.extend([joined("--resume=", &run), joined("--data_path=", &data)]);
        } else {
            arguments.extend([joined("--out=", &run), joined("--config_files=", &config)]);
            arguments.push(format!("--seed={}", task.seed).into());
        }
        Ok(arguments)
    }
}

/// `--out=PATH`: a path may begin as an option does.
fn joined(option: &str, path: &Path) -> OsString {
    [option.as_ref(), path.as_os_str()].into_iter().collect()
}
