//! A training step, a slice of an epoch and an evaluation, on both computing paths: on ml-100k, and on Amazon_Beauty
//! where `DIF_SR_AMAZON_BEAUTY` or `dataset/` has it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dif_sr::data::RowTensors;
use dif_sr::train::{Prepared, Stepper};
use tch::{Device, Kind, Tensor};

/// Batches of a slice.
const SLICE: usize = 4;

fn data_set(c: &mut Criterion, name: &str, data_path: &str) {
    let threads = tch::get_num_threads().to_string();
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    for path in ["reference", "fast"] {
        let keys = [("data_path", data_path), ("threads", &threads), ("compute_path", path)];
        let config = common::config(name, &keys);
        let prepared = Prepared::new(&config).expect("the data loads");
        let mut stepper = Stepper::new(&config, &prepared.model).expect("a float32 model on the CPU");
        let valid = RowTensors::new(&prepared.splits.valid, Device::Cpu);
        let mut train = RowTensors::new(&prepared.splits.train, Device::Cpu);
        let batch = train.batches(config.train.train_batch_size).next().expect("a batch");

        group.bench_function(format!("step of {} rows/{path}", batch.user.size()[0]), |b| {
            b.iter(|| {
                let losses = stepper.losses(&batch);
                stepper.update();
                losses
            });
        });
        // With the shuffle at its start: what a step costs when its batch is new.
        group.bench_function(format!("shuffle and {SLICE} steps/{path}"), |b| {
            b.iter(|| {
                train.permute(&Tensor::randperm(train.n(), (Kind::Int64, Device::Cpu)));
                for batch in train.batches(config.train.train_batch_size).take(SLICE) {
                    stepper.losses(&batch);
                    stepper.update();
                }
            });
        });
        group.bench_function(format!("evaluation of {} users/{path}", valid.n()), |b| {
            b.iter(|| stepper.rank(&valid).expect("finite scores"));
        });
    }
    group.finish();
}

fn step(c: &mut Criterion) {
    data_set(c, "ml-100k", &common::ML_100K);
    if let Some(data_path) = common::AMAZON_BEAUTY.as_deref() {
        data_set(c, "amazon_beauty", data_path);
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
