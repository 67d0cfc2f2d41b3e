//! Sweeps as processes, on the toy data: what is planned, what happens to tasks that are killed, and what is gathered.

#[path = "../common/mod.rs"]
mod common;
mod engines;
mod gather;
mod plan;
mod slurm;

use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use common::place::{Evidence, Place, ended, sentence, signal, text, wait_until};
use common::process::{code, dif_sr_in_64_gb, stderr, stdout};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Two configurations with two seeds, on the data of a [`Place`].
const SWEEP: &str = "config_files: [toy.yaml]
configurations:
  gate:
  sum: {keys: {fusion_type: sum}}
seeds: [1, 2]
";

/// The figures of an expectation that every run passes.
const PASSES: &str =
    "figures: {source: by hand, margin: {metric: 1}, of: {dataset: toy}, test: {recall@10: 0.5, ndcg@10: 0.5}}\n";

/// A place with `toy.yaml`, a configuration of its data, and `sweep.yaml`.
fn place(sweep: &str) -> Place {
    let place = Place::new(&["--metrics=[Recall, NDCG]"]);
    let keys = place.keys.iter().map(|key| key.trim_start_matches("--").replacen('=', ": ", 1) + "\n");
    fs::write(place.path("toy.yaml"), keys.collect::<String>()).expect("written");
    fs::write(place.path("sweep.yaml"), sweep).expect("written");
    fs::write(place.path("expect.yaml"), PASSES).expect("written");
    place
}

/// A place whose sweep is planned in `out`.
fn planned(sweep: &str) -> Place {
    let place = place(sweep);
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    place
}

/// What a command prints that must not fail.
fn good(place: &Place, arguments: &[&str]) -> String {
    stdout(&place.good(arguments))
}

/// The states of the tasks in `out`, in their order.
fn states(place: &Place) -> Vec<String> {
    let told: Value = serde_json::from_str(&good(place, &["sweep", "status", "out", "--json"])).expect("JSON");
    let state = |task: &Value| task["state"].as_str().expect("a state").to_owned();
    told.as_array().expect("a list").iter().map(state).collect()
}

/// Begins a task of `out` and leaves it to itself.
fn spawn(place: &Place, arguments: &[&str]) -> Child {
    let mut command = place.command(&[&["sweep", "run", "out"], arguments].concat());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs")
}

fn log_of(run: &Path) -> String {
    fs::read_to_string(run.join("log.txt")).unwrap_or_default()
}

/// Until the run has something to go on from.
fn until_it_trains(run: &Path) {
    wait_until("an epoch", || log_of(run).contains("epoch 0 evaluating") && run.join("last.safetensors").exists());
}

#[test]
fn a_task_that_is_killed_goes_on_to_the_bit() {
    let place = planned(&format!("{SWEEP}keys: {{epochs: 12, stopping_step: 12}}\n"));
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=whole"]);
    good(&place, &["sweep", "run", "whole", "--task=2"]);
    let run = place.path("out/toy/sum/seed-1");
    let mut child = spawn(&place, &["--task=2"]);
    until_it_trains(&run);
    child.kill().expect("killed");
    child.wait().expect("a child");
    assert_eq!(states(&place), ["waiting", "waiting", "interrupted", "waiting"], "the lock went with the process");
    assert!(good(&place, &["sweep", "status", "out"]).contains("task 2, toy/sum with seed 1: interrupted\n"));
    // The files that it was planned from are needed no more.
    fs::remove_file(place.path("toy.yaml")).expect("removed");
    fs::remove_file(place.path("sweep.yaml")).expect("removed");
    good(&place, &["sweep", "run", "out", "--task=2"]);
    assert!(log_of(&run).contains("Resumed after"), "{}", log_of(&run));
    Evidence::of(&run).assert_equal(&Evidence::of(&place.path("whole/toy/sum/seed-1")), "killed and not killed");
    // Once more nothing happens.
    let before = fs::metadata(run.join("result.json")).expect("a result").modified().expect("a time");
    let again = good(&place, &["sweep", "run", "out", "--task=2"]);
    assert_eq!(again, "task 2, toy/sum with seed 1 is done: out/toy/sum/seed-1\n");
    assert_eq!(fs::metadata(run.join("result.json")).expect("a result").modified().expect("a time"), before);
}

