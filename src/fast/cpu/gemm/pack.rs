//! Packing: an operand in the order in which the microkernels read it.
//!
//! A packed operand is a row of panels. A panel has [`MR`] lanes of the left operand (rows of a) or [`NR`] lanes of the
//! right one (columns of b), and holds, for every word along k, the words of its lanes side by side: `[panels, words of
//! k, lanes of a panel]`, a word being one or two steps along k ([`Element::K_PER_WORD`]). Numbers are converted to the
//! element while they are packed, and lanes and steps that do not exist are zeros.

use std::arch::x86_64::{
    __m512i, __mmask16, _mm512_loadu_epi16, _mm512_mask_storeu_epi32, _mm512_permutexvar_epi16, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::cell::RefCell;

use super::element::{Element, Number, REGISTER};
use super::matrix::MatRef;
use super::rows::Numbers;

/// Rows and columns of a microkernel's tile of the output: 14 × 32 sums take 28 of the 32 registers.
pub const MR: usize = 14;
pub const NR: usize = 32;

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
        let MatRef { data, stride, .. } = matrix;
        // SAFETY: the caller's promise.
        unsafe {
            match data {
                Numbers::Float32(data) => {
                    self.pack_source::<_, E, PANEL, K_ALIGN>(Source { data, stride, count, k, k_contiguous });
                }
                Numbers::Bf16(data) => {
                    self.pack_source::<_, E, PANEL, K_ALIGN>(Source { data, stride, count, k, k_contiguous });
                }
            }
        }
    }

    /// As [`Packed::pack`].
    ///
    /// # Safety
    /// As there.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn pack_source<T: Number, E: Element, const PANEL: usize, const K_ALIGN: usize>(
        &mut self,
        source: Source<T>,
    ) {
        const {
            assert!(PANEL <= REGISTER || PANEL.is_multiple_of(REGISTER), "a panel is part of a register, or whole ones")
        };
        let Source { count, k, k_contiguous, .. } = source;
        let panels = count.div_ceil(PANEL);
        let to = self.reserve(&source, panels * PANEL, k.div_ceil(E::K_PER_WORD).next_multiple_of(K_ALIGN));
        let of_lane = self.words;
        let put = |panel: usize, word: usize, from: usize, words: __m512i| {
            let to = to.wrapping_add((panel * of_lane + word) * PANEL + from);
            // SAFETY: the mask lets through lanes of this panel and word alone.
            unsafe { _mm512_mask_storeu_epi32(to, lane_mask(PANEL), words) };
        };
        // From which lane of a panel each of its registers is.
        let registers = || (0..PANEL).step_by(REGISTER);
        if k_contiguous {
            for panel in 0..panels {
                for from in registers() {
                    for word in (0..of_lane).step_by(REGISTER) {
                        let first = panel * PANEL + from;
                        // SAFETY: `has` says that all is there; the caller's promise.
                        let square = unsafe {
                            match source.has::<E, PANEL>(first, word + REGISTER) {
                                true => transpose(source.row_words::<E, PANEL, true>(first, word)),
                                false => transpose(source.row_words::<E, PANEL, false>(first, word)),
                            }
                        };
                        for (i, &column) in square.iter().enumerate().take(of_lane - word) {
                            put(panel, word + i, from, column);
                        }
                    }
                }
            }
        } else {
            // Along the memory: rows whose length is a power of two fall into a few sets of the cache.
            for word in 0..of_lane {
                for panel in 0..panels {
                    for from in registers() {
                        let first = panel * PANEL + from;
                        // SAFETY: `has` says that all is there; the caller's promise.
                        let words = unsafe {
                            match source.has::<E, PANEL>(first, word + 1) {
                                true => source.column_word::<E, PANEL, true>(first, word),
                                false => source.column_word::<E, PANEL, false>(first, word),
                            }
                        };
                        put(panel, word, from, words);
                    }
                }
            }
        }
    }

    /// Makes room for `lanes` lanes of `words` words.
    pub fn reserve<T>(&mut self, source: &Source<T>, lanes: usize, words: usize) -> *mut i32 {
        let &Source { data, stride, count, k, k_contiguous } = source;
        let [lines, width] = if k_contiguous { [count, k] } else { [k, count] };
        assert!(lines == 0 || data.len() >= (lines - 1) * stride + width);
        (self.count, self.k, self.words) = (count, k, words);
        self.lines.resize((words * lanes).div_ceil(REGISTER), CacheLine([0; REGISTER]));
        self.lines.as_mut_ptr().cast()
    }
}

