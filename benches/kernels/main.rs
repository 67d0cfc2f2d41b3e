//! The kernels of the fast path alone, each beside libtorch's on one thread: products by shape beside the processor's
//! limit, attention, LayerNorm, item loss.
//!
//! Sizes are those of a micro-batch of the notebook on Amazon_Beauty: 64 sequences of 7 positions, H = 256, four heads,
//! 12,102 items. Results are checked before they are timed. Ids are `group/case/implementation`; throughput is in
//! floating-point operations for products and the item loss, in scores for attention, in elements for LayerNorm.

mod attention_case;
#[cfg(target_arch = "x86_64")]
mod limit;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use dif_sr::config::{Fusion, Precision};
use dif_sr::fast::CacheAligned;
use dif_sr::fast::kernels::*;
use dif_sr::ranks::Team;
use tch::{Device, Kind, Reduction, Tensor};

use attention_case::AttentionCase;

#[global_allocator]
static ALLOCATOR: CacheAligned = CacheAligned;

const ROWS: usize = 448;
const H: usize = 256;
const ITEMS: usize = 12_102;

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    tch::set_num_threads(1);
    let mut group = c.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

/// Standard normal numbers, `[rows, columns]`.
fn normal(rows: usize, columns: usize) -> Tensor {
    Tensor::randn([rows as i64, columns as i64], (Kind::Float, Device::Cpu))
}

/// Row-major.
fn floats(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().to_kind(Kind::Float).contiguous().flatten(0, -1)).expect("float32")
}

