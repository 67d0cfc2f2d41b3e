//! A training step, a slice of an epoch and an evaluation, on both computing paths and, where there is one, a GPU: on
//! ml-100k, and on Amazon_Beauty where `DIF_SR_AMAZON_BEAUTY` or `dataset/` has it.
//!
//! A GPU works behind the program's back: it is waited for once behind all that Criterion asks for at a time, so that no
//! wait is inside of a step. TF32 is on with `TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dif_sr::data::OrderedRows;
use dif_sr::device::wait_for;
use dif_sr::fast::CacheAligned;
use dif_sr::train::{Prepared, Stepper};
use tch::{Cuda, Device, Kind, Tensor};

#[global_allocator]
static ALLOCATOR: CacheAligned = CacheAligned;

/// Batches of a slice.
const SLICE: usize = 4;

/// The last part of an id, and what it stands for: `use_gpu`, `compute_path`, `precision` and `cuda_graphs`.
const PATHS: [(&str, [&str; 4]); 7] = [
    ("reference", ["False", "reference", "float32", "True"]),
    ("fast", ["False", "fast", "float32", "True"]),
    ("cuda", ["True", "reference", "float32", "True"]),
    ("cuda-eager", ["True", "reference", "float32", "False"]),
    ("cuda-bf16", ["True", "reference", "bf16", "True"]),
    ("cuda-fast", ["True", "fast", "float32", "True"]),
    ("cuda-fast-bf16", ["True", "fast", "bf16", "True"]),
];

/// How long it takes to do something so often, all that a GPU still has to do included.
fn timed(device: Device, n: u64, mut something: impl FnMut()) -> Duration {
    wait_for(device);
    let start = Instant::now();
    (0..n).for_each(|_| something());
    wait_for(device);
    start.elapsed()
}

fn data_set(c: &mut Criterion, name: &str, data_path: &str) {
    let threads = tch::get_num_threads().to_string();
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    for (path, [use_gpu, compute_path, precision, cuda_graphs]) in PATHS {
        if use_gpu == "True" && !Cuda::is_available() {
            continue;
        }
        let keys =
            [("data_path", data_path), ("threads", &threads), ("use_gpu", use_gpu), ("cuda_graphs", cuda_graphs)];
        let keys = [&keys[..], &[("compute_path", compute_path), ("precision", precision)]].concat();
        let config = common::config(name, &keys);
        let prepared = Prepared::new(&config).expect("the data loads");
        let device = prepared.model.device();
        let mut stepper = Stepper::new(&config, &prepared.model).expect("there is one rank");
        let valid = OrderedRows::new(&prepared.splits.valid, device);
        let mut train = OrderedRows::new(&prepared.splits.train, device);
        let batch = train.batches(config.train.train_batch_size).next().expect("a batch");

        group.bench_function(format!("step of {} rows/{path}", batch.user.size()[0]), |b| {
            b.iter_custom(|n| {
                timed(device, n, || {
                    stepper.step(&batch).expect("there is one rank");
                })
            });
        });
        // With the shuffle at its start: what a step costs when its batch is new.
        group.bench_function(format!("shuffle and {SLICE} steps/{path}"), |b| {
            b.iter_custom(|n| {
                timed(device, n, || {
                    train.permute(&Tensor::randperm(train.n(), (Kind::Int64, Device::Cpu)));
                    for batch in train.batches(config.train.train_batch_size).take(SLICE) {
                        stepper.step(&batch).expect("there is one rank");
                    }
                })
            });
        });
        group.bench_function(format!("evaluation of {} users/{path}", valid.n()), |b| {
            b.iter(|| stepper.rank(&valid).expect("finite scores"));
        });
    }
    group.finish();
}

fn step(c: &mut Criterion) {
    // SAFETY: nothing has started a thread yet.
    unsafe { dif_sr::device::load_cuda() };
    data_set(c, "ml-100k", &common::ML_100K);
    if let Some(data_path) = common::AMAZON_BEAUTY.as_deref() {
        data_set(c, "amazon_beauty", data_path);
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
