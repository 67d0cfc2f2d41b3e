//! What a training step of the fast path costs as sequences, catalogue and batch grow, on synthetic data. A step on a
//! million items shows that no block of [batch, items] scores is ever held.

mod synthetic;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use dif_sr::config::{Fusion, Precision};
use dif_sr::fast::{DropoutSeed, FastPath};
use dif_sr::train::Adam;

use synthetic::Sizes;

const SMALL: Sizes = Sizes { items: 1_000, length: 10, hidden: 64, layers: 2, fusion: Fusion::Gate };

fn step(c: &mut Criterion, group: &str, cases: impl Iterator<Item = (i64, Sizes, i64)>) {
    let mut group = c.benchmark_group(group);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    for (parameter, sizes, rows) in cases {
        let (model, batch) = (sizes.model(), sizes.batch(rows));
        let mut fast = FastPath::new(&model, Precision::Float32).expect("a float32 model on the CPU");
        let mut adam = Adam::new(model.named_parameters(), 1e-4, 0.0);
        group.bench_with_input(BenchmarkId::new("fast", parameter), &parameter, |b, _| {
            b.iter(|| {
                let losses = fast.losses(&batch, Some(DropoutSeed { seed: 212, step: adam.steps() }));
                adam.step_fast(&fast);
                losses
            });
        });
    }
    group.finish();
}

fn scaling(c: &mut Criterion) {
    step(c, "length", [5, 10, 20, 50].map(|length| (length, Sizes { length, ..SMALL }, 256)).into_iter());
    let catalogues = [1_000, 10_000, 100_000, 1_000_000];
    step(c, "items", catalogues.map(|items| (items, Sizes { items, ..SMALL }, 256)).into_iter());
    step(c, "batch", [64, 256, 1024, 4096].map(|rows| (rows, SMALL, rows)).into_iter());
    println!("peak memory: {}", peak());
}

/// The most memory that this process has held.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim().to_owned()
}

criterion_group!(benches, scaling);
criterion_main!(benches);
