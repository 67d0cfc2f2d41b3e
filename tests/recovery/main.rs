//! A run that is killed, interrupted or starved goes on as if nothing had been: real processes, killed by real signals.

#[path = "../common/mod.rs"]
mod common;
mod failures;
mod from;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::place::{Evidence, Place, content, ended, interrupted, interrupted_by, sentence, signal, text, wait_until};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// When a process is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At any time up to so many milliseconds after its start, which loads the data first.
    Any(u64),
    /// In the training, at any time up to so many milliseconds from its begin.
    Training(u64),
    /// As soon as this file is there, which it is while another is being written.
    File(&'static str),
    /// Soon after the log says this.
    Log(&'static str),
    /// In the test, which begins when the speed of the machine has been measured once more.
    Test,
}

/// What a run says before it tests its best model.
const LOADING: &str = "Loading model structure";

/// How often the run in `folder` has gone on.
fn resumptions(folder: &Path) -> usize {
    let environment: Value = serde_json::from_str(&text(&folder.join("environment.json"))).expect("JSON");
    environment["resumed"].as_array().map_or(0, Vec::len)
}

/// Kills `child` at a moment. Returns whether it was still at work, and what it left half-done.
fn kill(
    mut child: Child,
    run: &Path,
    before: usize,
    moment: Moment,
    random: &mut ChaCha8Rng,
) -> (bool, Vec<&'static str>) {
    let mut ended = || child.try_wait().expect("a child").is_some();
    let read = |name: &str| fs::read_to_string(run.join(name)).unwrap_or_default();
    let log = || read("log.txt");
    let mut sleep = |most: u64| std::thread::sleep(Duration::from_millis(random.random_range(0..most)));
    if !matches!(moment, Moment::Any(_)) {
        wait_until("training", || (resumptions(run) == before && log().contains("Trainable parameters")) || ended());
    }
    match moment {
        Moment::Any(most) | Moment::Training(most) => sleep(most),
        Moment::File(name) => {
            sleep(300);
            wait_until(name, || run.join(name).exists() || ended());
        }
        Moment::Log(words) => {
            wait_until(words, || log().contains(words) || ended());
            sleep(50);
        }
        Moment::Test => {
            let measured = || read("calibration.jsonl").lines().count();
            wait_until("the end of the training", || log().contains(LOADING) || ended());
            let before = measured();
            wait_until("the test", || measured() > before || ended());
            sleep(20);
        }
    }
    child.kill().expect("killed");
    let status = child.wait().expect("a child");
    let killed = status.signal() == Some(9);
    assert!(killed || status.success(), "{}: {moment:?}, {status}, after {}", run.display(), log());
    let parts = ["last.safetensors.part", "best.safetensors.next.part", "best.safetensors.next"];
    let mut half: Vec<_> = parts.into_iter().filter(|name| run.join(name).exists()).collect();
    let log = log();
    let last = log.lines().rev().find(|line| line.contains("INFO")).filter(|_| killed).unwrap_or_default();
    if last.contains(" training [") {
        half.push("an evaluation");
    }
    if last.contains(LOADING) && matches!(moment, Moment::Test) {
        half.push("the test");
    }
    (killed, half)
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_bit() {
    const SEED: u64 = 212;
    println!("seed {SEED}");
    let place = Place::new(&["--checkpoint_interval=0.05"]);
    place.train("whole");
    let whole = Evidence::of(&place.path("whole"));
    let moments = [
        Moment::Training(1500),
        Moment::File("last.safetensors.part"),
        Moment::Log("epoch 0 training"),
        Moment::File("best.safetensors.next"),
        Moment::Any(1500),
        Moment::Log("epoch 2 training"),
        Moment::Test,
    ];
    // One run to its end, killed several times, each time at another kind of moment: how often, and what that left.
    let one = |i: usize| {
        let (mut kills, mut seen) = (0, Vec::new());
        let mut random = ChaCha8Rng::seed_from_u64(SEED + i as u64);
        let name = format!("killed{i}");
        let run = place.path(&name);
        for k in 0..4 {
            if run.join("result.json").exists() {
                break;
            }
            let before = if run.exists() { resumptions(&run) + 1 } else { 0 };
            let moment = moments[(i + k) % moments.len()];
            let (killed, half) = kill(place.spawn(&name), &run, before, moment, &mut random);
            println!("{name}: {moment:?}, killed {killed}, left {half:?}");
            kills += usize::from(killed);
            seen.extend(half);
        }
        if !run.join("result.json").exists() {
            place.resume(&name);
        }
        Evidence::of(&run).assert_equal(&whole, &name);
        assert!(!run.join("last.safetensors.part").exists() && !run.join("best.safetensors.next").exists(), "{name}");
        (kills, seen)
    };
    let (mut kills, mut seen) = (0, Vec::new());
    for i in (0..).step_by(2) {
        let two = std::thread::scope(|scope| {
            let one = &one;
            [i, i + 1].map(|i| scope.spawn(move || one(i))).map(|run| run.join().expect("the run is as the whole one"))
        });
        for (more, left) in two {
            kills += more;
            seen.extend(left);
        }
        let left = ["last.safetensors.part", "best.safetensors.next", "an evaluation", "the test"];
        if kills >= 20 && left.iter().all(|half| seen.contains(half)) {
            break;
        }
        assert!(i < 200, "{kills} processes were killed, which left {seen:?}");
    }
}

/// BPR draws negative items from a generator of its own, and here epochs pass without an evaluation.
#[test]
fn a_bpr_run_goes_on_to_the_bit() {
    goes_on_to_the_bit(&["--loss_type=BPR", "--attribute_predictor=not", "--eval_step=2", "--checkpoint_interval=0"]);
}

/// On several threads too: their sums are taken in a fixed order.
#[test]
fn a_run_on_the_fast_path_goes_on_to_the_bit() {
    for precision in ["--precision=float32", "--precision=bf16"] {
        goes_on_to_the_bit(&["--compute_path=fast", precision, "--threads=2", "--checkpoint_interval=0"]);
    }
}

/// Kills a run in its first and in its second epoch.
fn goes_on_to_the_bit(keys: &[&'static str]) {
    let place = Place::new(keys);
    place.train("whole");
    let run = place.path("killed");
    for (before, moment) in [Moment::Training(500), Moment::Log("epoch 1 training")].into_iter().enumerate() {
        let (killed, _) = kill(place.spawn("killed"), &run, before, moment, &mut ChaCha8Rng::seed_from_u64(7));
        assert!(killed, "{moment:?}");
    }
    place.resume("killed");
    Evidence::of(&run).assert_equal(&Evidence::of(&place.path("whole")), "killed");
}

#[test]
fn a_signal_lets_the_batch_finish_saves_and_has_an_exit_code_of_its_own() {
    let place = Place::new(&[]);
    place.train("whole");
    let whole = Evidence::of(&place.path("whole"));
    for (name, words) in [("INT", "Trainable parameters"), ("TERM", "epoch 1 training"), ("INT", "Loading model")] {
        let run = format!("{name}{}", words.len());
        interrupted_by(&place, &run, name, words);
        let last = text(&place.path(&run).join("log.txt"));
        let last = last.lines().last().unwrap_or_default();
        assert!(
            last.contains("stopped: interrupted ") && last.ends_with(&format!("go on with --resume={run}")),
            "{last}"
        );
        place.resume(&run);
        Evidence::of(&place.path(&run)).assert_equal(&whole, &run);
        let environment: Value = serde_json::from_str(&text(&place.path(&run).join("environment.json"))).expect("JSON");
        assert_eq!(environment["resumed"].as_array().map(Vec::len), Some(1), "{environment}");
        assert_eq!(environment["resumed"][0]["device"], "cpu");
    }
}

#[test]
fn a_signal_while_the_data_are_loaded_ends_the_run_before_it_begins_or_goes_on() {
    /// Of Linux.
    const O_NONBLOCK: i32 = 0o4000;
    let place = Place::new(&[]);
    interrupted(&place);
    let before = content(&place.path("run"));
    // A pipe gives its rows when the test says so.
    let data = place.path("toy/toy.inter");
    let rows = fs::read(&data).expect("the toy");
    fs::remove_file(&data).expect("removed");
    assert!(Command::new("mkfifo").arg(&data).status().expect("mkfifo runs").success());
    let begin = [&["train", "--out=new"], &place.keys[..]].concat();
    let told = [
        (&begin[..], "no run has begun; give the command again"),
        (&["train", "--resume=run"][..], "run is as it was; go on with --resume=run"),
    ];
    for (arguments, told) in told {
        let mut command = place.command(arguments);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut pipe = None;
        wait_until("the data to be loaded", || {
            // Without a reader it cannot be opened.
            pipe = fs::OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(&data).ok();
            pipe.is_some()
        });
        signal(&child, "TERM");
        pipe.take().expect("it is open").write_all(&rows).expect("written");
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(sentence(4, &output), format!("interrupted while the data were loaded; {told}"));
    }
    assert!(!place.path("new").exists() && before == content(&place.path("run")));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    // A batch that takes many seconds.
    let place = Place::new(&["--hidden_size=512", "--inner_size=8192", "--n_layers=16", "--train_batch_size=4096"]);
    let child = place.spawn("run");
    wait_until("training", || text(&place.path("run/log.txt")).contains("Trainable parameters"));
    signal(&child, "INT");
    // Of the same kind, a second one that comes before the first was delivered would be lost; of two kinds, either may be the
    // first to be delivered.
    signal(&child, "TERM");
    let code = ended(child).code();
    assert!(matches!(code, Some(130 | 143)), "{code:?}");
}

#[test]
fn a_second_process_on_a_run_folder_is_refused_at_once() {
    let place = Place::new(&["--epochs=1000", "--stopping_step=1000"]);
    let mut child = place.spawn("run");
    let begin = Instant::now();
    let busy = "run: expected a run folder to itself, found another process at work in it";
    assert!(place.refusal(2, &["train", "--resume=run"]).starts_with(busy));
    let again = [&["train", "--out=run"], &place.keys[..]].concat();
    assert!(place.refusal(2, &again).starts_with(busy));
    assert!(begin.elapsed() < Duration::from_secs(120), "no waiting");
    child.kill().expect("killed");
    child.wait().expect("a child");
    // The lock went with the process that held it.
    let child = place.spawn("run");
    wait_until("it to go on and to watch for signals", || resumptions(&place.path("run")) == 1);
    signal(&child, "TERM");
    assert_eq!(ended(child).code(), Some(4));
}

#[test]
fn a_run_that_goes_on_from_its_test_keeps_the_lines_of_a_last_epoch_without_an_evaluation() {
    let place = Place::new(&["--epochs=3", "--eval_step=2"]);
    place.train("run");
    let evidence = || ["metrics.jsonl", "losses.tsv"].map(|name| text(&place.path("run").join(name)));
    let before = evidence();
    assert_eq!(before[0].lines().count(), 4, "three epochs and one evaluation");
    ["result.json", "ranks.tsv"]
        .iter()
        .for_each(|name| fs::remove_file(place.path("run").join(name)).expect("removed"));
    place.resume("run");
    assert_eq!(evidence(), before);
}

#[test]
fn reproduce_goes_on_to_its_verdict() {
    let place = Place::new(&[]);
    fs::write(place.path("toy.yaml"), "metrics: [Recall]\ntopk: [10]\n").expect("written");
    let expected = "figures:\n  source: by hand\n  margin: {metric: 0.6}\n  test: {recall@10: 0.5}\n";
    fs::write(place.path("expect.yaml"), expected).expect("written");
    let arguments = [&["reproduce", "toy.yaml", "--expect=expect.yaml", "--out=run"], &place.keys[..]].concat();
    let child = place.command(&arguments).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("the binary runs");
    wait_until("an epoch", || {
        fs::read_to_string(place.path("run/log.txt")).unwrap_or_default().contains("epoch 0 evaluating")
    });
    signal(&child, "INT");
    assert_eq!(ended(child).code(), Some(4));
    // What is expected was laid down before the run, in its folder.
    fs::remove_file(place.path("expect.yaml")).expect("removed");
    place.good(&["reproduce", "--resume=run"]);
    let verdict: Value = serde_json::from_str(&text(&place.path("run/verdict.json"))).expect("JSON");
    assert_eq!(verdict["outcome"], "pass");
}

#[test]
fn a_training_has_its_threads_sleep_while_they_wait_unless_told_otherwise() {
    let place = Place::new(&["--epochs=1000", "--stopping_step=1000"]);
    for (out, own, expected) in
        [("run", None, "OMP_WAIT_POLICY=passive"), ("own", Some("active"), "OMP_WAIT_POLICY=active")]
    {
        let mut command = place.command(&[&["train", &format!("--out={out}")], &place.keys[..]].concat());
        command
            .env_remove("OMP_WAIT_POLICY")
            .env_remove("GOMP_SPINCOUNT")
            .envs(own.map(|own| ("OMP_WAIT_POLICY", own)));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
        // The process goes on under the number that it was started with.
        wait_until("the run to begin", || place.path(out).join("log.txt").exists());
        let environment = fs::read(format!("/proc/{}/environ", child.id())).expect("the process's environment");
        let variables: Vec<&[u8]> = environment.split(|&byte| byte == 0).collect();
        assert!(variables.contains(&expected.as_bytes()), "{out}: {}", String::from_utf8_lossy(&environment));
        signal(&child, "TERM");
        assert_eq!(ended(child).code(), Some(4), "{out}");
    }
}
