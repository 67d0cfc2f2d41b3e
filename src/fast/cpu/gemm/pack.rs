//! Factors of products packed for vectors of 512 bits, on x86 processors that multiply bfloat16 in them.
//!
//! A factor is packed into panels of some lanes: rows of the left factor, columns of the right one. A panel holds one word for
//! every lane and every [`Element::K_PER_WORD`] steps k_contiguous k. Floats are rounded to what is multiplied while they are packed.

use std::arch::x86_64::{
    __cpuid_count, __m512, __m512bh, __m512i, __mmask16, _mm512_add_epi32, _mm512_add_ps, _mm512_castps_si512,
    _mm512_castsi256_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_cvtps_epi32, _mm512_cvtsepi32_epi16,
    _mm512_dpbf16_ps, _mm512_dpwssd_epi32, _mm512_fmadd_ps, _mm512_inserti64x4, _mm512_loadu_epi16,
    _mm512_mask_storeu_epi32, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::cell::RefCell;
use std::mem::transmute;
use std::sync::LazyLock;

use super::{MatRef, Operand};
use crate::libtorch::matrix_unit;

/// Lanes of a panel of the left factor, and of the right one: 28 of 32 registers hold sums.
pub const MR: usize = 14;
pub const NR: usize = 32;
/// Words of a register.
pub const REGISTER: usize = 16;

/// Whether this processor has the instructions.
pub static AVX512: LazyLock<bool> = LazyLock::new(|| {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
});

/// Whether it has a matrix unit for bfloat16 besides (AMX), and the system lets this process use it.
pub static AMX: LazyLock<bool> = LazyLock::new(|| {
    // Function 7, EDX bit 22.
    let amx_bf16 = || __cpuid_count(7, 0).edx >> 22 & 1 == 1;
    *AVX512 && amx_bf16() && matrix_unit()
});

/// What is multiplied. Registers go by as integers, whatever they hold.
///
/// # Safety
/// Of all functions: the processor has the instructions, as [`AVX512`] says.
pub trait Element {
    /// What the sums are, in as many bits as a word.
    type Acc: Copy;
    /// Steps k_contiguous k of a word: 1 or 2.
    const K_PER_WORD: usize;

    /// 16 floats, and 16 more where a word has two steps, rounded.
    unsafe fn to_words(low: __m512, high: __m512) -> __m512i;

    /// `sums` + Σ over the steps of a word.
    unsafe fn mul_add(sums: __m512i, a: __m512i, b: __m512i) -> __m512i;

    /// Adds sums.
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i;
}

/// Floats as they are.
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

/// ScoreTable of bfloat16, whose sums are float32.
pub struct Bf16Pair;

impl Element for Bf16Pair {
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
    unsafe fn mul_add(sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as in `round`.
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

/// ScoreTable of whole numbers of 16 bits, whose sums have 32 bits and nothing to round.
pub struct I16Pair;

impl Element for I16Pair {
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

/// A register in memory.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([u32; REGISTER]);

/// A factor packed, its panels one after the other.
#[derive(Debug, Default)]
pub struct Packed {
    lines: Vec<CacheLine>,
    /// Its lanes: rows of a left factor, columns of a right one.
    pub count: usize,
    pub k: usize,
    /// Words of a lane.
    pub words: usize,
}

thread_local! {
    /// Memory for both factors of a product that a thread uses again and again.
    pub static PACK_BUFFERS: RefCell<[Packed; 2]> = RefCell::default();
}

impl Packed {
    /// A right factor, the words of its lanes a multiple of K_ALIGN: zeros follow the last.
    ///
    /// # Safety
    /// The processor has the instructions, as [`AVX512`] says.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn rhs<E: Element, const K_ALIGN: usize>(matrix: MatRef) -> Self {
        let mut packed = Self::default();
        // SAFETY: the caller's promise.
        unsafe { packed.packed::<E, K_ALIGN>(&matrix.into()) };
        packed
    }

    /// A right factor that may be packed already, else in this memory.
    ///
    /// # Safety
    /// The processor has the instructions, as [`AVX512`] says.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn packed<'a, E: Element, const K_ALIGN: usize>(&'a mut self, factor: &'a Operand) -> &'a Self {
        match factor {
            Operand::Packed(packed) => packed,
            &Operand::Plain(matrix) => {
                let [k, n] = matrix.shape();
                // SAFETY: the caller's promise.
                unsafe { self.pack::<E, NR, K_ALIGN>(matrix, [n, k], matrix.transposed) };
                self
            }
        }
    }

    /// Rows and columns of a right factor.
    pub fn shape(&self) -> [usize; 2] {
        [self.k, self.count]
    }

    /// The rest of a panel from a word of its lanes on.
    pub fn panel<const PANEL: usize>(&self, panel: usize, word: usize) -> *const i32 {
        self.lines.as_ptr().cast::<i32>().wrapping_add((panel * self.words + word) * PANEL)
    }

    /// Packs a factor of so many lanes; `k_contiguous`: its memory runs k_contiguous k, and not k_contiguous the lanes.
    ///
    /// # Safety
    /// The processor has the instructions, as [`AVX512`] says.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn pack<E: Element, const PANEL: usize, const K_ALIGN: usize>(
        &mut self,
        matrix: MatRef,
        [count, k]: [usize; 2],
        k_contiguous: bool,
    ) {
        let source = Source { matrix, count, k, k_contiguous };
        let panels = count.div_ceil(PANEL);
        let to = self.reserve(&source, panels * PANEL, k.div_ceil(E::K_PER_WORD).next_multiple_of(K_ALIGN));
        let of_lane = self.words;
        // The registers of a panel's word: from which lane on, and how many lanes.
        let registers = || (0..PANEL).step_by(REGISTER).map(|from| (from, REGISTER.min(PANEL - from)));
        let put = |panel: usize, word: usize, (from, width): (usize, usize), words: __m512i| {
            // SAFETY: the mask lets through lanes of this panel and word alone.
            unsafe {
                _mm512_mask_storeu_epi32(to.add((panel * of_lane + word) * PANEL + from), lane_mask(width), words);
            }
        };
        if k_contiguous {
            for panel in 0..panels {
                for register in registers() {
                    for word in (0..of_lane).step_by(REGISTER) {
                        // SAFETY: the caller's promise.
                        let square = unsafe { source.row_words::<E>(panel * PANEL + register.0, register.1, word) };
                        for (i, column) in transpose(square).into_iter().enumerate().take(of_lane - word) {
                            put(panel, word + i, register, column);
                        }
                    }
                }
            }
        } else {
            // Along the memory: lines whose length is a power of two share a few places of the cache.
            for word in 0..of_lane {
                for panel in 0..panels {
                    for register in registers() {
                        // SAFETY: the caller's promise.
                        let words = unsafe { source.column_word::<E>(panel * PANEL + register.0, register.1, word) };
                        put(panel, word, register, words);
                    }
                }
            }
        }
    }

    /// Room for so many lanes, of so many words each.
    pub fn reserve(&mut self, source: &Source, lanes: usize, words: usize) -> *mut i32 {
        let &Source { matrix: MatRef { data, stride, .. }, count, k, k_contiguous } = source;
        let [lines, width] = if k_contiguous { [count, k] } else { [k, count] };
        assert!(lines == 0 || data.len() >= (lines - 1) * stride + width);
        (self.count, self.k, self.words) = (count, k, words);
        self.lines.resize((words * lanes).div_ceil(REGISTER), CacheLine([0; REGISTER]));
        self.lines.as_mut_ptr().cast()
    }
}

/// What is packed: its data reach to the last lane's last step.
pub struct Source<'a> {
    pub matrix: MatRef<'a>,
    /// Lanes.
    pub count: usize,
    pub k: usize,
    /// Whether the memory runs k_contiguous k, and not k_contiguous the lanes.
    pub k_contiguous: bool,
}

