//! Ranks as processes, and what their run leaves.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use super::common::place::Bits;
use super::common::place::{Place, text};

/// Seconds that a rank waits for another.
pub const TIMEOUT: u64 = 300;

/// The command of one rank, as a launcher would start it.
pub fn rank(place: &Place, rank: usize, size: usize, arguments: &[&str]) -> Command {
    let mut command = place.command(&[&["train", "--ranks=env"], arguments].concat());
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command
}

/// Starts all ranks of a run, who meet in a file of their own.
pub fn spawn(place: &Place, size: usize, timeout: u64, arguments: &[&str]) -> Vec<Child> {
    spawn_with(None, place, size, timeout, arguments)
}

/// The same with a variable of the environment.
pub fn spawn_with(
    variable: Option<(&str, &str)>,
    place: &Place,
    size: usize,
    timeout: u64,
    arguments: &[&str],
) -> Vec<Child> {
    static MEETINGS: AtomicUsize = AtomicUsize::new(0);
    let file = format!("--ranks_file=meeting{}", MEETINGS.fetch_add(1, Ordering::Relaxed));
    let timeout = format!("--ranks_timeout={timeout}");
    let arguments = [&[&file[..], &timeout], arguments].concat();
    let child = |number: usize| {
        let mut command = rank(place, number, size, &arguments);
        command.envs(variable).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
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
    end_well(place, &out, ranks, &[&place.keys[..], &[&out, &threads]].concat());
}

/// Goes on in `run` to the end, with these keys changed.
pub fn resume(place: &Place, run: &str, ranks: usize, threads: usize, keys: &[&str]) {
    let (resume, threads) = (format!("--resume={run}"), format!("--threads={threads}"));
    end_well(place, run, ranks, &[&[&resume[..], &threads], keys].concat());
}

fn end_well(place: &Place, what: &str, ranks: usize, arguments: &[&str]) {
    if ranks == 1 {
        place.good(&[&["train"], arguments].concat());
    } else {
        assert_success(what, &outputs(spawn(place, ranks, TIMEOUT, arguments)));
    }
}

/// The total loss of every batch.
pub fn losses(run: &Path) -> Vec<f64> {
    let table = text(&run.join("losses.tsv"));
    let mut lines = table.lines().map(|line| line.split('\t'));
    let column = lines.next().and_then(|mut names| names.position(|name| name == "total")).expect("a column `total`");
    lines.map(|mut values| values.nth(column).and_then(|value| value.parse().ok()).expect("a loss")).collect()
}
