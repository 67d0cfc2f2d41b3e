//! A training step and an evaluation of the reference path on ml-100k, on libtorch's own choice of threads.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dif_sr::data::RowTensors;
use dif_sr::eval::rank;
use dif_sr::train::{Adam, Prepared};

fn step(c: &mut Criterion) {
    let threads = tch::get_num_threads().to_string();
    let config = common::config("ml-100k", &[("data_path", &common::ML_100K), ("threads", &threads)]);
    let Prepared { splits, model, .. } = Prepared::new(&config).expect("ml-100k loads");
    let mut group = c.benchmark_group("step");
    group.sample_size(20).measurement_time(Duration::from_secs(15));

    let valid = RowTensors::new(&splits.valid, model.device());
    group.bench_function("evaluate 943 users/reference", |b| {
        b.iter(|| rank(&model, &valid, config.eval.eval_batch_size, |_| Ok(())).expect("finite scores"));
    });

    let train = RowTensors::new(&splits.train, model.device());
    let batch = train.batches(config.train.train_batch_size).next().expect("a batch");
    let mut adam = Adam::new(model.named_parameters(), config.train.learning_rate, config.train.weight_decay);
    group.bench_function("train 2048 rows/reference", |b| {
        b.iter(|| {
            adam.zero_grad();
            model.losses(&batch, true).total.backward();
            adam.step();
        });
    });
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