impl Source<'_> {
    /// 16 words of each of some lanes, a register a lane, where the memory runs k_contiguous k. Zeros are where there is nothing.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn row_words<E: Element>(&self, first: usize, width: usize, word: usize) -> [__m512i; REGISTER] {
        let &Self { matrix: MatRef { data, stride, .. }, count, k, .. } = self;
        let step = E::K_PER_WORD * word;
        let rest = k.saturating_sub(step);
        let mut square = [_mm512_setzero_si512(); REGISTER];
        for (i, words) in square.iter_mut().take(width.min(count.saturating_sub(first))).enumerate() {
            let line = data.as_ptr().wrapping_add((first + i) * stride + step);
            // SAFETY: the masks let through what the line has; the caller's promise.
            unsafe {
                let low = _mm512_maskz_loadu_ps(lane_mask(rest), line);
                *words = E::to_words(low, second_k::<E>(lane_mask(rest.saturating_sub(REGISTER)), line, REGISTER));
            }
        }
        square
    }

    /// A word of each of some lanes, where the memory runs k_contiguous these. Zeros are where there is nothing.
    ///
    /// # Safety
    /// The processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn column_word<E: Element>(&self, first: usize, width: usize, word: usize) -> __m512i {
        let &Self { matrix: MatRef { data, stride, .. }, count, k, .. } = self;
        let step = E::K_PER_WORD * word;
        let mask = lane_mask(width) & lane_mask(count.saturating_sub(first));
        let there = |step: usize| if step < k { mask } else { 0 };
        let line = data.as_ptr().wrapping_add(step * stride + first);
        // SAFETY: the masks let through what the lines have; the caller's promise.
        unsafe {
            let low = _mm512_maskz_loadu_ps(there(step), line);
            let rounded = E::to_words(low, second_k::<E>(there(step + 1), line, stride));
            if E::K_PER_WORD == 2 { interleave(rounded) } else { rounded }
        }
    }
}

