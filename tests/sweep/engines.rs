//! Tasks in the hands of an engine: which one a process takes, what is handed to Slurm, and what comes back from it. Stand-ins
//! on PATH note what Slurm's commands are told (`slurm.rs` asks the real ones).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::place::{Place, ended, sentence, signal, text};
use crate::common::process::{code, stderr, stdout};
use crate::{SWEEP, good, planned, states, until_it_trains};

/// Makes a program `name` in `place/bin`.
fn stand_in(place: &Place, name: &str, script: &str) {
    fs::create_dir_all(place.path("bin")).expect("a folder");
    let path = place.path("bin").join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
}

/// sbatch that notes its options and its script, and numbers its jobs from 17; scontrol with this largest array.
fn slurm(place: &Place, max_array_size: usize) {
    let calls = place.path("calls").display().to_string();
    stand_in(
        place,
        "sbatch",
        &format!(
            "mkdir -p {calls}; n=$(ls {calls} | wc -l)\nprintf '%s\\n' \"$@\" > {calls}/$n.options\ncat > {calls}/$n.script\necho $((17 + n / 2))"
        ),
    );
    stand_in(place, "scontrol", &format!("echo 'MaxArraySize            = {max_array_size}'"));
}

/// A command of the place with the stand-ins before everything else.
fn command(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(arguments);
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let path = [place.path("bin")].into_iter().chain(std::env::split_paths(&rest));
    command.env("PATH", std::env::join_paths(path).expect("a path"));
    command
}

fn submit(place: &Place, arguments: &[&str]) -> Output {
    command(place, &[&["sweep", "submit", "out", "--to=slurm"], arguments].concat()).output().expect("the binary runs")
}

fn call(place: &Place, n: usize) -> (Vec<String>, String) {
    let file = |ending: &str| text(&place.path(&format!("calls/{}.{ending}", 2 * n)));
    (file("options").lines().map(str::to_owned).collect(), file("script"))
}

fn binary() -> PathBuf {
    assert_cmd::cargo::cargo_bin!("dif-sr").to_path_buf()
}

#[test]
fn slurm_gets_an_array_of_the_tasks_that_are_left() {
    let place = planned(SWEEP);
    slurm(&place, 1001);
    good(&place, &["sweep", "run", "out", "--task=1"]);
    let output = submit(&place, &["--at-once=2", "--", "--time=4:00:00", "--mem", "2G"]);
    assert_eq!((code(&output), stdout(&output)), (0, "job 17: 3 tasks\n".to_owned()), "{}", stderr(&output));
    let (options, script) = call(&place, 0);
    let out = place.path("out").display().to_string();
    let expected = [
        "--parsable",
        "--array=0,2-3%2",
        "--job-name=out",
        &format!("--output={out}/logs/%A_%a.log"),
        "--open-mode=append",
        "--requeue",
        "--signal=B:TERM@120",
        "--time=4:00:00",
        "--mem",
        "2G",
    ];
    assert_eq!(options, expected);
    let run = format!("exec {} sweep run {out} --task=$((0 + SLURM_ARRAY_TASK_ID)) --requeue\n", binary().display());
    assert!(script.starts_with("#!/bin/bash\n") && script.ends_with(&run), "{script}");
    assert!(place.path("out/logs").is_dir(), "Slurm makes no folder for its output");

    let output = submit(&place, &["--json"]);
    let told: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let job = json!({ "job": "18", "offset": 0, "indices": "0,2-3", "tasks": 3 });
    assert_eq!(told, json!({ "jobs": [job], "tasks": 3 }));
    good(&place, &["sweep", "run", "out", "--jobs=2"]);
    assert_eq!(stdout(&submit(&place, &[])), "nothing to submit: all runs are done or at work\n");
    assert_eq!(fs::read_dir(place.path("calls")).expect("a folder").count(), 4, "sbatch was not called");
}