#[test]
fn a_task_is_what_train_does_with_its_configuration_and_seed() {
    let place = planned(SWEEP);
    good(&place, &["sweep", "run", "out", "--task=1"]);
    good(&place, &["train", "--out=plain", "--config_files", "toy.yaml", "--seed=2"]);
    let [own, plain] = ["out/toy/gate/seed-2", "plain"].map(|run| text(&place.path(run).join("ranks.tsv")));
    assert_eq!(own, plain);
    let other = planned(SWEEP);
    good(&other, &["sweep", "run", "out", "--task=0"]);
    assert_ne!(own, text(&other.path("out/toy/gate/seed-1/ranks.tsv")), "another seed is another run");
}

#[test]
fn a_second_process_at_a_task_is_told_so_and_writes_nothing() {
    // Longer than anybody waits.
    let place = planned(&format!("{SWEEP}keys: {{epochs: 100000, stopping_step: 100000}}\n"));
    let run = place.path("out/toy/gate/seed-1");
    let first = spawn(&place, &["--task=0"]);
    // Already while the first one loads the data.
    wait_until("the lock", || states(&place)[0] == "running");
    let told = sentence(4, &place.run(&["sweep", "run", "out", "--task=0"]));
    assert_eq!(
        told,
        "out/toy/gate/seed-1: expected a run to itself, found another process at work at it; wait for its end: \
         `dif-sr sweep status` tells"
    );
    until_it_trains(&run);
    signal(&first, "TERM");
    assert_eq!(ended(first).code(), Some(4));
    assert!(!log_of(&run).contains("Resumed") && states(&place)[0] == "interrupted");
    assert!(!place.path("out/toy/gate/seed-1.failed.json").exists(), "it is no failure");
}

/// A look at the state holds the lock for an instant: tasks that begin meanwhile do not take it for another process.
#[test]
fn looking_at_a_sweep_does_not_disturb_it() {
    let place = planned("config_files: [toy.yaml]\nkeys: {epochs: 1}\nseeds: [1, 2, 3, 4]\n");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| good(&place, &["sweep", "run", "out", "--jobs=1"]));
        while !run.is_finished() {
            states(&place);
        }
        run.join().expect("all tasks run");
    });
    assert_eq!(states(&place), ["done"; 4]);
}

#[test]
fn a_run_whose_lock_cannot_be_taken_has_failed_and_says_why() {
    let place = planned("config_files: [toy.yaml]\nkeys: {epochs: 1}\nseeds: [1, 2]\n");
    fs::create_dir_all(place.path("out/toy/seed-1.lock")).expect("a folder where the lock shall be");
    let told = sentence(2, &place.run(&["sweep", "run", "out", "--jobs=2"]));
    let expected = "out: 1 of 2 runs failed, the first of them task 0, toy with seed 1: out/toy/seed-1.lock: ";
    assert!(told.starts_with(expected), "{told}");
    assert_eq!(states(&place), ["failed", "done"]);
    fs::remove_dir(place.path("out/toy/seed-1.lock")).expect("removed");
    assert_eq!(good(&place, &["sweep", "run", "out", "--jobs=2"]), "2 of 2 runs are done\n");
}

#[test]
fn the_runs_of_a_sweep_that_is_killed_end_too_and_can_go_on() {
    let place = planned(&format!("{SWEEP}keys: {{epochs: 100000, stopping_step: 100000}}\n"));
    let mut sweep = spawn(&place, &["--jobs=2"]);
    ["seed-1", "seed-2"].iter().for_each(|seed| until_it_trains(&place.path("out/toy/gate").join(seed)));
    sweep.kill().expect("killed");
    sweep.wait().expect("a child");
    wait_until("both runs to end", || states(&place)[..2] == ["interrupted", "interrupted"]);
}

#[test]
fn an_interrupted_sweep_saves_its_runs_and_goes_on() {
    let place = planned(&format!("{SWEEP}keys: {{epochs: 40, stopping_step: 40}}\n"));
    let child = spawn(&place, &["--jobs=2"]);
    until_it_trains(&place.path("out/toy/gate/seed-1"));
    until_it_trains(&place.path("out/toy/gate/seed-2"));
    signal(&child, "TERM");
    assert_eq!(ended(child).code(), Some(4));
    let interrupted = states(&place);
    assert!(!interrupted.contains(&"running".to_owned()), "it has waited for its children: {interrupted:?}");
    assert_eq!(interrupted[2..], ["waiting", "waiting"], "none begins after the signal");
    assert_eq!(good(&place, &["sweep", "run", "out", "--jobs=2"]), "4 of 4 runs are done\n");
    let log = text(&place.path("out/logs/0.log"));
    assert!(log.contains("Trainable parameters"), "{log}");
}

