//! A sweep on a real Slurm: two nodes on this machine, one of them lost, tasks that are terminated, killed and cancelled, and a
//! verdict.
//!
//! Only with `DIF_SR_SLURM=required`, as root, with Debian's packages slurmctld, slurmd, slurm-client and munge.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::place::{Evidence, Place, text};
use crate::common::process::{code, stderr, stdout};
use crate::common::{left_out, required};
use crate::{good, log_of, place, states};

/// Daemons of Slurm in a folder of their own; they end with it.
struct Cluster {
    folder: TempDir,
    daemons: Vec<(String, Child)>,
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut cluster = Self { folder, daemons: Vec::new() };
        let at = |name: &str| cluster.folder.path().join(name);
        for name in ["state", "log", "spool.n1", "spool.n2", "run"] {
            fs::create_dir(at(name)).expect("a folder");
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
        let conf =
            include_str!("slurm.conf").replace("@HOST@", host.trim()).replace("@DIR@", &at("").display().to_string());
        fs::write(at("slurm.conf"), conf).expect("written");
        // A mere test of munge: its key is as secret as the folder.
        fs::write(at("munge.key"), [7; 64]).expect("written");
        set_mode(&at("munge.key"), 0o400);
        set_mode(cluster.folder.path(), 0o755);
        let option = |name: &str, file: &str| format!("--{name}={}", at(file).display());
        let munge = ["socket", "pid-file", "log-file", "seed-file"]
            .map(|name| option(name, &format!("munge.{}", name.split('-').next().unwrap_or(name))));
        let munge = [&munge[..], &[option("key-file", "munge.key"), "--force".into(), "--foreground".into()]].concat();
        cluster.daemon("munged", "munged", &munge);
        until("munge", || cluster.path("munge.socket").exists());
        cluster.daemon("slurmctld", "slurmctld", &["-D".into(), "-c".into()]);
        for node in ["n1", "n2"] {
            cluster.node(node);
        }
        until("two idle nodes", || {
            let told = cluster.slurm("sinfo", &["--noheader", "--Node", "--format=%t"]);
            stdout(&told).lines().filter(|line| *line == "idle").count() == 2
        });
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn daemon(&mut self, name: &str, program: &str, arguments: &[String]) {
        let log = fs::File::create(self.path("log").join(format!("{name}.out"))).expect("a log");
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.path("slurm.conf")).args(arguments);
        let both = log.try_clone().expect("a log");
        let child = command.stdin(Stdio::null()).stdout(log).stderr(both).spawn();
        self.daemons.push((name.to_owned(), child.unwrap_or_else(|e| panic!("{program}: {e}"))));
    }

    fn node(&mut self, name: &str) {
        self.daemon(name, "slurmd", &["-D".into(), "-N".into(), name.into()]);
    }

    /// Kills all of a node as a crash of its machine would: the daemon, the task, and Slurm's process that looks after it.
    fn crash(&mut self, name: &str, sweep: &Path, task: usize) {
        let at = self.daemons.iter().position(|(other, _)| other == name).expect("a daemon");
        let (_, mut child) = self.daemons.remove(at);
        child.kill().expect("killed");
        child.wait().expect("a child");
        let (task, keeper) = process(sweep, task);
        for id in [&keeper, &task] {
            let killed = Command::new("kill").args(["-9", id]).status().expect("kill runs");
            assert!(killed.success());
        }
        until("the end of the task", || !Path::new("/proc").join(&task).exists());
    }

    fn environment(&self, command: &mut Command) {
        command.env("SLURM_CONF", self.path("slurm.conf"));
    }

    fn slurm(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        self.environment(&mut command);
        command.args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"))
    }

