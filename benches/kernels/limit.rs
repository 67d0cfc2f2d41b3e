//! What a core multiplies at most: chains of its vector instructions on registers alone, without loads and stores.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::mem::transmute;

use criterion::{Criterion, Throughput};

/// Instructions of a chain.
const STEPS: usize = 1 << 14;
/// Chains side by side: they hide an instruction's latency, and fit into the registers.
const CHAINS: [usize; 2] = [12, 24];

/// A function that takes STEPS instructions on each chain.
macro_rules! chains {
    ($name:ident, $features:literal, $chains:expr, $zero:expr, $factor:expr, $step:expr) => {
        #[target_feature(enable = $features)]
        fn $name() {
            let factor = black_box($factor);
            let mut sums = [$zero; $chains];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = $step(*sum, factor);
                }
            }
            black_box(sums);
        }
    };
}

chains!(avx2_float32, "avx2,fma", CHAINS[0], _mm256_setzero_ps(), _mm256_set1_ps(0.5), |sum, x| _mm256_fmadd_ps(
    x, x, sum
));
chains!(avx512_float32, "avx512f", CHAINS[1], _mm512_setzero_ps(), _mm512_set1_ps(0.5), |sum, x| _mm512_fmadd_ps(
    x, x, sum
));
chains!(
    avx512_bf16,
    "avx512f,avx512bf16",
    CHAINS[1],
    _mm512_setzero_ps(),
    // SAFETY: every pattern of bits is 32 numbers.
    unsafe { transmute::<__m512i, __m512bh>(_mm512_setzero_si512()) },
    |sum, x| _mm512_dpbf16_ps(sum, x, x)
);

/// Those of this processor, by its detected features.
pub fn limit(c: &mut Criterion) {
    let mut group = super::group(c, "limit");
    let mut add = |case: &str, products: usize, there: bool, chains: &dyn Fn()| {
        group.throughput(Throughput::Elements((2 * products * STEPS) as u64));
        if there {
            group.bench_function(format!("{case}/registers"), |bench| bench.iter(chains));
        }
    };
    let (avx2, avx512) = (is_x86_feature_detected!("avx2"), is_x86_feature_detected!("avx512f"));
    let bf16 = is_x86_feature_detected!("avx512bf16");
    // SAFETY: of all three, the processor has the instructions where they are called.
    unsafe {
        add("float32 avx2", 8 * CHAINS[0], avx2, &|| avx2_float32());
        add("float32 avx512", 16 * CHAINS[1], avx512, &|| avx512_float32());
        add("bf16 avx512", 32 * CHAINS[1], bf16, &|| avx512_bf16());
    }
    group.finish();
}