#[test]
fn a_task_that_fails_is_told_with_its_reason_and_stops_no_other() {
    let place = planned(
        "config_files: [toy.yaml]\nkeys: {epochs: 1}\nconfigurations:\n  good:\n  wide: {keys: {hidden_size: 1000000, inner_size: 1000000}}\nseeds: [1]\n",
    );
    let output = dif_sr_in_64_gb(place.folder.path(), &["sweep", "run", "out"]);
    let told = sentence(2, &output);
    assert!(
        told.starts_with("out: 1 of 2 runs failed, the first of them task 1, toy/wide with seed 1: stopped inside"),
        "{told}"
    );
    assert_eq!(
        (stdout(&output), states(&place)),
        ("1 of 2 runs are done\n".to_owned(), vec!["done".into(), "failed".into()])
    );
    let status = good(&place, &["sweep", "status", "out"]);
    assert!(status.contains("task 1, toy/wide with seed 1: failed: stopped inside of the computation"), "{status}");
    let failure: Value = serde_json::from_str(&text(&place.path("out/toy/wide/seed-1.failed.json"))).expect("JSON");
    assert!(failure["host"].is_string() && failure["when"].is_string(), "{failure}");
    // Nothing of it has begun, so that another plan may cure it.
    let cured = text(&place.path("sweep.yaml")).replace("1000000", "8");
    fs::write(place.path("sweep.yaml"), cured).expect("written");
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    good(&place, &["sweep", "run", "out"]);
    assert_eq!(states(&place), ["done", "done"]);
}

#[test]
fn data_that_vanish_fail_a_task_until_they_are_back_or_planned_elsewhere() {
    let place = planned("config_files: [toy.yaml]\nseeds: [1]\nkeys: {epochs: 12, stopping_step: 12}\n");
    let run = place.path("out/toy/seed-1");
    let mut child = spawn(&place, &["--task=0"]);
    until_it_trains(&run);
    child.kill().expect("killed");
    child.wait().expect("a child");
    fs::create_dir(place.path("moved")).expect("a folder");
    fs::rename(place.path("toy"), place.path("moved/toy")).expect("renamed");
    let told = sentence(2, &place.run(&["sweep", "run", "out", "--task=0"]));
    assert!(told.contains("toy.inter"), "{told}");
    assert!(good(&place, &["sweep", "status", "out"]).contains(&format!("failed: {told}")));
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out", "--data_path=moved"]);
    good(&place, &["sweep", "run", "out"]);
    assert_eq!(states(&place), ["done"]);
}

#[test]
fn a_process_that_is_killed_under_the_sweep_is_a_failure_and_the_next_attempt_goes_on() {
    let place = planned("config_files: [toy.yaml]\nseeds: [1]\nkeys: {epochs: 12, stopping_step: 12}\n");
    let run = place.path("out/toy/seed-1");
    let child = spawn(&place, &["--jobs=1"]);
    until_it_trains(&run);
    let of_child = format!("/proc/{0}/task/{0}/children", child.id());
    let task = text(of_child.as_ref()).trim().parse().ok().and_then(Pid::from_raw).expect("the task's process");
    kill_process(task, Signal::KILL).expect("it is there");
    assert_eq!(ended(child).code(), Some(2));
    let status = good(&place, &["sweep", "status", "out"]);
    assert!(status.contains("failed: signal 9 ended it, as where no memory is left; see logs/0.log"), "{status}");
    good(&place, &["sweep", "run", "out"]);
    assert!(log_of(&run).contains("Resumed after"));
}

