//! `dif-sr sweep submit`

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use dif_sr::sweep::slurm::{Array, arrays, max_array_size};
use dif_sr::sweep::{State, SweepFolder};
use dif_sr::{Error, Result};
use serde_json::{Value, json};

use super::super::{Outcome, output};

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The folder of the sweep, which all machines of the engine must see.
    #[arg(value_name = "DIR")]
    sweep: PathBuf,
    /// The engine.
    #[arg(long, value_name = "ENGINE")]
    to: Engine,
    /// Print the commands and submit nothing.
    #[arg(long)]
    print: bool,
    /// Run at most N tasks of an array at a time.
    #[arg(long, value_name = "N")]
    at_once: Option<NonZeroUsize>,
    /// Options of sbatch, behind `--`: time, memory, partition, account.
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engine {
    /// Job arrays; interrupted tasks are requeued.
    Slurm,
}

/// Options of sbatch that would take the tasks from the array, or the array from this program.
const OWN: [&str; 7] = ["--array", "-a", "--parsable", "--wrap", "--wait", "-W", "--test-only"];

pub fn run(args: &SubmitArgs, json: bool) -> Result<Outcome> {
    let Engine::Slurm = args.to;
    let own = |option: &&OsString| {
        let text = option.to_string_lossy();
        OWN.contains(&text.split('=').next().unwrap_or_default()) || text.starts_with("-a")
    };
    if let Some(option) = args.options.iter().find(own) {
        let option = option.to_string_lossy();
        return Err(Error::new(format!("expected options of sbatch that leave the array as it is, found `{option}`"))
            .hint("use --at-once=N for tasks at a time, --print for the commands"));
    }
    let folder = SweepFolder::open(&args.sweep)?;
    let is_open = |state: State| !matches!(state, State::Done | State::Running);
    let open: Vec<usize> = folder.tasks().filter(|task| is_open(folder.state(task))).map(|task| task.task).collect();
    let arrays = arrays(&open, max_array());
    let jobs = arrays.iter().map(|array| Job::new(args, array)).collect::<Result<Vec<_>>>()?;
    if open.is_empty() && !json {
        output::print("nothing to submit: all runs are done or at work")?;
        return Ok(Outcome::Pass);
    }
    let told = |key: &str, value: String, array: &Array| {
        let mut object = json!({ "offset": array.offset, "indices": array.indices, "tasks": array.tasks });
        object[key] = value.into();
        object
    };
    if args.print {
        let texts = jobs.iter().map(Job::text);
        if json {
            let jobs: Vec<Value> = texts.zip(&arrays).map(|(text, array)| told("command", text, array)).collect();
            output::print_json(&json!({ "jobs": jobs, "tasks": open.len() }))?;
        } else {
            output::print(&texts.collect::<Vec<_>>().join("\n"))?;
        }
        return Ok(Outcome::Pass);
    }
    folder.logs()?;
    let mut submitted: Vec<Value> = Vec::new();
    for (job, array) in jobs.iter().zip(&arrays) {
        let id = job.submit().map_err(|error| match submitted.len() {
            0 => error,
            n => error.and(&format!(" ({} of {} arrays were submitted before)", n, jobs.len())),
        })?;
        if !json {
            output::print(&format!("job {id}: {}", output::counted(array.tasks, "task")))?;
        }
        submitted.push(told("job", id, array));
    }
    if json {
        output::print_json(&json!({ "jobs": submitted, "tasks": open.len() }))?;
    }
    Ok(Outcome::Pass)
}

/// What Slurm says of the size of its arrays, or its default.
fn max_array() -> usize {
    let told = Command::new("scontrol").args(["show", "config"]).output();
    max_array_size(&told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default())
}

/// A call of sbatch.
struct Job {
    options: Vec<OsString>,
    script: Vec<u8>,
}

impl Job {
    fn new(args: &SubmitArgs, array: &Array) -> Result<Self> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|e| Error::io(path, "find the folder", e));
        let folder = absolute(&args.sweep)?;
        let program = std::env::current_exe().map_err(|e| Error::new(format!("cannot find this program: {e}")))?;
        let name = folder.file_name().unwrap_or(OsStr::new("sweep"));
        let at_once = args.at_once.map(|n| format!("%{n}")).unwrap_or_default();
        // In the pattern of a file's name a percent sign begins a part that is filled in.
        let logs = folder.join("logs").as_os_str().to_string_lossy().replace('%', "%%");
        let mut options: Vec<OsString> = vec![
            format!("--array={}{at_once}", array.indices).into(),
            [OsStr::new("--job-name="), name].iter().copied().collect(),
            format!("--output={logs}/%A_%a.log").into(),
            // What a task said before it was requeued stays.
            "--open-mode=append".into(),
            "--requeue".into(),
            // Two minutes before its time is over a task is told to save and go.
            "--signal=B:TERM@120".into(),
        ];
        options.extend(args.options.iter().cloned());
        let [program, folder] = [program, folder].map(|path| quoted(path.as_os_str()));
        let (program, folder) = (program?, folder?);
        let begin = "#!/bin/bash\n\
                     # Skipped if the run is finished; goes on if it has begun; back to the queue if it is interrupted.\n\
                     exec ";
        let end = format!(" --task=$(({} + SLURM_ARRAY_TASK_ID)) --requeue\n", array.offset);
        let script = [begin.as_bytes(), &program, b" sweep run ", &folder, end.as_bytes()].concat();
        Ok(Self { options, script })
    }

    /// For a shell.
    fn text(&self) -> String {
        let options = self.options.iter().filter_map(|option| quoted(option).ok());
        let options: Vec<String> = options.map(|option| String::from_utf8_lossy(&option).into_owned()).collect();
        format!("sbatch {} <<'END'\n{}END", options.join(" "), String::from_utf8_lossy(&self.script))
    }

    /// The number of the job.
    fn submit(&self) -> Result<String> {
        let mut command = Command::new("sbatch");
        command
            .arg("--parsable")
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let not_run = |e: std::io::Error| {
            Error::new(format!("cannot run sbatch: {e}"))
                .hint("submit where Slurm's commands are, or see them with --print")
        };
        let mut child = command.spawn().map_err(not_run)?;
        // One that does not read its script ends with a reason of its own.
        _ = child.stdin.take().map(|mut stdin| stdin.write_all(&self.script));
        let output = child.wait_with_output().map_err(not_run)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
        if !output.status.success() {
            let said = text(&output.stderr);
            let said = if said.is_empty() { format!("{}", output.status) } else { said };
            return Err(
                Error::new(format!("sbatch has not taken the job: {said}")).hint("correct the options behind `--`")
            );
        }
        // With the cluster's name behind a semicolon, where there are several.
        Ok(text(&output.stdout).split(';').next().unwrap_or_default().to_owned())
    }
}

/// A word of a shell's line.
fn quoted(word: &OsStr) -> Result<Vec<u8>> {
    shlex::bytes::try_quote(word.as_bytes()).map(|word| word.into_owned()).map_err(|e| {
        Error::new(format!("cannot write `{}` for a shell: {e}", word.to_string_lossy())).hint("rename the folder")
    })
}
