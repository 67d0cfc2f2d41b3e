//! A run that is killed, interrupted or starved goes on as if nothing had been: real processes, killed by real signals.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use common::{TOY, write_toy};
use dif_sr::tensors::TensorFile;
use serde_json::Value;
use tempfile::TempDir;

/// Batches small enough that there are 19 in an epoch, and 60 in an evaluation.
const SMALL: [&str; 3] = ["--epochs=3", "--train_batch_size=16", "--eval_batch_size=1"];

/// A folder with the toy data, in which the runs of a test lie.
struct Place {
    folder: TempDir,
    keys: Vec<&'static str>,
}

impl Place {
    fn new(keys: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write_toy(folder.path());
        Self { folder, keys: [&TOY[..], &SMALL, keys].concat() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dif-sr"));
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// Trains in the folder `out` to the end.
    fn train(&self, out: &str) {
        let output = self.run(&[&["train", &format!("--out={out}")], &self.keys[..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Goes on in `run` to the end.
    fn resume(&self, run: &str) {
        let output = self.run(&["train", "--resume", run]);
        assert!(output.status.success(), "{run}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Begins a training in `out`, or goes on in it, and leaves it to itself.
    fn spawn(&self, out: &str) -> Child {
        let resume = self.path(out).join("config.yaml").exists();
        let arguments = match resume {
            true => vec!["train".to_owned(), format!("--resume={out}")],
            false => [
                &["train".to_owned(), format!("--out={out}")],
                &self.keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>()[..],
            ]
            .concat(),
        };
        let mut command = self.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
        wait_until("the run to begin", || self.path(out).join("config.yaml").exists());
        child
    }

    /// The one sentence of a command that must fail with this exit code.
    fn refusal(&self, code: i32, arguments: &[&str]) -> String {
        sentence(code, &self.run(arguments))
    }
}

fn sentence(code: i32, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("dif-sr: ").unwrap_or_else(|| panic!("one sentence, found: {text}")).to_owned()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        // Short beside what is waited for, and long enough to leave the processor to the child.
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// `kill -NAME`.
fn signal(child: &Child, name: &str) {
    let killed = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a run leaves, without times and without the line that says that it was resumed.
#[derive(Debug, PartialEq)]
struct Evidence {
    losses: String,
    metrics: Vec<Value>,
    log: Vec<String>,
    ranks: String,
    result: Value,
    best: Vec<u8>,
    last: Vec<(String, Vec<u8>)>,
}

impl Evidence {
    fn of(run: &Path) -> Self {
        let without = |text: &str, key: &str| {
            let mut value: Value = serde_json::from_str(text).expect("JSON");
            value.as_object_mut().expect("an object").remove(key).expect("a time");
            value
        };
        let log = text(&run.join("log.txt"));
        let log = log.lines().filter(|line| !line.contains("    INFO  Resumed "));
        let log = log.map(|line| {
            // Without the date, the run's own place, and what follows `time:`.
            let line = line.split_once("    INFO  ").map_or(line, |(_, message)| message);
            let line = match line.rsplit_once(' ') {
                Some((head, path)) if path.ends_with("/best.safetensors") => format!("{head} RUN/best.safetensors"),
                _ => line.to_owned(),
            };
            match line.split_once("[time: ") {
                Some((head, tail)) => format!("{head}{}", tail.split_once("s, ").expect("a time").1),
                None => line,
            }
        });
        let bytes = |tensor: &tch::Tensor| {
            let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            bytes
        };
        let last = TensorFile::read(&run.join("last.safetensors")).unwrap_or_else(|e| panic!("{e}"));
        Self {
            losses: text(&run.join("losses.tsv")),
            metrics: text(&run.join("metrics.jsonl")).lines().map(|line| without(line, "seconds")).collect(),
            log: log.collect(),
            ranks: text(&run.join("ranks.tsv")),
            result: without(&text(&run.join("result.json")), "train_seconds"),
            best: fs::read(run.join("best.safetensors")).expect("a checkpoint"),
            last: last.tensors.iter().map(|(name, tensor)| (name.clone(), bytes(tensor))).collect(),
        }
    }

    fn assert_equal(&self, other: &Self, what: &str) {
        assert_eq!(self.losses, other.losses, "losses.tsv, {what}");
        assert_eq!(self.metrics, other.metrics, "metrics.jsonl, {what}");
        assert_eq!(self.log, other.log, "log.txt, {what}");
        assert_eq!(self.ranks, other.ranks, "ranks.tsv, {what}");
        assert_eq!(self.result, other.result, "result.json, {what}");
        assert!(self.best == other.best, "best.safetensors, {what}");
        assert!(self.last == other.last, "last.safetensors, {what}");
    }
}

/// SplitMix64; tests say their seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)) >> 11) % n
    }
}

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
}

/// How often the run in `folder` has gone on.
fn resumptions(folder: &Path) -> usize {
    let environment: Value = serde_json::from_str(&text(&folder.join("environment.json"))).expect("JSON");
    environment["resumed"].as_array().map_or(0, Vec::len)
}

/// Kills `child` at a moment. Returns whether it was still at work, and what it left half-done.
fn kill(mut child: Child, run: &Path, before: usize, moment: Moment, random: &mut Random) -> (bool, Vec<&'static str>) {
    let mut ended = || child.try_wait().expect("a child").is_some();
    let log = || fs::read_to_string(run.join("log.txt")).unwrap_or_default();
    let mut sleep = |most: u64| std::thread::sleep(Duration::from_millis(random.below(most)));
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
    }
    child.kill().expect("killed");
    let killed = !child.wait().expect("a child").success();
    let parts = ["last.safetensors.part", "best.safetensors.next.part", "best.safetensors.next"];
    let mut half: Vec<_> = parts.into_iter().filter(|name| run.join(name).exists()).collect();
    if killed && log().lines().rev().find(|line| line.contains("INFO")).is_some_and(|line| line.contains(" training ["))
    {
        half.push("an evaluation");
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
        Moment::Log("Loading model structure"),
    ];
    // One run to its end, killed several times, each time at another kind of moment: how often, and what that left.
    let one = |i: usize| {
        let (mut kills, mut seen) = (0, Vec::new());
        let mut random = Random(SEED + i as u64);
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
        if kills >= 20
            && ["last.safetensors.part", "best.safetensors.next", "an evaluation"].iter().all(|w| seen.contains(w))
        {
            break;
        }
        assert!(i < 30, "{kills} processes were killed, which left {seen:?}");
    }
}

/// BPR draws negative items from a generator of its own, and here epochs pass without an evaluation.
#[test]
fn a_bpr_run_goes_on_to_the_bit() {
    let keys = ["--loss_type=BPR", "--attribute_predictor=not", "--eval_step=2", "--checkpoint_interval=0"];
    let place = Place::new(&keys);
    place.train("whole");
    let run = place.path("killed");
    for (before, moment) in [Moment::Training(500), Moment::Log("epoch 1 training")].into_iter().enumerate() {
        let (killed, _) = kill(place.spawn("killed"), &run, before, moment, &mut Random(7));
        assert!(killed, "{moment:?}");
    }
    place.resume("killed");
    Evidence::of(&run).assert_equal(&Evidence::of(&place.path("whole")), "killed");
}

fn ended(mut child: Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_lets_the_batch_finish_saves_and_has_an_exit_code_of_its_own() {
    let place = Place::new(&[]);
    place.train("whole");
    let whole = Evidence::of(&place.path("whole"));
    for (name, words) in [("INT", "Trainable parameters"), ("TERM", "epoch 1 training"), ("INT", "Loading model")] {
        let run = format!("{name}{}", words.len());
        let child = place.spawn(&run);
        let log = || fs::read_to_string(place.path(&run).join("log.txt")).unwrap_or_default();
        wait_until(words, || log().contains(words));
        signal(&child, name);
        assert_eq!(ended(child).code(), Some(4), "{run}");
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
fn a_second_signal_ends_the_process_at_once() {
    // A batch that takes many seconds.
    let place = Place::new(&["--hidden_size=512", "--inner_size=8192", "--n_layers=16", "--train_batch_size=4096"]);
    let child = place.spawn("run");
    wait_until("training", || text(&place.path("run/log.txt")).contains("Trainable parameters"));
    // The handlers are there a moment after the line.
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(50));
    signal(&child, "INT");
    assert_eq!(ended(child).code(), Some(130));
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
    assert!(begin.elapsed() < Duration::from_secs(30), "no waiting");
    child.kill().expect("killed");
    child.wait().expect("a child");
    // The lock went with the process that held it.
    let child = place.spawn("run");
    wait_until("it to go on and to watch for signals", || resumptions(&place.path("run")) == 1);
    signal(&child, "TERM");
    assert_eq!(ended(child).code(), Some(4));
}

/// Every file of a folder but the lock.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = entries
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&path).expect("a file"))
        })
        .filter(|(name, _)| name != "lock")
        .collect();
    files.sort();
    files
}

/// A run that a signal has interrupted in its second epoch.
fn interrupted(place: &Place) {
    let child = place.spawn("run");
    wait_until("an epoch", || text(&place.path("run/log.txt")).contains("epoch 0 evaluating"));
    signal(&child, "TERM");
    assert_eq!(ended(child).code(), Some(4));
}

#[test]
fn what_a_run_cannot_go_on_from_is_told_and_nothing_of_the_run_is_changed() {
    let place = Place::new(&[]);
    place.train("whole");
    interrupted(&place);
    let before = content(&place.path("run"));
    let (data, last, best) =
        (place.path("toy/toy.inter"), place.path("run/last.safetensors"), place.path("run/best.safetensors"));
    let mut told = String::new();
    let mut refuse = |what: &str, arguments: &[&str]| {
        told += &format!("{what}\n{}\n\n", place.refusal(2, arguments));
    };
    let resume = ["train", "--resume=run"];
    refuse("no run", &["train", "--resume=nowhere"]);
    refuse("a finished run", &["train", "--resume=whole"]);
    refuse("another key", &["train", "--resume=run", "--epochs=9"]);
    refuse("a configuration", &["train", "--resume=run", "--config_files", "run/config.yaml"]);
    refuse("nothing expected", &["reproduce", "--resume=run"]);

    let hidden = place.path("toy.hidden");
    fs::rename(&data, &hidden).expect("moved");
    refuse("vanished data", &resume);
    let items = text(&hidden);
    fs::write(&data, items.replacen("i7\t", "i8\t", 1)).expect("written");
    refuse("other data", &resume);
    fs::rename(&hidden, &data).expect("moved");

    // Bytes of every part of the file: length, seal, names, metadata, tensors.
    let whole = fs::read(&last).expect("a checkpoint");
    for (at, what) in
        [(0, "length"), (20, "seal's name"), (60, "seal"), (400, "metadata"), (whole.len() - 9, "tensors")]
    {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&last, flipped).expect("written");
        refuse(&format!("a flipped bit in the {what}"), &resume);
    }
    fs::write(&last, &whole[..whole.len() / 2]).expect("written");
    refuse("half a checkpoint", &resume);
    fs::copy(&best, &last).expect("copied");
    refuse("another checkpoint", &resume);
    fs::write(&last, &whole).expect("written");

    let model = fs::read(&best).expect("a checkpoint");
    fs::write(&best, &model[..model.len() - 1]).expect("written");
    refuse("a truncated best model", &resume);
    fs::write(&best, &model).expect("written");
    let losses = fs::read(place.path("run/losses.tsv")).expect("losses");
    fs::write(place.path("run/losses.tsv"), &losses[..40]).expect("written");
    refuse("lost lines", &resume);
    fs::write(place.path("run/losses.tsv"), &losses).expect("written");
    let config = text(&place.path("run/config.yaml"));
    fs::write(place.path("run/config.yaml"), config.replace("seed: 2020", "seed: 2021")).expect("written");
    refuse("another configuration", &resume);
    fs::write(place.path("run/config.yaml"), config).expect("written");

    // How far the run was is different every time.
    insta::with_settings!({ filters => vec![(r"at least \d+ bytes", "at least [N] bytes"), (r"column: \d+", "column: [N]")] }, {
        insta::assert_snapshot!(told);
    });
    assert!(before == content(&place.path("run")), "nothing has changed");
    place.resume("run");
    Evidence::of(&place.path("run")).assert_equal(&Evidence::of(&place.path("whole")), "after all");
}

/// `/dev/full` stands for a full disk: every write to it fails as there.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_last_good_one() {
    let place = Place::new(&["--checkpoint_interval=0"]);
    place.train("whole");
    for name in ["last.safetensors.part", "best.safetensors.next.part", "ranks.tsv.part"] {
        interrupted(&place);
        let run = place.path("run");
        std::os::unix::fs::symlink("/dev/full", run.join(name)).expect("a link");
        let before = fs::read(run.join("last.safetensors")).expect("a checkpoint");
        let told = place.refusal(2, &["train", "--resume=run"]);
        assert!(told.contains("cannot write the file: No space left on device"), "{name}: {told}");
        assert!(told.contains("; the last good checkpoint is run/last.safetensors, after "), "{name}: {told}");
        let after = fs::read(run.join("last.safetensors")).expect("a checkpoint");
        assert!(before == after || name != "last.safetensors.part");
        place.resume("run");
        Evidence::of(&run).assert_equal(&Evidence::of(&place.path("whole")), name);
        fs::remove_dir_all(&run).expect("removed");
    }
}

/// Runs a script of the shell in which `runs` is a file system of its own, of 1 MB. `None`, with a word to the reader, where
/// this system lets nobody mount one.
fn on_a_small_disk(place: &Place, script: &str) -> Option<Output> {
    let mut command = Command::new("unshare");
    let script = format!("set -u; mkdir runs && mount -t tmpfs -o size=1m none runs || exit 99\n{script}");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]);
    command.arg(assert_cmd::cargo::cargo_bin!("dif-sr")).args(&place.keys).current_dir(place.folder.path());
    let output = command.output().ok().filter(|output| !matches!(output.status.code(), Some(1 | 99)));
    if output.is_none() {
        use std::io::Write;
        let _ = std::io::stderr().write_all(b"left out: no file system can be mounted here\n");
    }
    output
}

