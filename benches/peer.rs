//! The fast path beside the PyTorch peer on Amazon_Beauty, in turns in one run: the table of docs/performance.md.
//!
//! ```sh
//! DIF_SR_PEER=python DIF_SR_AMAZON_BEAUTY=/data cargo bench --bench peer
//! ```
//!
//! `DIF_SR_PEER` is a Python that has `reference/requirements.txt` installed; `DIF_SR_PEER_THREADS` gives both sides so
//! many threads instead of two. Ratios are taken round by round, because machines change from minute to minute.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use dif_sr::config::RunConfig;
use dif_sr::data::{Batch, Dataset, RowTensors, split::split};
use dif_sr::train::{Prepared, Stepper};
use tch::{Device, Kind, Tensor};

const ROUNDS: usize = 5;
const STEPS: usize = 4;

fn main() {
    let Some(python) = std::env::var_os("DIF_SR_PEER") else {
        return println!("peer: left out, set DIF_SR_PEER to a Python with reference/requirements.txt");
    };
    let Some(data_path) = common::AMAZON_BEAUTY.as_deref() else { return };
    let threads = std::env::var("DIF_SR_PEER_THREADS").unwrap_or_else(|_| "2".to_owned());
    let config = |precision: &str| {
        let keys =
            [("data_path", data_path), ("compute_path", "fast"), ("threads", &threads), ("precision", precision)];
        common::config("amazon_beauty", &keys)
    };
    let mut peer = Peer::start(&python, data_path, &threads);
    println!("{}\n{threads} threads, {ROUNDS} rounds of {STEPS} steps", processor());

    let float32 = config("float32");
    let mut table = vec![Row::new("reading, filtering, splitting", 10.0)];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let dataset = Dataset::load(&float32.data).expect("the data loads");
        split(&dataset, &float32.data).expect("the data splits");
        let ours = start.elapsed().as_secs_f64();
        table[0].add(ours, peer.time("load"));
    }
    let mut training = Row::new("four training steps, float32", 2.0);
    let mut evaluation = Row::new("evaluation of 22,363 users", 4.0);
    let prepared = Prepared::new(&float32).expect("the data loads");
    let mut ours = Ours::new(&float32, &prepared);
    for _ in 0..ROUNDS {
        training.add(ours.train(), peer.time(&format!("train {STEPS}")));
        evaluation.add(ours.evaluate(), peer.time("evaluate"));
    }
    let memory = (peak(), peer.time("memory"));
    table.extend([training, evaluation]);
    if bf16_products() {
        let config = config("bf16");
        let prepared = Prepared::new(&config).expect("the data loads");
        let mut ours = Ours::new(&config, &prepared);
        let mut training = Row::new("four training steps, bf16", 6.0);
        let mut evaluation = Row::new("evaluation of 22,363 users, bf16", 4.0);
        for _ in 0..ROUNDS {
            training.add(ours.train(), peer.time(&format!("train {STEPS}")));
            evaluation.add(ours.evaluate(), peer.time("evaluate"));
        }
        table.extend([training, evaluation]);
    } else {
        println!("bf16: left out, this processor has no bfloat16 products");
    }
    println!(
        "\n| work | required | ratio: median (least to most) | fast path | peer |\n| --- | --- | --- | --- | --- |"
    );
    table.iter().for_each(|row| println!("{row}"));
    let (ours, theirs) = memory;
    println!(
        "| peak memory in training and evaluation | at most 0.7× | {:.2}× | {:.2} GB | {:.2} GB |",
        ours / theirs,
        ours / 1e9,
        theirs / 1e9
    );
}

/// This project's side.
struct Ours<'a> {
    stepper: Stepper<'a>,
    batches: Vec<Batch>,
    next: usize,
    valid: RowTensors,
}

impl<'a> Ours<'a> {
    fn new(config: &'a RunConfig, prepared: &'a Prepared) -> Self {
        let mut train = RowTensors::new(&prepared.splits.train, Device::Cpu);
        train.permute(&Tensor::randperm(train.n(), (Kind::Int64, Device::Cpu)));
        Self {
            stepper: Stepper::new(config, &prepared.model).expect("a float32 model on the CPU"),
            batches: train.batches(config.train.train_batch_size).collect(),
            next: 0,
            valid: RowTensors::new(&prepared.splits.valid, Device::Cpu),
        }
    }

    /// Seconds of some steps.
    fn train(&mut self) -> f64 {
        let start = Instant::now();
        for _ in 0..STEPS {
            let losses = self.stepper.losses(&self.batches[self.next]);
            assert!(losses.values().total.is_finite());
            self.stepper.update();
            self.next = (self.next + 1) % self.batches.len();
        }
        start.elapsed().as_secs_f64()
    }

    /// Seconds of an evaluation.
    fn evaluate(&mut self) -> f64 {
        let start = Instant::now();
        let ranking = self.stepper.rank(&self.valid).expect("finite scores");
        assert_eq!(ranking.rank.len() as i64, self.valid.n());
        start.elapsed().as_secs_f64()
    }
}

/// The peer's process.
struct Peer {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(python: &std::ffi::OsStr, data_path: &str, threads: &str) -> Self {
        let root = common::root();
        let mut child = Command::new(python)
            .args(["-m", "dif_sr_peer.timing", "--data_path", data_path, "--threads", threads, "--config"])
            .arg(root.join("configs/amazon_beauty.yaml"))
            .env("PYTHONPATH", root.join("reference"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("DIF_SR_PEER is a Python");
        let (ask, answers) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, ask, answers: BufReader::new(answers) }
    }

    fn time(&mut self, work: &str) -> f64 {
        writeln!(self.ask, "{work}").expect("the peer listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the peer answers");
        line.trim().parse().unwrap_or_else(|_| panic!("the peer answers `{work}` with a number, not {line:?}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One line of the table.
struct Row {
    work: &'static str,
    required: f64,
    /// Seconds of both sides, round by round.
    rounds: Vec<(f64, f64)>,
}

impl Row {
    fn new(work: &'static str, required: f64) -> Self {
        Self { work, required, rounds: Vec::new() }
    }

    fn add(&mut self, ours: f64, theirs: f64) {
        println!("{}: {ours:.3} s, peer {theirs:.3} s, ratio {:.2}", self.work, theirs / ours);
        self.rounds.push((ours, theirs));
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sorted = |value: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = self.rounds.iter().map(value).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let (ratios, ours, theirs) = (sorted(|(a, b)| b / a), sorted(|&(a, _)| a), sorted(|&(_, b)| b));
        let median = |all: &[f64]| all[all.len() / 2];
        write!(
            f,
            "| {} | {}× | {:.2}× ({:.2} to {:.2}) | {:.2} s | {:.2} s |",
            self.work,
            self.required,
            median(&ratios),
            ratios[0],
            ratios[ratios.len() - 1],
            median(&ours),
            median(&theirs)
        )
    }
}

/// The most bytes that this process has held.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells a process its memory");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown").replace("\t: ", "")
}

/// Whether the processor multiplies bfloat16 numbers itself.
fn bf16_products() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    ["avx512_bf16", "amx_bf16", "bf16"].iter().any(|flag| info.split_whitespace().any(|word| word == *flag))
}
