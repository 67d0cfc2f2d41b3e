//! Packing: an operand in the order in which the microkernels read it.
//!
//! A packed operand is a row of panels. A panel has [`MR`] lanes of the left operand (rows of a) or [`NR`] lanes of the
//! right one (columns of b), and holds, for every word along k, the words of its lanes side by side: `[panels, words of
//! k, lanes of a panel]`, a word being one or two steps along k ([`Element::K_PER_WORD`]). Floats are converted to the
//! element while they are packed, and lanes and steps that do not exist are zeros.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_loadu_epi16, _mm512_mask_storeu_epi32, _mm512_maskz_loadu_ps,
    _mm512_permutexvar_epi16, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::cell::RefCell;

use super::element::Element;
use super::matrix::MatRef;

/// Rows and columns of a microkernel's tile of the output: 14 × 32 sums take 28 of the 32 registers.
pub const MR: usize = 14;
pub const NR: usize = 32;
/// 32-bit words of a register.
pub const REGISTER: usize = 16;

/// A register in memory.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([u32; REGISTER]);

/// A packed operand: its panels one after the other.
#[derive(Debug, Default)]
pub struct Packed {
    /// `[panels, words, lanes of a panel]`
    lines: Vec<CacheLine>,
    /// How many lanes there are: rows of a left operand, columns of a right one.
    pub count: usize,
    pub k: usize,
    /// Words of a lane.
    pub words: usize,
}

thread_local! {
    /// Memory in which a thread packs the left and the right operand of a product.
    pub static PACK_BUFFERS: RefCell<[Packed; 2]> = RefCell::default();
}

impl Packed {
    /// A panel from a word of its lanes on.
    pub fn panel<const PANEL: usize>(&self, panel: usize, word: usize) -> *const i32 {
        self.lines.as_ptr().cast::<i32>().wrapping_add((panel * self.words + word) * PANEL)
    }

    /// The words as floats.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: a line is 16 numbers of 32 bits, and every one of them is a float.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * REGISTER) }
    }

    /// As [`Packed::floats`].
    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as there.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * REGISTER) }
    }

    /// Packs an operand of `count` lanes and k steps; `k_contiguous`: neighbours in memory are steps, not lanes.
    ///
    /// # Safety
    /// The processor has the instructions, as [`super::features::AVX512`] says.
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
            // Along the memory: rows whose length is a power of two fall into a few sets of the cache.
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

    /// Makes room for `lanes` lanes of `words` words.
    pub fn reserve(&mut self, source: &Source, lanes: usize, words: usize) -> *mut i32 {
        let &Source { matrix: MatRef { data, stride, .. }, count, k, k_contiguous } = source;
        let [lines, width] = if k_contiguous { [count, k] } else { [k, count] };
        assert!(lines == 0 || data.len() >= (lines - 1) * stride + width);
        (self.count, self.k, self.words) = (count, k, words);
        self.lines.resize((words * lanes).div_ceil(REGISTER), CacheLine([0; REGISTER]));
        self.lines.as_mut_ptr().cast()
    }
}

/// The source of a packing. Its data reach to the last step of the last lane.
pub struct Source<'a> {
    pub matrix: MatRef<'a>,
    /// How many lanes there are.
    pub count: usize,
    pub k: usize,
    /// Whether neighbours in memory are steps along k, and not lanes.
    pub k_contiguous: bool,
}

impl Source<'_> {
    /// 16 words of each of `width` lanes, a register a lane, of a source that is contiguous along k; zeros where there
    /// is nothing.
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

    /// A word of each of `width` lanes, of a source that is contiguous along the lanes; zeros where there is nothing.
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

/// The mask of the first `count` words of a register.
pub fn lane_mask(count: usize) -> __mmask16 {
    if count < REGISTER { (1 << count) - 1 } else { __mmask16::MAX }
}

/// The floats of the second step of words that have two: `by` floats behind those of the first.
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

/// From 16 numbers of 16 bits and 16 more to pairs: one of the first with one of the second.
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

/// Transposes a 16 × 16 square of words.
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
