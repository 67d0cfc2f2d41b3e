//! What the kernels multiply: float32, pairs of bfloat16, pairs of 16-bit integers.
//!
//! A packed operand consists of 32-bit words. A word holds one step along k of a float32 operand, and two of a 16-bit
//! one, so that one instruction adds one product, or two, to a 32-bit sum:
//!
//! | element | a word | instruction | sums |
//! | --- | --- | --- | --- |
//! | [`F32`] | one float32 | `vfmadd` | float32 |
//! | [`Bf16`] | two bfloat16 | `vdpbf16ps` | float32 |
//! | [`I16`] | two int16 | `vpdpwssd` | int32, exact |

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, __mmask32, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_castsi256_si512, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh,
    _mm512_cvtps_epi32, _mm512_cvtsepi32_epi16, _mm512_dpbf16_ps, _mm512_dpwssd_epi32, _mm512_extracti64x4_epi64,
    _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_ps, _mm512_setzero_ps,
    _mm512_slli_epi32,
};
use std::mem::transmute;

use half::bf16;

/// 32-bit words of a register.
pub const REGISTER: usize = 16;

/// An element type. Registers are passed as integers, whatever they hold.
///
/// # Safety
/// Of all functions: the processor has the instructions, as [`super::features::AVX512`] says.
pub trait Element {
    /// The type of a sum, 32 bits wide as a word is.
    type Acc: Copy;
    /// Steps along k that a word holds: 1 or 2.
    const K_PER_WORD: usize;

    /// Converts 16 floats to words, with 16 more where a word has two steps: all `low` first, then all `high`.
    unsafe fn to_words(low: __m512, high: __m512) -> __m512i;

    /// As [`Element::to_words`], from 32 bfloat16 in the same order.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn bf16_to_words(numbers: __m512i) -> __m512i {
        let halves = [_mm512_castsi512_si256(numbers), _mm512_extracti64x4_epi64::<1>(numbers)];
        let [low, high] = halves.map(|half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half))));
        // SAFETY: the caller's promise.
        unsafe { Self::to_words(low, high) }
    }

    /// `sums` + Σ a · b over the steps of a word.
    unsafe fn mul_add(sums: __m512i, a: __m512i, b: __m512i) -> __m512i;

    /// The sum of two registers of sums.
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i;
}

/// float32, as it is.
pub struct F32;

impl Element for F32 {
    type Acc = f32;
    const K_PER_WORD: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn to_words(low: __m512, _: __m512) -> __m512i {
        _mm512_castps_si512(low)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn mul_add(sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        let [sums, a, b] = [sums, a, b].map(|x| _mm512_castsi512_ps(x));
        _mm512_castps_si512(_mm512_fmadd_ps(a, b, sums))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)))
    }
}

/// Pairs of bfloat16, whose sums are float32.
pub struct Bf16;

impl Element for Bf16 {
    type Acc = f32;
    const K_PER_WORD: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn to_words(low: __m512, high: __m512) -> __m512i {
        // SAFETY: a register of the same size, every bit of which may be anything.
        unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn bf16_to_words(numbers: __m512i) -> __m512i {
        numbers
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn mul_add(sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as in `to_words`.
        let [a, b] = unsafe { transmute::<[__m512i; 2], [__m512bh; 2]>([a, b]) };
        _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sums), a, b))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { F32::add(a, b) }
    }
}

/// Pairs of int16, with int32 sums that nothing rounds.
pub struct I16;

impl Element for I16 {
    type Acc = i32;
    const K_PER_WORD: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn to_words(low: __m512, high: __m512) -> __m512i {
        let [low, high] = [low, high].map(|x| _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn mul_add(sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_dpwssd_epi32(sums, a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(a, b)
    }
}

/// What an operand consists of before it is packed.
pub trait Number: Copy {
    /// The words of 16 numbers, and where a word has two steps of 16 more that lie `by` numbers behind them; zeros where the
    /// masks say so.
    ///
    /// # Safety
    /// The masks let through numbers of one slice; the processor has the instructions.
    unsafe fn words<E: Element>(line: *const Self, by: usize, masks: [__mmask16; 2]) -> __m512i;
}

impl Number for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn words<E: Element>(line: *const Self, by: usize, masks: [__mmask16; 2]) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let low = _mm512_maskz_loadu_ps(masks[0], line);
            let high = match E::K_PER_WORD {
                2 => _mm512_maskz_loadu_ps(masks[1], line.wrapping_add(by)),
                _ => _mm512_setzero_ps(),
            };
            E::to_words(low, high)
        }
    }
}

impl Number for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn words<E: Element>(line: *const Self, by: usize, masks: [__mmask16; 2]) -> __m512i {
        let [low, high] = masks.map(__mmask32::from);
        // SAFETY: the caller's promise.
        let load = |mask, by| unsafe { _mm512_maskz_loadu_epi16(mask, line.wrapping_add(by).cast()) };
        let numbers = match (E::K_PER_WORD, by) {
            (2, REGISTER) => load(low | high << REGISTER, 0),
            (2, _) => _mm512_inserti64x4::<1>(load(low, 0), _mm512_castsi512_si256(load(high, by))),
            _ => load(low, 0),
        };
        // SAFETY: the caller's promise.
        unsafe { E::bf16_to_words(numbers) }
    }
}