/// The first so many words of a register.
pub fn lane_mask(count: usize) -> __mmask16 {
    if count < REGISTER { (1 << count) - 1 } else { __mmask16::MAX }
}

/// The floats of a word's second step, so far behind the first's, where a word has one.
///
/// # Safety
/// The mask lets through floats of one slice.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn second_k<E: Element>(mask: __mmask16, first: *const f32, by: usize) -> __m512 {
    match E::K_PER_WORD {
        // SAFETY: the caller's promise.
        2 => unsafe { _mm512_maskz_loadu_ps(mask, first.wrapping_add(by)) },
        _ => _mm512_setzero_ps(),
    }
}

/// From 16 numbers of 16 bits and 16 more to their pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave(halves: __m512i) -> __m512i {
    const ORDER: [i16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as i16;
            i += 1;
        }
        order
    };
    // SAFETY: 32 numbers of 16 bits.
    _mm512_permutexvar_epi16(unsafe { _mm512_loadu_epi16(ORDER.as_ptr()) }, halves)
}

/// Transposes a square of words.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn transpose(x: [__m512i; REGISTER]) -> [__m512i; REGISTER] {
    // In each 128 bits, four rows become four columns.
    let mut y = x;
    for i in (0..REGISTER).step_by(4) {
        let (a, b) = (_mm512_unpacklo_epi32(x[i], x[i + 1]), _mm512_unpackhi_epi32(x[i], x[i + 1]));
        let (c, d) = (_mm512_unpacklo_epi32(x[i + 2], x[i + 3]), _mm512_unpackhi_epi32(x[i + 2], x[i + 3]));
        y[i] = _mm512_unpacklo_epi64(a, c);
        y[i + 1] = _mm512_unpackhi_epi64(a, c);
        y[i + 2] = _mm512_unpacklo_epi64(b, d);
        y[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    // Then the quarters of four registers change places.
    let mut z = y;
    for i in 0..4 {
        let (a, b) = (_mm512_shuffle_i32x4::<0x88>(y[i], y[i + 4]), _mm512_shuffle_i32x4::<0xdd>(y[i], y[i + 4]));
        let (c, d) =
            (_mm512_shuffle_i32x4::<0x88>(y[i + 8], y[i + 12]), _mm512_shuffle_i32x4::<0xdd>(y[i + 8], y[i + 12]));
        z[i] = _mm512_shuffle_i32x4::<0x88>(a, c);
        z[i + 4] = _mm512_shuffle_i32x4::<0x88>(b, d);
        z[i + 8] = _mm512_shuffle_i32x4::<0xdd>(a, c);
        z[i + 12] = _mm512_shuffle_i32x4::<0xdd>(b, d);
    }
    z
}