    /// The tasks that the queue holds, each with its state and its node: `0 RUNNING n1`.
    fn queue(&self) -> Vec<String> {
        let told = self.slurm("squeue", &["--noheader", "--array", "--format=%K %T %N"]);
        stdout(&told).lines().map(|line| line.trim().to_owned()).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.slurm("scancel", &["--user=root", "--signal=KILL"]);
        if std::thread::panicking() {
            for entry in fs::read_dir(self.path("log")).expect("logs").flatten() {
                let log = fs::read_to_string(entry.path()).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(15).collect();
                println!("{}: {}", entry.path().display(), last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        while let Some((_, mut child)) = self.daemons.pop() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(420), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The ids of the process of a task and of its parent.
fn process(sweep: &Path, task: usize) -> (String, String) {
    let words = |id: &str| fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let (sweep, task) = (sweep.display().to_string(), format!("--task={task}"));
    let ids = fs::read_dir("/proc").expect("processes").flatten();
    let mut ids = ids.filter_map(|entry| entry.file_name().into_string().ok());
    let is_it = |id: &String| {
        let words = words(id);
        let has = |word: &str| words.split('\0').any(|other| other == word);
        has(&sweep) && has(&task)
    };
    let id = ids.find(is_it).expect("a process of the task");
    let status = text(format!("/proc/{id}/status").as_ref());
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent").trim().to_owned();
    (id, parent)
}

/// Four seeds, long enough for all that happens to them.
const SWEEP: &str = "config_files: [toy.yaml]
keys: {epochs: 200, stopping_step: 200, checkpoint_interval: 0.5}
seeds: [1, 2, 3, 4]
expect: expect.yaml
";

/// Submits what is left, and returns the job's number.
fn submit(cluster: &Cluster, place: &Place, tasks: usize) -> String {
    let mut command =
        place.command(&["sweep", "submit", "out", "--to=slurm", "--", "--time=10", "--cpus-per-task=1", "--mem=500"]);
    cluster.environment(&mut command);
    let output = command.output().expect("the binary runs");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let told = stdout(&output);
    let job = told.strip_prefix("job ").and_then(|told| told.strip_suffix(&format!(": {tasks} tasks\n")));
    job.unwrap_or_else(|| panic!("{told}")).to_owned()
}

#[test]
fn a_sweep_that_slurm_interrupts_is_gathered_into_a_verdict() {
    if !required("DIF_SR_SLURM") {
        return left_out("no Slurm; set DIF_SR_SLURM=required where its daemons can be started");
    }
    let place = place(SWEEP);
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=whole"]);
    let mut cluster = Cluster::start();
    let run = |task: usize| place.path(&format!("out/toy/seed-{}", task + 1));
    let trains = |task: usize| log_of(&run(task)).contains("epoch 1 evaluating");

    let job = submit(&cluster, &place, 4);
    until("four tasks at work", || (0..4).all(trains));
    assert_eq!(states(&place), ["running"; 4]);
    let scancel = |arguments: &[&str]| {
        let told = cluster.slurm("scancel", arguments);
        assert_eq!(code(&told), 0, "{}", stderr(&told));
    };
    // One is told to save and go, as before its time is over: it comes back by itself.
    scancel(&["--signal=TERM", "--batch", &format!("{job}_0")]);
    // One is killed, and one cancelled by its user: they do not.
    scancel(&["--signal=KILL", "--batch", &format!("{job}_1")]);
    scancel(&[&format!("{job}_3")]);
    until("a task that is back in the queue", || cluster.queue().iter().any(|line| line.starts_with("0 PENDING")));
    until("two tasks that are in no queue", || !cluster.queue().iter().any(|line| line.starts_with(['1', '3'])));
    // A node is lost with all that runs there: Slurm takes its task to the other one.
    let queue = cluster.queue();
    let node = queue.iter().find_map(|line| line.strip_prefix("2 RUNNING ")).unwrap_or_else(|| panic!("{queue:?}"));
    cluster.crash(node, &place.path("out"), 2);
    assert_eq!(states(&place), ["interrupted"; 4], "{}", log_of(&run(2)));
    assert_eq!(code(&place.run(&["sweep", "gather", "out"])), 2, "runs are missing");
    // A requeued task waits for two minutes: time for the same runs without Slurm and without an interruption.
    good(&place, &["sweep", "run", "whole", "--jobs=2"]);
    until("the end of the array", || cluster.queue().is_empty());
    assert_eq!(states(&place), ["done", "interrupted", "done", "interrupted"]);
    println!("{}", good(&place, &["sweep", "status", "out"]));

    cluster.node(node);
    submit(&cluster, &place, 2);
    until("all runs", || states(&place).iter().all(|state| state == "done"));
    let gathered = good(&place, &["sweep", "gather", "out"]);
    println!("{gathered}");
    assert!(gathered.contains("\ntoy: pass: all 2 values are within their margin\n"), "{gathered}");
    for task in 0..4 {
        let log = log_of(&run(task));
        assert!(log.contains("Resumed after"), "task {task} was interrupted: {log}");
        let whole = place.path(&format!("whole/toy/seed-{}", task + 1));
        Evidence::of(&run(task)).assert_equal(&Evidence::of(&whole), &format!("task {task} on Slurm and not"));
    }
    // What a task said before it was requeued is still there.
    let log = text(&place.path(&format!("out/logs/{job}_0.log")));
    assert!(log.contains("interrupted"), "{log}");
}
