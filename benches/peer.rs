//! A program, no benchmark: compares the fast path with the PyTorch peer on Amazon_Beauty, in turns in one run, and prints the
//! table of docs/performance.md.
//!
//! ```sh
//! DIF_SR_PEER=python DIF_SR_AMAZON_BEAUTY=/data cargo bench --bench peer
//! ```
//!
//! `DIF_SR_PEER` is a Python that has `python/peer/requirements.txt` installed; `DIF_SR_PEER_THREADS` gives both sides so
//! many threads instead of two. With `DIF_SR_PEER_DEVICE=cuda` both compute on the GPU, this side by its reference path.
//! Ratios are taken round by round, because machines change from minute to minute.

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use dif_sr::config::RunConfig;
use dif_sr::data::{Batch, Dataset, OrderedRows, split::split};
use dif_sr::device::wait_for;
use dif_sr::fast::CacheAligned;
use dif_sr::model::Losses;
use dif_sr::train::{Prepared, Stepper};
use tch::{Device, Kind, Tensor};

#[global_allocator]
static ALLOCATOR: CacheAligned = CacheAligned;

const ROUNDS: usize = 5;
/// Steps of a round on the CPU.
const STEPS: usize = 4;
/// Steps of a round on a GPU: as many as a training takes before it reads losses.
const STEPS_ON_GPU: usize = 16;

fn main() {
    // SAFETY: nothing has started a thread yet.
    unsafe { dif_sr::device::load_cuda() };
    let Some(python) = std::env::var_os("DIF_SR_PEER") else {
        return println!("peer: left out, set DIF_SR_PEER to a Python with python/peer/requirements.txt");
    };
    let Some(data_path) = common::AMAZON_BEAUTY.as_deref() else { return };
    let threads = std::env::var("DIF_SR_PEER_THREADS").unwrap_or_else(|_| "2".to_owned());
    let device = std::env::var("DIF_SR_PEER_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let on_gpu = device == "cuda";
    assert!(on_gpu || device == "cpu", "DIF_SR_PEER_DEVICE is cpu or cuda, not {device}");
    let config = |precision: &str| {
        let [path, use_gpu] = if on_gpu { ["reference", "True"] } else { ["fast", "False"] };
        let keys = [("data_path", data_path), ("threads", &threads), ("precision", precision)];
        common::config("amazon_beauty", &[&keys[..], &[("compute_path", path), ("use_gpu", use_gpu)]].concat())
    };
    let mut peer = Peer::start(&python, data_path, &threads, &device);
    println!("{}\n{threads} threads, {ROUNDS} rounds, {device}", processor());

    let float32 = config("float32");
    let mut table = vec![Row::new("reading, filtering, splitting".to_owned(), Some(10.0))];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let dataset = Dataset::load(&float32.data).expect("the data loads");
        split(&dataset, &float32.data).expect("the data splits");
        let ours = start.elapsed().as_secs_f64();
        table[0].add(ours, peer.time("load"));
    }
    if on_gpu {
        for precision in ["float32", "bf16"] {
            table.extend(rows(&config(precision), &mut peer, (STEPS_ON_GPU, precision), [None, None]));
        }
        return print(&table);
    }
    table.extend(rows(&float32, &mut peer, (STEPS, "float32"), [Some(2.0), Some(4.0)]));
    let (ours, theirs) = (peak(), peer.time("memory"));
    if bf16_products() {
        table.extend(rows(&config("bf16"), &mut peer, (STEPS, "bf16"), [Some(6.0), Some(4.0)]));
    } else {
        println!("bf16: left out, this processor has no bfloat16 products");
    }
    print(&table);
    println!(
        "| peak memory in training and evaluation | at most 0.7× | {:.2}× | {:.2} GB | {:.2} GB |",
        ours / theirs,
        ours / 1e9,
        theirs / 1e9
    );
}

/// Training and evaluating, in turns with the peer.
fn rows(
    config: &RunConfig,
    peer: &mut Peer,
    (steps, precision): (usize, &str),
    [training, evaluation]: [Option<f64>; 2],
) -> [Row; 2] {
    let mut training = Row::new(format!("{steps} training steps, {precision}"), training);
    let mut evaluation = Row::new(format!("evaluation of 22,363 users, {precision}"), evaluation);
    let prepared = Prepared::new(config).expect("the data loads");
    let mut ours = Ours::new(config, &prepared);
    for _ in 0..ROUNDS {
        training.add(ours.train(steps), peer.time(&format!("train {steps}")));
        evaluation.add(ours.evaluate(), peer.time("evaluate"));
    }
    [training, evaluation]
}

fn print(table: &[Row]) {
    println!("\n| work | required | ratio: median (least to most) | here | peer |\n| --- | --- | --- | --- | --- |");
    table.iter().for_each(|row| println!("{row}"));
}

/// This project's side.
struct Ours<'a> {
    device: Device,
    stepper: Stepper<'a>,
    batches: Vec<Batch>,
    next: usize,
    valid: OrderedRows,
}

impl<'a> Ours<'a> {
    fn new(config: &'a RunConfig, prepared: &'a Prepared) -> Self {
        let device = prepared.model.device();
        let mut train = OrderedRows::new(&prepared.splits.train, device);
        train.permute(&Tensor::randperm(train.n(), (Kind::Int64, Device::Cpu)));
        Self {
            device,
            stepper: Stepper::new(config, &prepared.model).expect("a float32 model, the fast path's on the CPU"),
            batches: train.batches(config.train.train_batch_size).collect(),
            next: 0,
            valid: OrderedRows::new(&prepared.splits.valid, device),
        }
    }

    /// Seconds of some steps, whose losses are read behind them, as a training on a GPU does.
    fn train(&mut self, steps: usize) -> f64 {
        let start = Instant::now();
        let mut losses = Vec::new();
        for _ in 0..steps {
            losses.push(self.stepper.step(&self.batches[self.next]).expect("there is one rank"));
            self.next = (self.next + 1) % self.batches.len();
        }
        assert!(Losses::values_of(&losses).iter().all(|losses| losses.total.is_finite()));
        wait_for(self.device);
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
    fn start(python: &std::ffi::OsStr, data_path: &str, threads: &str, device: &str) -> Self {
        let root = common::root();
        let mut child = Command::new(python)
            .args(["-m", "dif_sr_peer.timing", "--data_path", data_path, "--threads", threads, "--device", device])
            .arg("--config")
            .arg(root.join("configs/amazon_beauty.yaml"))
            .env("PYTHONPATH", root.join("python/peer"))
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
    work: String,
    required: Option<f64>,
    /// Seconds of both sides, round by round.
    rounds: Vec<(f64, f64)>,
}

impl Row {
    fn new(work: String, required: Option<f64>) -> Self {
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
            "| {} | {} | {:.2}× ({:.2} to {:.2}) | {:.2} s | {:.2} s |",
            self.work,
            self.required.map_or("–".to_owned(), |ratio| format!("{ratio}×")),
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
