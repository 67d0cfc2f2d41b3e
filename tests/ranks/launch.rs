//! Ranks as processes, and what their run leaves.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::common::place::{Place, tensors, text};

/// Seconds that a rank waits for another.
pub const TIMEOUT: u64 = 60;

/// The command of one rank, as a launcher would start it.
pub fn rank(place: &Place, rank: usize, size: usize, arguments: &[&str]) -> Command {
    let mut command = place.command(&[&["train", "--ranks=env"], arguments].concat());
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command
}

/// Starts all ranks of a run, who meet in a file of their own.
pub fn spawn(place: &Place, size: usize, timeout: u64, arguments: &[&str]) -> Vec<Child> {
    static MEETINGS: AtomicUsize = AtomicUsize::new(0);
    let file = format!("--ranks_file=meeting{}", MEETINGS.fetch_add(1, Ordering::Relaxed));
    let timeout = format!("--ranks_timeout={timeout}");
    let arguments = [&[&file[..], &timeout], arguments].concat();
    let child = |number: usize| {
        let mut command = rank(place, number, size, &arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    };
    (0..size).map(child).collect()
}

pub fn outputs(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|child| child.wait_with_output().expect("a child")).collect()
}

pub fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

fn assert_success(what: &str, outputs: &[Output]) {
    for (rank, output) in outputs.iter().enumerate() {
        assert!(output.status.success(), "{what}, rank {rank}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout.is_empty(), rank > 0, "{what}: rank 0 alone prints the result");
    }
}

/// Trains in the folder `out`, one process alone as ever.
pub fn train(place: &Place, out: &str, ranks: usize, threads: usize) {
    let (out, threads) = (format!("--out={out}"), format!("--threads={threads}"));
    let arguments = [&place.keys[..], &[&out, &threads]].concat();
    if ranks == 1 {
        let output = place.run(&[&["train"], &arguments[..]].concat());
        assert!(output.status.success(), "{out}: {}", String::from_utf8_lossy(&output.stderr));
    } else {
        assert_success(&out, &outputs(spawn(place, ranks, TIMEOUT, &arguments)));
    }
}

/// Goes on in `run` to the end, with these keys changed.
pub fn resume(place: &Place, run: &str, ranks: usize, threads: usize, keys: &[&str]) {
    let (resume, threads) = (format!("--resume={run}"), format!("--threads={threads}"));
    let arguments = [&[&resume[..], &threads], keys].concat();
    if ranks == 1 {
        let output = place.run(&[&["train"], &arguments[..]].concat());
        assert!(output.status.success(), "{run}: {}", String::from_utf8_lossy(&output.stderr));
    } else {
        assert_success(run, &outputs(spawn(place, ranks, TIMEOUT, &arguments)));
    }
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
