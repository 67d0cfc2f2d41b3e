//! A program, no benchmark: times the epochs of whole trainings, and asserts the final metrics.
//!
//! ```sh
//! cargo bench --bench epoch [-- ml-100k | Amazon_Beauty] [--epoch_seconds=S] [--training_seconds=S] [--KEY=VALUE ...]
//! ```
//!
//! `--epoch_seconds` and `--training_seconds` are what an epoch (their median) and the whole training of Amazon_Beauty may
//! take at most; any other key is one of the configuration, `--compute_path=fast` say.
//!
//! Ten epochs of ml-100k on the CPU, and, where there are Amazon_Beauty and a GPU, the training of the notebook to its early
//! stop, whose metrics go through the same gate as everywhere. A training cannot be repeated as a function can, so that
//! Criterion has no part in it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::atomic::AtomicBool;

use dif_sr::config::RunConfig;
use dif_sr::fast::CacheAligned;
use dif_sr::run_folder::RunFolder;
use dif_sr::train::{Event, Prepared, Report, run};
use dif_sr::verdict::statistics::median;
use dif_sr::verdict::{Expectation, Outcome, Record};

#[global_allocator]
static ALLOCATOR: CacheAligned = CacheAligned;

struct Silent;

impl Report for Silent {
    fn log(&mut self, _line: &str) {}
    fn event(&mut self, _event: &Event) {}
    fn testing(&mut self, _done: usize, _rows: usize) {}
}

/// Trains, and gives the run's evidence and the seconds of the training.
fn train(config: &RunConfig) -> (Record, f64) {
    let prepared = Prepared::new(config).unwrap_or_else(|e| panic!("{e}"));
    let mut folder = RunFolder::create(None, config, None, 1).unwrap_or_else(|e| panic!("{e}"));
    let never = AtomicBool::new(false);
    let result = run(config, &prepared, &mut folder, &mut Silent, &never).unwrap_or_else(|e| panic!("{e}"));
    folder.finish(&result).unwrap_or_else(|e| panic!("{e}"));
    println!("run folder: {}", folder.path().display());
    (Record::load(folder.path()).unwrap_or_else(|e| panic!("{e}")), result.train_seconds)
}

/// Trains, and prints what an epoch takes.
fn epochs(name: &str, config: &RunConfig) -> (Record, f64) {
    let (record, training) = train(config);
    let mut seconds = record.epoch_seconds.clone();
    seconds.sort_by(f64::total_cmp);
    let [least, most] = [seconds[0], seconds[seconds.len() - 1]];
    let (median, n) = (median(&seconds), seconds.len());
    let sum: f64 = seconds.iter().sum();
    println!("{name}: {median:.3} s an epoch (median of {n}, from {least:.3} to {most:.3})");
    println!("{name}: {training:.1} s of training, of which {sum:.1} s of epochs; the rest is evaluations and files");
    (record, training)
}

fn ml_100k() {
    let runs = tempfile::tempdir().expect("a temporary folder");
    let folder = runs.path().display().to_string();
    let keys = [("data_path", common::ML_100K.as_str()), ("epochs", "10"), ("checkpoint_dir", &folder)];
    epochs("ml-100k", &common::config("ml-100k", &keys));
}

fn amazon_beauty(keys: &[(&str, &str)], limits: [Option<f64>; 2]) {
    // Says itself what is left out where the data are missing.
    let Some(data) = common::AMAZON_BEAUTY.as_ref() else { return };
    if !tch::Cuda::is_available() {
        assert!(!common::required("DIF_SR_GPU"), "Amazon_Beauty to its early stop needs a GPU");
        println!("left out: Amazon_Beauty to its early stop, which needs a GPU");
        return;
    }
    let fixed = [("data_path", data.as_str()), ("use_gpu", "True"), ("threads", "None")];
    let config = common::config("amazon_beauty", &[&fixed[..], keys].concat());
    let (record, training) = epochs("Amazon_Beauty", &config);
    let took = [median(&record.epoch_seconds), training];
    let expectation = common::root().join("configs/expectations/amazon_beauty.yaml");
    let expectation = Expectation::load(&expectation).unwrap_or_else(|e| panic!("{e}"));
    let verdict = expectation.judge(&[record]).unwrap_or_else(|e| panic!("{e}"));
    println!("{}", verdict.markdown());
    assert_eq!(verdict.outcome, Outcome::Pass, "{}", verdict.sentence);
    for ((what, seconds), limit) in ["an epoch", "the training"].into_iter().zip(took).zip(limits) {
        println!("{what} took {seconds:.3} s{}", limit.map_or(String::new(), |most| format!(", {most} s are allowed")));
        assert!(limit.is_none_or(|most| seconds <= most), "{what} took {seconds:.3} s");
    }
}

fn main() {
    // SAFETY: nothing has started a thread yet.
    unsafe { dif_sr::device::load_cuda() };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo adds flags of its own, without a value.
    let asked = arguments.iter().find(|argument| !argument.starts_with('-'));
    let values = arguments.iter().filter_map(|argument| argument.strip_prefix("--")?.split_once('='));
    let (limits, keys): (Vec<_>, Vec<_>) =
        values.partition(|(key, _)| ["epoch_seconds", "training_seconds"].contains(key));
    let limit = |name: &str| {
        let text = limits.iter().find(|(key, _)| *key == name).map(|(_, text)| *text);
        text.map(|text| text.parse().unwrap_or_else(|_| panic!("--{name} takes a number of seconds, found `{text}`")))
    };
    let limits = [limit("epoch_seconds"), limit("training_seconds")];
    let is_asked = |name: &str| asked.is_none_or(|asked| name.contains(asked.as_str()));
    if is_asked("ml-100k") {
        ml_100k();
    }
    if is_asked("Amazon_Beauty") {
        amazon_beauty(&keys, limits);
    }
}