#[test]
fn more_tasks_than_an_array_holds_are_several_arrays_and_each_index_finds_its_task() {
    let place = planned("config_files: [toy.yaml]\nkeys: {epochs: 1}\nseeds: [1, 2, 3, 4, 5]\n");
    slurm(&place, 2);
    let output = submit(&place, &[]);
    assert_eq!(stdout(&output), "job 17: 2 tasks\njob 18: 2 tasks\njob 19: 1 task\n", "{}", stderr(&output));
    let arrays: Vec<String> = (0..3).map(|n| call(&place, n).0[1].clone()).collect();
    assert_eq!(arrays, ["--array=0-1", "--array=0-1", "--array=0"]);
    // The second array's second script, as Slurm would run it.
    let (_, script) = call(&place, 1);
    let mut bash = Command::new("bash");
    bash.env("SLURM_ARRAY_TASK_ID", "1").args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(bash.status().expect("bash runs").success());
    assert_eq!(states(&place), ["waiting", "waiting", "waiting", "done", "waiting"]);
}

#[test]
fn a_job_that_slurm_does_not_take_is_an_error_that_says_what_was_taken() {
    let place = planned("config_files: [toy.yaml]\nseeds: [1, 2, 3]\n");
    // Nowhere a Slurm.
    let mut alone = place.command(&["sweep", "submit", "out", "--to=slurm"]);
    let told = sentence(2, &alone.env("PATH", "").output().expect("the binary runs"));
    assert!(
        told.starts_with("cannot run sbatch: No such file") && told.ends_with("or see them with --print"),
        "{told}"
    );
    stand_in(&place, "scontrol", "echo 'MaxArraySize = 2'");
    stand_in(&place, "sbatch", "echo 'sbatch: error: Invalid account' >&2; exit 1");
    let told = sentence(2, &submit(&place, &["--", "--account=none"]));
    assert_eq!(told, "sbatch has not taken the job: sbatch: error: Invalid account; correct the options behind `--`");
    let once = format!(
        "if [ -e {0} ]; then echo full >&2; exit 1; fi; touch {0}; cat > /dev/null; echo '3;cluster'",
        place.path("once").display()
    );
    stand_in(&place, "sbatch", &once);
    let output = submit(&place, &[]);
    assert_eq!(stdout(&output), "job 3: 2 tasks\n");
    let told = sentence(2, &output);
    assert!(told.starts_with("sbatch has not taken the job: full (1 of 2 arrays were submitted before)"), "{told}");
}

#[test]
fn what_is_printed_can_be_given_to_a_shell() {
    let place = planned(SWEEP);
    slurm(&place, 3);
    fs::rename(place.path("out"), place.path("it's 100% $HOME")).expect("renamed");
    let arguments = ["sweep", "submit", "it's 100% $HOME", "--to=slurm", "--print", "--", "--comment=a b"];
    let output = command(&place, &arguments).output().expect("the binary runs");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let json = command(&place, &[&arguments[..5], &["--json"], &arguments[5..]].concat()).output().expect("it runs");
    let told: Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    let commands: Vec<&str> =
        told["jobs"].as_array().expect("jobs").iter().map(|job| job["command"].as_str().expect("a command")).collect();
    assert_eq!(commands.join("\n") + "\n", stdout(&output), "for machines the same");
    assert_eq!((&told["jobs"][0]["indices"], &told["tasks"]), (&json!("0-2"), &json!(4)));
    assert!(!place.path("calls").exists(), "nothing is submitted");
    let mut bash = command(&place, &[]);
    bash = {
        let mut shell = Command::new("bash");
        bash.get_envs().for_each(|(key, value)| _ = shell.env(key, value.unwrap_or_default()));
        shell.current_dir(place.folder.path()).args(["-c", &stdout(&output)]);
        shell
    };
    let submitted = bash.output().expect("bash runs");
    assert_eq!(
        String::from_utf8_lossy(&submitted.stdout),
        "17\n18\n",
        "{}",
        String::from_utf8_lossy(&submitted.stderr)
    );
    let (options, script) = call(&place, 0);
    assert!(
        options.contains(&"--comment=a b".to_owned()) && options.contains(&"--job-name=it's 100% $HOME".to_owned())
    );
    assert!(options.iter().any(|option| option.ends_with("it's 100%% $HOME/logs/%A_%a.log")), "{options:?}");
    let mut bash = Command::new("bash");
    bash.env("SLURM_ARRAY_TASK_ID", "0").args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(bash.status().expect("bash runs").success());
    assert!(place.path("it's 100% $HOME/toy/gate/seed-1/result.json").exists());
}

