//! Whole epochs of the reference path: a training of ml-100k on the CPU, and, where there are Amazon_Beauty and a GPU, the
//! training of the notebook to its early stop, whose final metrics go through the same gate as everywhere.
//!
//! A training cannot be repeated as a function can. It is done once, when Criterion asks for the first measurement (not for
//! what a filter leaves out), and Criterion is told the seconds of its epochs one by one.

#[path = "../tests/common/mod.rs"]
mod common;

use std::cell::{Cell, OnceCell};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use dif_sr::config::RunConfig;
use dif_sr::run_folder::RunFolder;
use dif_sr::train::{Event, Prepared, Report, run};
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

/// A benchmark of a training's epochs, a sample for each. The training's evidence is left in the cell.
fn epochs(c: &mut Criterion, id: &str, samples: usize, config: &RunConfig) -> OnceCell<Record> {
    let (record, next) = (OnceCell::new(), Cell::new(0));
    let one = || {
        let seconds = &record.get_or_init(|| train(config)).epoch_seconds;
        Duration::from_secs_f64(seconds[next.replace(next.get() + 1) % seconds.len()])
    };
    let mut group = c.benchmark_group("epoch");
    // Warmed up by the first epoch; then one epoch a sample.
    group.sample_size(samples).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_nanos(1)).measurement_time(Duration::from_nanos(1));
    group.bench_function(id, |b| b.iter_custom(|n| (0..n).map(|_| one()).sum()));
    group.finish();
    record
}

fn ml_100k(c: &mut Criterion) {
    let runs = tempfile::tempdir().expect("a temporary folder");
    let folder = runs.path().display().to_string();
    // As many epochs as Criterion's least number of samples.
    let keys = [("data_path", common::ML_100K.as_str()), ("epochs", "10"), ("checkpoint_dir", &folder)];
    epochs(c, "ml-100k/reference", 10, &common::config("ml-100k", &keys));
}

fn amazon_beauty(c: &mut Criterion) {
    // Says itself what is left out where the data are missing.
    let Some(data) = common::AMAZON_BEAUTY.as_ref() else { return };
    if !tch::Cuda::is_available() {
        println!("left out: Amazon_Beauty to its early stop, which needs a GPU");
        return;
    }
    let config = common::config("amazon_beauty", &[("data_path", data), ("use_gpu", "True"), ("threads", "None")]);
    let Some(record) = epochs(c, "Amazon_Beauty/reference", 30, &config).into_inner() else { return };
    let expectation = common::root().join("configs/expectations/amazon_beauty.yaml");
    let expectation = Expectation::load(&expectation).unwrap_or_else(|e| panic!("{e}"));
    let verdict = expectation.judge(&[record]).unwrap_or_else(|e| panic!("{e}"));
    println!("{}", verdict.markdown());
    assert_eq!(verdict.outcome, Outcome::Pass, "{}", verdict.sentence);
}

fn epoch(c: &mut Criterion) {
    // SAFETY: nothing has started a thread yet.
    unsafe { dif_sr::device::load_cuda() };
    ml_100k(c);
    amazon_beauty(c);
}

criterion_group!(benches, epoch);
criterion_main!(benches);