/// Between the first file of a run folder and `config.yaml`, which says that the run has begun.
#[test]
fn a_process_that_is_killed_before_its_run_has_begun_is_in_nobodys_way() {
    let place = planned("config_files: [toy.yaml]\nkeys: {epochs: 1}\nseeds: [1]\n");
    let run = place.path("out/toy/seed-1");
    fs::create_dir(&run).expect("a folder");
    for (name, text) in
        [("lock", ""), ("log.txt", ""), ("losses.tsv", "epoch\tbatch\n"), ("environment.json.part", "{")]
    {
        fs::write(run.join(name), text).expect("written");
    }
    good(&place, &["sweep", "run", "out"]);
    assert!(!run.join("environment.json.part").exists() && run.join("result.json").exists());
    // What holds a line of a training is never taken away.
    fs::create_dir(place.path("other")).expect("a folder");
    for (name, text) in [("lock", ""), ("log.txt", "19 Jan 18:11    INFO  mine\n")] {
        fs::write(place.path("other").join(name), text).expect("written");
    }
    let told = place.refusal(2, &["train", "--out=other", "--config_files=toy.yaml"]);
    assert!(told.starts_with("other: expected a new or empty folder, found files in it"), "{told}");
}

#[test]
fn a_command_that_cannot_run_says_what_to_write() {
    let place = planned(SWEEP);
    let mut told = String::new();
    for arguments in [
        &["run"][..],
        &["run", "nowhere"],
        &["run", "toy"],
        &["run", "out", "--task=4"],
        &["run", "out", "--task=first"],
        &["run", "out", "--task=-1"],
        &["run", "out", "--jobs=0"],
        &["run", "out", "--jobs=2", "--task=1"],
        &["run", "out", "--requeue"],
        &["run", "out", "--seed=3"],
        &["status"],
        &["status", "sweep.yaml"],
        &["gather", "nowhere"],
        &["submit", "out"],
        &["submit", "out", "--to=pbs"],
        &["submit", "out", "--to=slurm", "--time=1:00:00"],
        &["submit", "out", "--to=slurm", "--", "--array=0-3"],
        &["submit", "out", "--to=slurm", "--", "-W"],
        &["plan", "sweep.yaml"],
        &["plan", "sweep.yaml", "--out=toy"],
        &["plan", "nowhere.yaml", "--out=new"],
        &["plan", "sweep.yaml", "--out=new", "--epoch=3"],
        &["plan", "sweep.yaml", "--out=new", "--seed=3"],
        &["plan", "sweep.yaml", "--out=toy.yaml"],
    ] {
        let output = place.run(&[&["sweep"], arguments].concat());
        assert_eq!(code(&output), 2, "{arguments:?}: {}{}", stdout(&output), stderr(&output));
        assert!(output.stdout.is_empty(), "{arguments:?} prints no result");
        told += &format!("$ dif-sr sweep {}\n{}\n", arguments.join(" "), stderr(&output));
    }
    assert!(!place.path("new").exists() && !place.path("nowhere").exists());
    insta::assert_snapshot!(told);
    fs::write(place.path("out/tasks.jsonl"), "{\"task\": 0}\n").expect("written");
    let told = place.refusal(2, &["sweep", "status", "out"]);
    assert!(told.starts_with("out/tasks.jsonl, line 1: expected a task, found missing field `group`"), "{told}");
}

/// `/dev/full` stands for a full disk, and a closed pipe for a reader who has left.
#[test]
fn what_cannot_be_printed_is_an_error_and_a_reader_who_has_left_is_none() {
    let place = planned(SWEEP);
    let to = |arguments: &[&str], stdout: Stdio| -> Output {
        let mut command = place.command(arguments);
        let child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("the binary runs");
        child.wait_with_output().expect("it ends")
    };
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has this file"));
    let closed = || Stdio::from(std::io::pipe().expect("a pipe").1);
    let commands: [&[&str]; 4] = [
        &["sweep", "plan", "sweep.yaml", "--out=out"],
        &["sweep", "status", "out"],
        &["sweep", "status", "out", "--json"],
        &["sweep", "submit", "out", "--to=slurm", "--print"],
    ];
    for arguments in commands {
        let told = sentence(2, &to(arguments, full()));
        assert!(told.starts_with("standard output: cannot print the result"), "{arguments:?}: {told}");
        assert_eq!(code(&to(arguments, closed())), 0, "{arguments:?}");
    }
    // The run is finished all the same, and no failure.
    let told = sentence(2, &to(&["sweep", "run", "out", "--task=0"], full()));
    assert!(told.starts_with("standard output: "), "{told}");
    assert_eq!(states(&place)[0], "done");
    assert_eq!(code(&to(&["sweep", "run", "out", "--task=0"], closed())), 0);
    let told = sentence(2, &to(&["sweep", "gather", "out"], full()));
    assert!(told.starts_with("standard output: "), "{told}");
    assert!(place.path("out/toy/gate/records/1.json").exists(), "what was gathered is written");
}