#[test]
fn the_index_of_an_array_names_the_task() {
    let place = planned("config_files: [toy.yaml]\nkeys: {epochs: 1}\nseeds: [1, 2, 3]\n");
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = place.command(&[&["sweep", "run", "out"], arguments].concat());
        command.envs(variables.iter().copied()).output().expect("the binary runs")
    };
    assert_eq!(code(&run(&[("SLURM_ARRAY_TASK_ID", "2")], &[])), 0);
    assert_eq!(states(&place), ["waiting", "waiting", "done"]);
    assert_eq!(code(&run(&[("JOB_COMPLETION_INDEX", "0")], &[])), 0);
    assert_eq!(states(&place), ["done", "waiting", "done"]);
    let told = sentence(2, &run(&[("SLURM_ARRAY_TASK_ID", "1"), ("JOB_COMPLETION_INDEX", "0")], &[]));
    assert_eq!(
        told,
        "expected one task, found 1 in SLURM_ARRAY_TASK_ID and 0 in JOB_COMPLETION_INDEX; name it with --task=N"
    );
    let told = sentence(2, &run(&[("JOB_COMPLETION_INDEX", "first")], &[]));
    assert_eq!(told, "expected the number of a task in JOB_COMPLETION_INDEX, found `first`; name it with --task=N");
    let told = sentence(2, &run(&[("SLURM_ARRAY_TASK_ID", "3")], &[]));
    assert_eq!(told, "out/tasks.jsonl: expected a task from 0 to 2, found 3");
    // --task is nearer than the environment, and --jobs means all.
    assert_eq!(code(&run(&[("SLURM_ARRAY_TASK_ID", "0")], &["--task=2"])), 0);
    assert_eq!(states(&place)[1], "waiting");
    assert_eq!(code(&run(&[("SLURM_ARRAY_TASK_ID", "0")], &["--jobs=1"])), 0);
    assert_eq!(states(&place), ["done"; 3]);
}

#[test]
fn an_interrupted_task_goes_back_to_slurm_unless_it_was_cancelled() {
    let place = planned(&format!("{SWEEP}keys: {{epochs: 12, stopping_step: 12}}\n"));
    let noted = place.path("requeued").display().to_string();
    stand_in(&place, "scontrol", &format!("echo \"$@\" >> {noted}"));
    for (task, state, requeued) in
        [("--task=0", "RUNNING", "requeue 41_7\n"), ("--task=1", "COMPLETING", "requeue 41_7\n")]
    {
        stand_in(&place, "squeue", &format!("[ \"$*\" = '--noheader --format=%T --jobs 41_7' ] && echo {state}"));
        let mut command = command(&place, &["sweep", "run", "out", task, "--requeue"]);
        command
            .env("SLURM_ARRAY_JOB_ID", "41")
            .env("SLURM_ARRAY_TASK_ID", "7")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = command.spawn().expect("the binary runs");
        until_it_trains(&place.path(if task == "--task=0" { "out/toy/gate/seed-1" } else { "out/toy/gate/seed-2" }));
        signal(&child, "TERM");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(code(&output), 4, "{}", stderr(&output));
        assert_eq!(text(noted.as_ref()), requeued, "{state}");
        assert_eq!(stderr(&output).contains("note: job 41_7 is COMPLETING: not requeued\n"), state == "COMPLETING");
    }
    assert_eq!(states(&place), ["interrupted", "interrupted", "waiting", "waiting"]);
    // A run that is finished needs no queue.
    let mut again = command(&place, &["sweep", "run", "out", "--task=0", "--requeue"]);
    let child = again.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    assert!(ended(child).success());
    assert_eq!(text(noted.as_ref()), "requeue 41_7\n");
}

#[test]
fn ranks_are_no_tasks() {
    let place = planned(SWEEP);
    let output = place.command(&["sweep", "run", "out"]).envs([("RANK", "0"), ("WORLD_SIZE", "2")]).output();
    let told = sentence(2, &output.expect("the binary runs"));
    assert!(told.ends_with("unset its variables, and number tasks by --task"), "{told}");
    assert_eq!(states(&place), ["waiting"; 4], "none has failed by it");
}
