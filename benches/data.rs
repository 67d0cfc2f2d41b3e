//! Reading, filtering and splitting ml-100k.

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};
use dif_sr::data::Dataset;
use dif_sr::data::split::split;

fn data(c: &mut Criterion) {
    let config = common::config("ml-100k", &[("data_path", &common::ML_100K)]).data;
    let dataset = Dataset::load(&config).expect("ml-100k loads");
    let mut group = c.benchmark_group("data");
    group.bench_function("load/ml-100k", |b| b.iter(|| Dataset::load(&config).expect("ml-100k loads")));
    group.bench_function("split/ml-100k", |b| b.iter(|| split(&dataset, &config).expect("ml-100k splits")));
    group.finish();
}

criterion_group!(benches, data);
criterion_main!(benches);
