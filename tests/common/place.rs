//! The folder that a test works in, the processes that it starts there, and what a run leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use dif_sr::tensors::TensorFile;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{TOY, write_toy};

/// Batches small enough that there are 19 in an epoch, and on the CPU 60 in an evaluation.
const SMALL: [&str; 3] = ["--epochs=3", "--train_batch_size=16", "--eval_batch_size=1"];

/// A folder with the toy data, in which the runs of a test lie.
pub struct Place {
    pub folder: TempDir,
    pub keys: Vec<&'static str>,
}

impl Place {
    pub fn new(keys: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        write_toy(folder.path());
        Self { folder, keys: [&TOY[..], &SMALL, keys].concat() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dif-sr"));
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// Runs a command that must not fail.
    pub fn good(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        let told = [&output.stdout[..], &output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&told));
        output
    }

    /// Trains in the folder `out` to the end.
    pub fn train(&self, out: &str) {
        self.good(&[&["train", &format!("--out={out}")], &self.keys[..]].concat());
    }

    /// Goes on in `run` to the end.
    pub fn resume(&self, run: &str) {
        self.good(&["train", "--resume", run]);
    }

    /// Begins a training in `out`, or goes on in it, and leaves it to itself.
    pub fn spawn(&self, out: &str) -> Child {
        let resume = self.path(out).join("config.yaml").exists();
        let flag = format!("--{}={out}", if resume { "resume" } else { "out" });
        let keys = if resume { &[] } else { &self.keys[..] };
        let mut command = self.command(&[&["train", &flag], keys].concat());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
        wait_until("the run to begin", || self.path(out).join("config.yaml").exists());
        child
    }

    /// The one sentence of a command that must fail with this exit code.
    pub fn refusal(&self, code: i32, arguments: &[&str]) -> String {
        sentence(code, &self.run(arguments))
    }
}

pub fn sentence(code: i32, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("dif-sr: ").unwrap_or_else(|| panic!("one sentence, found: {text}")).to_owned()
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        // Short beside what is waited for, and long enough to leave the processor to the child.
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// `kill -NAME`, at once: a process of its own for it might come when the run has ended.
pub fn signal(child: &Child, name: &str) {
    let signal = match name {
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        _ => panic!("no signal {name}"),
    };
    kill_process(Pid::from_child(child), signal).expect("the process is there");
}

pub fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a run has computed. Its configuration, in which the number of threads stands, is left out.
#[derive(Debug, PartialEq)]
pub struct Bits {
    losses: String,
    metrics: Vec<Value>,
    ranks: String,
    result: Value,
    best: Vec<(String, Vec<u8>)>,
    last: Vec<(String, Vec<u8>)>,
}

impl Bits {
    pub fn of(run: &Path) -> Self {
        let without = |text: &str, key: &str| {
            let mut value: Value = serde_json::from_str(text).expect("JSON");
            value.as_object_mut().expect("an object").remove(key).expect("a time");
            value
        };
        Self {
            losses: text(&run.join("losses.tsv")),
            metrics: text(&run.join("metrics.jsonl")).lines().map(|line| without(line, "seconds")).collect(),
            ranks: text(&run.join("ranks.tsv")),
            result: without(&text(&run.join("result.json")), "train_seconds"),
            best: tensors(&run.join("best.safetensors")),
            last: tensors(&run.join("last.safetensors")),
        }
    }

    pub fn assert_equal(&self, other: &Self, what: &str) {
        assert_eq!(self.losses, other.losses, "losses.tsv, {what}");
        assert_eq!(self.metrics, other.metrics, "metrics.jsonl, {what}");
        assert_eq!(self.ranks, other.ranks, "ranks.tsv, {what}");
        assert_eq!(self.result, other.result, "result.json, {what}");
        assert!(self.best == other.best, "the tensors of best.safetensors, {what}");
        assert!(self.last == other.last, "the tensors of last.safetensors, {what}");
    }
}

/// What a run leaves beside its [`Bits`], without times and without the line that says that it was resumed.
#[derive(Debug, PartialEq)]
pub struct Evidence {
    bits: Bits,
    events: Vec<(i64, String, u32)>,
    log: Vec<String>,
    best: Vec<u8>,
}

impl Evidence {
    pub fn of(run: &Path) -> Self {
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
        let best = fs::read(run.join("best.safetensors")).expect("a checkpoint");
        Self { bits: Bits::of(run), events: events(run), log: log.collect(), best }
    }

    pub fn assert_equal(&self, other: &Self, what: &str) {
        self.bits.assert_equal(&other.bits, what);
        assert_eq!(self.events, other.events, "TensorBoard's events, {what}");
        assert_eq!(self.log, other.log, "log.txt, {what}");
        assert!(self.best == other.best, "best.safetensors, {what}");
    }
}

/// The parts of TensorBoard's `Event` that scalars need.
#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    value: Option<f32>,
}

/// Step, tag and the bits of the value of every scalar in a run's event files, in the order in which TensorBoard reads them;
/// seconds have no value that counts.
pub fn events(run: &Path) -> Vec<(i64, String, u32)> {
    let names = content(run).into_iter().filter(|(name, _)| name.starts_with("events.out.tfevents."));
    let mut scalars = Vec::new();
    for (name, bytes) in names {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            // A record: its length, four bytes, the message, four bytes.
            let n = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
            let event = <Event as prost::Message>::decode(&rest[12..12 + n]).unwrap_or_else(|e| panic!("{name}: {e}"));
            for Scalar { tag, value } in event.summary.into_iter().flat_map(|summary| summary.value) {
                let counts = !tag.starts_with("seconds/");
                scalars.push((event.step, tag, value.filter(|_| counts).unwrap_or_default().to_bits()));
            }
            rest = &rest[16 + n..];
        }
    }
    scalars
}

/// The names and bytes of a file's tensors.
pub fn tensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let file = TensorFile::read(path).unwrap_or_else(|e| panic!("{e}"));
    let bytes = |tensor: &tch::Tensor| {
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.copy_data_u8(&mut bytes, tensor.numel());
        bytes
    };
    file.tensors.iter().map(|(name, tensor)| (name.clone(), bytes(tensor))).collect()
}

pub fn ended(mut child: Child) -> ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every file of a folder but the lock.
pub fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
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
pub fn interrupted(place: &Place) {
    interrupted_at(place, "epoch 0 evaluating");
}

/// A run that a signal has interrupted when its log had these words.
pub fn interrupted_at(place: &Place, words: &str) {
    interrupted_by(place, "run", "TERM", words);
}

/// The same, in the folder `run` and with the signal `name`; once more where the run ended before the signal came.
pub fn interrupted_by(place: &Place, run: &str, name: &str, words: &str) {
    for _ in 0..5 {
        let child = place.spawn(run);
        wait_until(words, || text(&place.path(run).join("log.txt")).contains(words));
        signal(&child, name);
        let code = ended(child).code();
        if code == Some(4) {
            return;
        }
        assert_eq!(code, Some(0), "{name} at `{words}`");
        fs::remove_dir_all(place.path(run)).expect("the run is there");
    }
    panic!("five runs ended before {name} at `{words}` came");
}