#[test]
fn a_full_disk_and_a_read_only_folder_end_the_run_which_goes_on_when_they_are_cured() {
    let place = Place::new(&["--checkpoint_interval=0"]);
    place.train("whole");
    let script = r#"
        dif_sr=$1; shift
        "$dif_sr" train --out=runs/run "$@" >/dev/null 2>full &
        until grep -qs 'epoch 0 evaluating' runs/run/log.txt; do :; done
        dd if=/dev/zero of=runs/filler bs=1k >/dev/null 2>&1
        wait $!; echo "full: $?"
        "$dif_sr" train --resume=runs/run >/dev/null 2>still_full; echo "still full: $?"
        rm runs/filler
        mount -o remount,ro runs
        "$dif_sr" train --resume=runs/run >/dev/null 2>read_only; echo "read-only: $?"
        "$dif_sr" train --out=runs/other "$@" >/dev/null 2>read_only_new; echo "read-only, new: $?"
        mount -o remount,rw runs
        "$dif_sr" train --resume=runs/run >/dev/null 2>&1; echo "cured: $?"
        cp -r runs/run run
        [ -e run ] && exit 0
    "#;
    let Some(output) = on_a_small_disk(&place, script) else { return };
    let codes = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = |name: &str| text(&place.path(name)).lines().last().unwrap_or_default().to_owned();
    assert_eq!(codes, "full: 2\nstill full: 2\nread-only: 2\nread-only, new: 2\ncured: 0\n", "{}", told("full"));
    for name in ["full", "still_full"] {
        assert!(told(name).contains("No space left on device"), "{name}: {}", told(name));
    }
    assert!(
        told("full").contains("; the last good checkpoint is runs/run/last.safetensors, after "),
        "{}",
        told("full")
    );
    for name in ["read_only", "read_only_new"] {
        assert!(told(name).contains("Read-only file system"), "{name}: {}", told(name));
    }
    Evidence::of(&place.path("run")).assert_equal(&Evidence::of(&place.path("whole")), "after all");
}

