//! What a core multiplies at most: chains of its vector instructions on registers alone, without loads and stores; its
//! matrix unit with the loads of a product from the L1 cache, and with its stores there too.

use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;
use std::mem::transmute;

use criterion::{Criterion, Throughput};
use dif_sr::config::Precision;
use dif_sr::fast::backend_name;

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

/// Tiles of 32 × 32 sums, which a function of the matrix unit computes one after the other.
const TILES: usize = 1 << 9;
/// Instructions of each of the four squares of a tile: k = 256.
const SQUARES: usize = 8;

/// The operand of `ldtilecfg`, for eight squares of 16 lines; four squares to load, and four to store. Those to load hold
/// numbers that differ: on zeros the unit is faster.
#[repr(C, align(64))]
struct Squares {
    config: [u8; 64],
    lines: [[u8; 64]; 128],
}

impl Squares {
    fn new() -> Self {
        let mut config = [0; 64];
        config[0] = 1;
        for register in 0..8 {
            config[16 + 2 * register] = 64;
            config[48 + register] = 16;
        }
        let mut lines = [[0; 64]; 128];
        for (i, number) in (0_u16..).zip(lines[..64].as_flattened_mut().chunks_exact_mut(2)) {
            // A sign, and a fraction between 1 and 2, in bfloat16.
            number.copy_from_slice(&(0x3f80 | (i.wrapping_mul(40_503) & 0x807f)).to_le_bytes());
        }
        Self { config, lines }
    }
}

/// A function that takes TILES tiles, and its instructions after each.
macro_rules! tiles {
    ($name:ident, $($store:literal),*) => {
        /// # Safety
        /// The processor has the unit, and the system lets the process use it.
        unsafe fn $name(squares: &mut Squares) {
            // SAFETY: the caller's promise; squares are loaded and stored within `lines`.
            unsafe {
                asm!(
                    "ldtilecfg [{config}]",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "mov {step:e}, {steps}",
                    "3:",
                    "tileloadd tmm4, [{at} + {line}*1]",
                    "tileloadd tmm5, [{at} + {line}*1 + 1024]",
                    "tileloadd tmm6, [{at} + {line}*1 + 2048]",
                    "tileloadd tmm7, [{at} + {line}*1 + 3072]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "dec {step:e}",
                    "jnz 3b",
                    $($store,)*
                    "dec {tile:e}",
                    "jnz 2b",
                    "tilerelease",
                    config = in(reg) &raw const squares.config,
                    at = in(reg) &raw mut squares.lines,
                    line = in(reg) 64_usize,
                    tile = inout(reg) TILES => _,
                    step = out(reg) _,
                    steps = const SQUARES,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

tiles!(amx_loads,);
tiles!(
    amx_stores,
    "tilestored [{at} + {line}*1 + 4096], tmm0",
    "tilestored [{at} + {line}*1 + 5120], tmm1",
    "tilestored [{at} + {line}*1 + 6144], tmm2",
    "tilestored [{at} + {line}*1 + 7168], tmm3"
);

/// Those of this processor, by its detected features.
pub fn limit(c: &mut Criterion) {
    let mut group = super::group(c, "limit");
    if backend_name(Precision::Bf16) == "AMX" {
        group.throughput(Throughput::Elements((TILES * SQUARES * 4 * 2 * 16 * 16 * 32) as u64));
        let mut squares = Squares::new();
        // SAFETY: the fast path uses the unit too.
        group.bench_function("bf16 amx/loads", |bench| bench.iter(|| unsafe { amx_loads(&mut squares) }));
        // SAFETY: as above.
        group.bench_function("bf16 amx/stores", |bench| bench.iter(|| unsafe { amx_stores(&mut squares) }));
    }
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
