//! The parts of a training step, each on the notebook's sizes with 256 sequences: forward and backward pass where there
//! is one. Ids are `group/case/implementation`.

mod synthetic;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dif_sr::config::{Fusion, Precision};
use dif_sr::fast::{DropoutSeed, FastPath};
use dif_sr::model::{Dropout, FeedForward, FusionLayer};
use dif_sr::train::Adam;
use tch::{Device, Kind, Tensor};

use synthetic::Sizes;

const ROWS: i64 = 256;

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).set_requires_grad(true)
}

/// The sum of what `forward` gives, differentiated.
fn differentiate(forward: impl Fn() -> Tensor) {
    forward().sum(Kind::Float).backward();
}

fn components(c: &mut Criterion) {
    let Sizes { length, hidden, .. } = Sizes::BEAUTY;
    let config = Sizes::BEAUTY.config();
    let mut group = c.benchmark_group("components");
    group.sample_size(10).measurement_time(Duration::from_secs(3));

    let maps = [(); 3].map(|()| random(&[ROWS, 4, length, length]));
    for fusion in [Fusion::Sum, Fusion::Concat, Fusion::Gate] {
        let layer = FusionLayer::new(fusion, 1, length, Kind::Float);
        let name = format!("fusion {fusion:?}").to_lowercase();
        group.bench_function(format!("{name}/reference"), |b| {
            b.iter(|| differentiate(|| layer.forward(&maps[..1], &maps[1], &maps[2])));
        });
    }
    let hidden_states = random(&[ROWS, length, hidden]);
    let dropout = Dropout { p: 0.5 };
    group.bench_function("dropout/reference", |b| b.iter(|| differentiate(|| dropout.forward(&hidden_states, true))));
    // Two products, gelu, dropout, residual and LayerNorm.
    let feed_forward = FeedForward::new(&config, Kind::Float);
    group.bench_function("feed forward/reference", |b| {
        b.iter(|| differentiate(|| feed_forward.forward(&hidden_states, true)));
    });

    // The fast path has no layers to call: its parts show as differences between whole passes.
    for fusion in [Fusion::Sum, Fusion::Concat, Fusion::Gate] {
        let sizes = Sizes { fusion, items: 1_000, ..Sizes::BEAUTY };
        let (model, batch) = (sizes.model(), sizes.batch(ROWS));
        let mut fast = FastPath::new(&model, Precision::Float32).expect("a float32 model on the CPU");
        let name = format!("encoder {fusion:?}").to_lowercase();
        group.bench_function(format!("{name}/reference"), |b| b.iter(|| model.losses(&batch, true).total.backward()));
        group.bench_function(format!("{name}/fast"), |b| {
            b.iter(|| fast.losses(&batch, Some(DropoutSeed { seed: 212, step: 0 })));
        });
    }
    let (model, batch) = (Sizes::BEAUTY.model(), Sizes::BEAUTY.batch(ROWS));
    let mut fast = FastPath::new(&model, Precision::Float32).expect("a float32 model on the CPU");
    let mut adam = Adam::new(model.named_parameters(), 1e-4, 0.0);
    model.losses(&batch, true).total.backward();
    group.bench_function("adam/reference", |b| b.iter(|| adam.step()));
    fast.losses(&batch, None);
    group.bench_function("adam/fast", |b| b.iter(|| adam.step_fast(&fast)));
    group.finish();
}

criterion_group!(benches, components);
criterion_main!(benches);