#[test]
fn a_loss_that_is_no_number_names_the_batch_the_norms_and_the_last_good_checkpoint() {
    let place = Place::new(&["--learning_rate=1e25"]);
    let told = place.refusal(2, &[&["train", "--out=run"], &place.keys[..]].concat());
    let head =
        "the loss of epoch 0, batch 2 of 19 is NaN, expected a finite number; the largest norms of parameters are ";
    assert!(told.starts_with(head), "{told}");
    assert!(told.contains("; no checkpoint had been written yet; lower learning_rate"), "{told}");
    let log = text(&place.path("run/log.txt"));
    assert!(log.contains("norms of parameters: \n") && log.contains(" position_embedding.weight\n"), "{log}");
    assert!(log.lines().last().unwrap_or_default().contains("stopped: the loss of epoch 0, batch 2"), "{log}");

    let place = Place::new(&["--learning_rate=1e25", "--checkpoint_interval=0"]);
    let told = place.refusal(2, &[&["train", "--out=run"], &place.keys[..]].concat());
    assert!(
        told.contains("the last good checkpoint is run/last.safetensors, after batch 1 of 19 in epoch 0"),
        "{told}"
    );
    assert!(TensorFile::read(&place.path("run/last.safetensors")).is_ok());

    // A step from finite gradients to infinite parameters is no checkpoint.
    let place = Place::new(&["--learning_rate=1e39", "--checkpoint_interval=0"]);
    let told = place.refusal(2, &[&["train", "--out=run"], &place.keys[..]].concat());
    assert!(told.contains("` is not finite after batch 1 of epoch 0; no checkpoint had been written yet"), "{told}");
    assert!(!place.path("run/last.safetensors").exists());
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
    let output = place.run(&["reproduce", "--resume=run"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdict: Value = serde_json::from_str(&text(&place.path("run/verdict.json"))).expect("JSON");
    assert_eq!(verdict["outcome"], "pass");
}
