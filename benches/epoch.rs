//! A program, no benchmark: times the epochs of whole trainings on the reference path, and asserts the final metrics.
//!
//! ```sh
//! cargo bench --bench epoch [-- ml-100k | Amazon_Beauty]
//! ```
//!
//! Ten epochs of ml-100k on the CPU, and, where there are Amazon_Beauty and a GPU, the training of the notebook to its early
//! stop, whose metrics go through the same gate as everywhere. A training cannot be repeated as a function can, so that
//! Criterion has no part in it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::atomic::AtomicBool;

use dif_sr::config::RunConfig;
use dif_sr::run_folder::RunFolder;
use dif_sr::train::{Event, Prepared, Report, run};
use dif_sr::verdict::statistics::median;
use dif_sr::verdict::{Expectation, Outcome, Record};

struct Silent;

impl Report for Silent {
    fn log(&mut self, _line: &str) {}
    fn event(&mut self, _event: &Event) {}
    fn testing(&mut self, _done: usize, _rows: usize) {}
}

/// Trains and gives the run's evidence.
fn train(config: &RunConfig) -> Record {
    let prepared = Prepared::new(config).unwrap_or_else(|e| panic!("{e}"));
    let mut folder = RunFolder::create(None, config, None).unwrap_or_else(|e| panic!("{e}"));
    let never = AtomicBool::new(false);
    let result = run(config, &prepared, &mut folder, &mut Silent, &never).unwrap_or_else(|e| panic!("{e}"));
    folder.finish(&result).unwrap_or_else(|e| panic!("{e}"));
    println!("run folder: {}", folder.path().display());
    Record::load(folder.path()).unwrap_or_else(|e| panic!("{e}"))
}

/// Trains, and prints what an epoch takes.
fn epochs(name: &str, config: &RunConfig) -> Record {
    let record = train(config);
    let mut seconds = record.epoch_seconds.clone();
    seconds.sort_by(f64::total_cmp);
    let [least, most] = [seconds[0], seconds[seconds.len() - 1]];
    let (median, n) = (median(&seconds), seconds.len());
    println!("{name}/reference: {median:.3} s an epoch (median of {n}, from {least:.3} to {most:.3})");
    record
}

fn ml_100k() {
    let runs = tempfile::tempdir().expect("a temporary folder");
    let folder = runs.path().display().to_string();
    let keys = [("data_path", common::ML_100K.as_str()), ("epochs", "10"), ("checkpoint_dir", &folder)];
    epochs("ml-100k", &common::config("ml-100k", &keys));
}

fn amazon_beauty() {
    // Says itself what is left out where the data are missing.
    let Some(data) = common::AMAZON_BEAUTY.as_ref() else { return };
    if !tch::Cuda::is_available() {
        println!("left out: Amazon_Beauty to its early stop, which needs a GPU");
        return;
    }
    let config = common::config("amazon_beauty", &[("data_path", data), ("use_gpu", "True"), ("threads", "None")]);
    let record = epochs("Amazon_Beauty", &config);
    let expectation = common::root().join("configs/expectations/amazon_beauty.yaml");
    let expectation = Expectation::load(&expectation).unwrap_or_else(|e| panic!("{e}"));
    let verdict = expectation.judge(&[record]).unwrap_or_else(|e| panic!("{e}"));
    println!("{}", verdict.markdown());
    assert_eq!(verdict.outcome, Outcome::Pass, "{}", verdict.sentence);
}

fn main() {
    // SAFETY: nothing has started a thread yet.
    unsafe { dif_sr::device::load_cuda() };
    // Cargo adds flags of its own.
    let asked = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let is_asked = |name: &str| asked.as_deref().is_none_or(|asked| name.contains(asked));
    if is_asked("ml-100k") {
        ml_100k();
    }
    if is_asked("Amazon_Beauty") {
        amazon_beauty();
    }
}