/// The source of a packing. Its data reach to the last step of the last lane.
pub struct Source<'a, T> {
    pub data: &'a [T],
    /// From a line in memory to the next.
    pub stride: usize,
    /// How many lanes there are.
    pub count: usize,
    pub k: usize,
    /// Whether neighbours in memory are steps along k, and not lanes.
    pub k_contiguous: bool,
}

impl<T: Number> Source<'_, T> {
    /// Whether all lanes of a register are there from lane `first` on (16, or PANEL if that is less), each with all words
    /// before `end`.
    #[inline]
    pub fn has<E: Element, const PANEL: usize>(&self, first: usize, end: usize) -> bool {
        first + PANEL.min(REGISTER) <= self.count && E::K_PER_WORD * end <= self.k
    }

    /// 16 words of each of a register's lanes from `first` on, of a source that is contiguous along k. If not ALL are there,
    /// zeros are where there is nothing.
    ///
    /// # Safety
    /// The source has ALL; the processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn row_words<E: Element, const PANEL: usize, const ALL: bool>(
        &self,
        first: usize,
        word: usize,
    ) -> [__m512i; REGISTER] {
        let &Self { data, stride, count, k, .. } = self;
        let (lanes, step) = (PANEL.min(REGISTER), E::K_PER_WORD * word);
        let rest = k.saturating_sub(step);
        let (lanes, masks) = match ALL {
            true => (lanes, [__mmask16::MAX; 2]),
            false => {
                let masks = [rest, rest.saturating_sub(REGISTER)].map(lane_mask);
                (lanes.min(count.saturating_sub(first)), masks)
            }
        };
        let mut square = [_mm512_setzero_si512(); REGISTER];
        for (i, words) in square.iter_mut().enumerate().take(lanes) {
            let line = data.as_ptr().wrapping_add((first + i) * stride + step);
            // SAFETY: the masks let through what the line has; the caller's promise.
            *words = unsafe { T::words::<E>(line, REGISTER, masks) };
        }
        square
    }

    /// 16 words of each of a register's lanes, word by word, as [`Source::column_word`] gives one.
    ///
    /// # Safety
    /// As there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn column_words<E: Element, const PANEL: usize, const ALL: bool>(
        &self,
        first: usize,
        word: usize,
    ) -> [__m512i; REGISTER] {
        let mut square = [_mm512_setzero_si512(); REGISTER];
        for (i, words) in square.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *words = unsafe { self.column_word::<E, PANEL, ALL>(first, word + i) };
        }
        square
    }

    /// A word of each of a register's lanes from `first` on, of a source that is contiguous along the lanes. If not ALL are
    /// there, zeros are where there is nothing.
    ///
    /// # Safety
    /// The source has ALL; the processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn column_word<E: Element, const PANEL: usize, const ALL: bool>(
        &self,
        first: usize,
        word: usize,
    ) -> __m512i {
        let &Self { data, stride, count, k, .. } = self;
        let step = E::K_PER_WORD * word;
        let line = data.as_ptr().wrapping_add(step * stride + first);
        let masks = match ALL {
            true => [lane_mask(PANEL); 2],
            false => {
                let mask = lane_mask(PANEL) & lane_mask(count.saturating_sub(first));
                [step, step + 1].map(|step| if step < k { mask } else { 0 })
            }
        };
        // SAFETY: the masks let through what the lines have; the caller's promise.
        let words = unsafe { T::words::<E>(line, stride, masks) };
        if E::K_PER_WORD == 2 { interleave(words) } else { words }
    }
}

/// The mask of the first `count` words of a register.
#[inline]
pub fn lane_mask(count: usize) -> __mmask16 {
    if count < REGISTER { (1 << count) - 1 } else { __mmask16::MAX }
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