/// Fails where `found` is further from `expected` than `tolerance` times the largest of the expected.
fn check(what: &str, found: &[f32], expected: &Tensor, tolerance: f64) {
    assert_eq!(found.len(), expected.numel(), "{what}");
    let expected = expected.detach().to_kind(Kind::Double).flatten(0, -1);
    let error = (Tensor::from_slice(found).to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
    let largest = expected.abs().max().double_value(&[]);
    assert!(error <= tolerance * largest, "{what}: off by {error:e} where the largest is {largest:e}");
}

/// float32 sums of a few hundred terms, in any order.
const FLOAT32: f64 = 1e-5;
/// Operands, and by libtorch products too, rounded to eight bits.
const BFLOAT16: f64 = 2e-2;

fn gemm_by_shape(c: &mut Criterion) {
    let mut group = group(c, "gemm");
    // A linear layer forward, its weight's gradient, the scores of 256 sequences, and a table's gradient from them.
    for (m, k, n) in [(ROWS, H, H), (H, ROWS, H), (256, H, 512), (512, 256, H)] {
        let (a, b) = (normal(m, k), normal(k, n));
        let exact = a.to_kind(Kind::Double).matmul(&b.to_kind(Kind::Double));
        let (x, y) = (floats(&a), floats(&b));
        group.throughput(Throughput::Elements(2 * (m * k * n) as u64));
        for (precision, kind, tolerance) in
            [(Precision::Float32, Kind::Float, FLOAT32), (Precision::Bf16, Kind::BFloat16, BFLOAT16)]
        {
            let case = format!("{m}x{k}x{n} {}", format!("{precision:?}").to_lowercase());
            let mut out = vec![0.0; m * n];
            let (mut left, right) = (OperandBuffer::default(), pack_operand(precision, MatRef::new(&y, n)));
            left.resize(precision, x.len());
            left.store(0, &x);
            let mut product = || gemm(precision, MatRef::new(&left, k), &right, &mut out, Epilogue::Overwrite);
            product();
            group.bench_function(format!("{case}/fast"), |bench| bench.iter(&mut product));
            check(&case, &out, &exact, tolerance);
            let (a, b) = (a.to_kind(kind), b.to_kind(kind));
            group.bench_function(format!("{case}/libtorch"), |bench| bench.iter(|| a.mm(&b)));
        }
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = group(c, "attention");
    for fusion in [Fusion::Sum, Fusion::Concat, Fusion::Gate] {
        let mut case = AttentionCase::new(fusion);
        let name = format!("{fusion:?}").to_lowercase();
        case.forward();
        check(&name, &case.context(), &case.reference().0, FLOAT32);
        case.backward();
        check(&format!("{name}: gradients"), &case.gradients(), &case.reference().1, FLOAT32);
        group.throughput(Throughput::Elements(case.n_scores()));
        group.bench_function(format!("forward {name}/fast"), |bench| bench.iter(|| case.forward()));
        group.bench_function(format!("forward {name}/libtorch"), |bench| {
            bench.iter(|| tch::no_grad(|| case.reference_forward()));
        });
        group.bench_function(format!("backward {name}/fast"), |bench| bench.iter(|| case.backward()));
        group.bench_function(format!("both {name}/libtorch"), |bench| bench.iter(|| case.reference()));
    }
    group.finish();
}

fn layer_norm(c: &mut Criterion) {
    let mut group = group(c, "layer norm");
    let [x, residual, dy] = [(); 3].map(|()| normal(ROWS, H).set_requires_grad(true));
    let [weight, bias] = [(); 2].map(|()| normal(1, H).view(H as i64).set_requires_grad(true));
    let forward = || (&x + &residual).layer_norm([H as i64], Some(&weight), Some(&bias), 1e-12, false);
    let (w, b) = (floats(&weight), floats(&bias));
    let norm = LayerNorm { weight: &w, bias: &b, eps: 1e-12 };
    let dropout = RowDropout { dropout: None, stream: Stream::new(0), row_numbers: &[] };
    let (rows, residuals) = (floats(&x), floats(&residual));
    let (mut saved, mut block, mut out) = (Normalized::default(), Vec::new(), Vec::new());
    saved.resize(Precision::Float32, ROWS, H);
    let mut add_norm_of_x = || {
        block.clone_from(&rows);
        out.clone_from(&residuals);
        add_norm(norm, dropout, 0, &mut block, &mut saved, &mut out);
    };
    add_norm_of_x();
    group.throughput(Throughput::Elements((ROWS * H) as u64));
    group.bench_function("add and norm/fast", |bench| bench.iter(&mut add_norm_of_x));
    check("add and norm", &out, &forward(), FLOAT32);
    group.bench_function("add and norm/libtorch", |bench| bench.iter(|| tch::no_grad(forward)));

    let gradients = Tensor::run_backward(&[forward() * &dy], &[&x, &weight, &bias], false, false);
    let (dout, mut dx, mut grad) = (floats(&dy), OperandBuffer::default(), Vec::new());
    dx.resize(Precision::Float32, ROWS * H);
    let [mut dweight, mut dbias] = [(); 2].map(|()| vec![0.0; H]);
    let mut backward = |dweight: &mut [f32], dbias: &mut [f32]| {
        grad.clone_from(&dout);
        let into = LayerNormGrads { weight: dweight, bias: dbias };
        add_norm_backward(norm, dropout, &saved, &mut grad, &mut dx, into);
    };
    backward(&mut dweight, &mut dbias);
    check("weight", &dweight, &gradients[1], FLOAT32);
    check("bias", &dbias, &gradients[2], FLOAT32);
    group.bench_function("backward/fast", |bench| bench.iter(|| backward(&mut dweight, &mut dbias)));
    let mut found = vec![0.0; ROWS * H];
    dx.load(0, &mut found);
    check("backward", &found, &gradients[0], FLOAT32);
    group.bench_function("both/libtorch", |bench| {
        bench.iter(|| Tensor::run_backward(&[forward() * &dy], &[&x, &weight, &bias], false, false));
    });
    group.finish();
}

fn cross_entropy_of_items(c: &mut Criterion) {
    const B: usize = 256;
    let mut group = group(c, "item loss");
    let sequences = normal(B, H).set_requires_grad(true);
    let table = (normal(ITEMS, H) * 0.05).detach().set_requires_grad(true);
    let targets = Tensor::randint(ITEMS as i64, [B as i64], (Kind::Int64, Device::Cpu));
    let reference = || {
        let scores = sequences.matmul(&table.tr());
        let loss = scores.cross_entropy_loss::<Tensor>(&targets, None, Reduction::Mean, -100, 0.0);
        let gradients = Tensor::run_backward(&[&loss], &[&sequences, &table], false, false);
        (loss, gradients)
    };
    let (loss, gradients) = reference();
    let (x, e) = (floats(&sequences), floats(&table));
    let targets: Vec<i64> = Vec::try_from(&targets).expect("int64");
    let items = ItemEmbedding::whole(&e, H, Precision::Float32);
    let team = Team::alone(1);
    let mut catalogue = Catalogue::new(ITEMS, &team);
    let batch = Targets { sequences: &x, targets: &targets, wanted: &[] };
    let (mut dx, mut de) = (vec![0.0; B * H], vec![0.0; ITEMS * H]);
    let mut item_loss = |dx: &mut [f32], de: &mut [f32]| {
        catalogue.cross_entropy(&team, items, batch, dx, de).expect("there is one rank")
    };
    let found = item_loss(&mut dx, &mut de);
    check("loss", &[found as f32], &loss, FLOAT32);
    check("sequences", &dx, &gradients[0], FLOAT32);
    check("items", &de, &gradients[1], FLOAT32);
    group.throughput(Throughput::Elements(3 * 2 * (B * H * ITEMS) as u64));
    group.bench_function(format!("{B} of {ITEMS}/fast"), |bench| {
        bench.iter(|| item_loss(&mut dx, &mut de));
    });
    group.bench_function(format!("{B} of {ITEMS}/libtorch"), |bench| bench.iter(reference));
    group.finish();
}

/// The processor's own limit, where it is known how to reach it.
fn limit(c: &mut Criterion) {
    #[cfg(target_arch = "x86_64")]
    limit::limit(c);
    let _ = c;
}

criterion_group!(benches, limit, gemm_by_shape, attention, layer_norm, cross_entropy_of_items);
criterion_main!(benches);
