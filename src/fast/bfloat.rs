//! Products of float32 matrices through bfloat16, on x86 processors that multiply bfloat16 in vectors of 512 bits.
//!
//! Libtorch takes and gives bfloat16 tensors, so that its product comes with three passes of conversion. Here factors are
//! rounded while they are packed, and sums leave the registers as float32.
//!
//! Both factors are packed into panels of some lanes: rows of the left factor, columns of the right one. A panel holds one
//! word for every lane and every two steps along k, the two factors of a step's pair next to each other, as
//! `vdpbf16ps` wants them. A tile of the output is [`LEFT`] × [`RIGHT`] sums, which fill the registers.

use std::arch::x86_64::{
    __cpuid_count, __m512, __m512bh, __m512i, __mmask16, _MM_HINT_ET0, _mm_prefetch, _mm512_add_ps,
    _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_load_si512, _mm512_loadu_epi16, _mm512_mask_storeu_epi32,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::cell::RefCell;
use std::mem::transmute;
use std::sync::LazyLock;

use super::product::{Factor, Matrix, To};

/// Lanes of a panel of the left factor, and of the right one: 28 of 32 registers hold sums.
const LEFT: usize = 14;
const RIGHT: usize = 32;
/// Words of a register.
const WORDS: usize = 16;
/// Pairs along k that are summed at a time: so much of a right panel, 16 KiB, stays in the first cache.
const PAIRS: usize = 128;

/// A register in memory.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; WORDS]);

/// A factor packed, its panels one after the other.
#[derive(Debug, Default)]
pub(super) struct Packed {
    lines: Vec<Line>,
    /// Its lanes: rows of a left factor, columns of a right one.
    count: usize,
    k: usize,
}

thread_local! {
    /// Memory for both factors that a thread uses again and again.
    static FACTORS: RefCell<[Packed; 2]> = RefCell::default();
}

/// Whether products are to be taken here: not where a matrix unit for bfloat16 (AMX) is, which libtorch uses.
pub(super) static PREFERRED: LazyLock<bool> = LazyLock::new(|| {
    // Function 7, EDX bit 22.
    let amx = || __cpuid_count(7, 0).edx >> 22 & 1 == 1;
    is_supported() && !amx()
});

/// Whether this processor has the instructions.
fn is_supported() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
}

/// As [`super::product::product`].
///
/// # Safety
/// The processor has the instructions, as [`PREFERRED`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn product(a: Matrix, b: &Factor, out: &mut [f32], to: To) {
    let ([m, k], [height, n]) = (a.size(), b.size());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(to, To::Row(row) if row.len() != n));
    FACTORS.with_borrow_mut(|[left, right]| {
        left.pack::<LEFT>(a, [m, k], !a.transposed);
        let right = match b {
            Factor::Packed(packed) => packed,
            &Factor::Plain(b) => {
                right.pack::<RIGHT>(b, [n, k], b.transposed);
                right
            }
        };
        for start in (0..left.pairs()).step_by(PAIRS) {
            let pairs = PAIRS.min(left.pairs() - start);
            for j in (0..n).step_by(RIGHT) {
                let right = right.panel::<RIGHT>(j / RIGHT, start);
                let masks = [lanes(n - j), lanes((n - j).saturating_sub(WORDS))];
                for i in (0..m).step_by(LEFT) {
                    let left = left.panel::<LEFT>(i / LEFT, start);
                    let to = match to {
                        _ if start > 0 => To::Old,
                        To::Row(row) => To::Row(&row[j..]),
                        to => to,
                    };
                    let tile = Tile { out: &mut out[i * n + j..], stride: n, rows: LEFT.min(m - i), masks, to };
                    // SAFETY: both panels hold `pairs` more pairs.
                    unsafe {
                        match tile.rows {
                            ..=4 => tile.sum::<4>(pairs, left, right),
                            5..=8 => tile.sum::<8>(pairs, left, right),
                            _ => tile.sum::<LEFT>(pairs, left, right),
                        }
                    }
                }
            }
        }
    });
}

/// The first so many words of a register.
fn lanes(count: usize) -> __mmask16 {
    if count < WORDS { (1 << count) - 1 } else { __mmask16::MAX }
}

/// Where the sums of a tile go.
struct Tile<'a> {
    /// From the tile's first element.
    out: &'a mut [f32],
    stride: usize,
    rows: usize,
    /// Which columns there are.
    masks: [__mmask16; RIGHT / WORDS],
    /// What the sums are added to; a row from the tile's first column.
    to: To<'a>,
}

impl Tile<'_> {
    /// Sums over so many pairs.
    ///
    /// # Safety
    /// The panels hold so many pairs, and the tile no more than ROWS rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn sum<const ROWS: usize>(self, pairs: usize, left: *const i32, right: *const i32) {
        // Its lines are on their way while the sums are taken.
        for row in 0..self.rows {
            for part in 0..RIGHT / WORDS {
                let at = self.out.as_ptr().wrapping_add(row * self.stride + part * WORDS);
                _mm_prefetch::<_MM_HINT_ET0>(at.cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); RIGHT / WORDS]; ROWS];
        for pair in 0..pairs {
            // SAFETY: the caller's promise; lines are aligned, and a right panel's pair is whole lines.
            let [b, c] = unsafe {
                let pair = right.add(pair * RIGHT);
                [numbers(_mm512_load_si512(pair.cast())), numbers(_mm512_load_si512(pair.add(WORDS).cast()))]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let a = numbers(_mm512_set1_epi32(unsafe { *left.add(pair * LEFT + row) }));
                *sums = [_mm512_dpbf16_ps(sums[0], a, b), _mm512_dpbf16_ps(sums[1], a, c)];
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            if row < self.rows {
                for (part, (sum, mask)) in sums.into_iter().zip(self.masks).enumerate() {
                    let at = self.out.as_mut_ptr().wrapping_add(row * self.stride + part * WORDS);
                    // SAFETY: the mask lets through columns of this row alone, and a register holds 16 floats.
                    unsafe {
                        let to = match self.to {
                            To::Nothing => _mm512_setzero_ps(),
                            To::Old => _mm512_maskz_loadu_ps(mask, at),
                            To::Row(row) => _mm512_maskz_loadu_ps(mask, row.as_ptr().wrapping_add(part * WORDS)),
                        };
                        _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(to, sum));
                    }
                }
            }
        }
    }
}

impl Packed {
    /// A right factor.
    ///
    /// # Safety
    /// The processor has the instructions, as [`PREFERRED`] says.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub unsafe fn right(matrix: Matrix) -> Self {
        let [k, n] = matrix.size();
        let mut packed = Self::default();
        packed.pack::<RIGHT>(matrix, [n, k], matrix.transposed);
        packed
    }

    /// Rows and columns of a right factor.
    pub fn size(&self) -> [usize; 2] {
        [self.k, self.count]
    }

    fn pairs(&self) -> usize {
        self.k.div_ceil(2)
    }

    /// The rest of a panel from a pair on.
    fn panel<const LANES: usize>(&self, panel: usize, pair: usize) -> *const i32 {
        self.lines.as_ptr().cast::<i32>().wrapping_add((panel * self.pairs() + pair) * LANES)
    }

    /// Packs a factor of so many lanes; `along`: its memory runs along k, and not along the lanes.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn pack<const LANES: usize>(&mut self, Matrix { data, stride, .. }: Matrix, [count, k]: [usize; 2], along: bool) {
        let [lines, width] = if along { [count, k] } else { [k, count] };
        assert!(lines == 0 || data.len() >= (lines - 1) * stride + width);
        (self.count, self.k) = (count, k);
        let panels = count.div_ceil(LANES);
        self.lines.resize((panels * self.pairs() * LANES).div_ceil(WORDS), Line([0; WORDS]));
        let (words, pairs) = (self.lines.as_mut_ptr().cast::<i32>(), self.pairs());
        // The registers of a panel's pair: from which lane on, and how many words.
        let registers = || (0..LANES).step_by(WORDS).map(|from| (from, WORDS.min(LANES - from)));
        if along {
            for panel in 0..panels {
                for (from, width) in registers() {
                    let first = panel * LANES + from;
                    for pair in (0..pairs).step_by(WORDS) {
                        let (step, rest) = (2 * pair, k - 2 * pair);
                        let mut square = [_mm512_setzero_si512(); WORDS];
                        for (i, words) in square.iter_mut().take(width.min(count.saturating_sub(first))).enumerate() {
                            let line = data[(first + i) * stride + step..].as_ptr();
                            // SAFETY: the masks let through what the line has.
                            unsafe {
                                let low = _mm512_maskz_loadu_ps(lanes(rest), line);
                                let high =
                                    _mm512_maskz_loadu_ps(lanes(rest.saturating_sub(WORDS)), line.wrapping_add(WORDS));
                                *words = round(low, high);
                            }
                        }
                        for (i, column) in transpose(square).into_iter().enumerate().take(pairs - pair) {
                            // SAFETY: the mask lets through words of this panel and pair alone.
                            unsafe {
                                let at = words.add((panel * pairs + pair + i) * LANES + from);
                                _mm512_mask_storeu_epi32(at, lanes(width), column);
                            }
                        }
                    }
                }
            }
        } else {
            // Along the memory: lines whose length is a power of two share a few places of the cache.
            for pair in 0..pairs {
                let low = data[2 * pair * stride..].as_ptr();
                // The last of an odd number is alone.
                let high_mask = if 2 * pair + 1 < k { __mmask16::MAX } else { 0 };
                for panel in 0..panels {
                    for (from, width) in registers() {
                        let lane = panel * LANES + from;
                        let mask = lanes(width) & lanes(count.saturating_sub(lane));
                        // SAFETY: the masks let through what the two lines have, and words of this panel and pair alone.
                        unsafe {
                            let high = low.wrapping_add(stride + lane);
                            let high = _mm512_maskz_loadu_ps(mask & high_mask, high);
                            let low = _mm512_maskz_loadu_ps(mask, low.wrapping_add(lane));
                            let halves = round(low, high);
                            let at = words.add((panel * pairs + pair) * LANES + from);
                            _mm512_mask_storeu_epi32(at, lanes(width), interleave(halves));
                        }
                    }
                }
            }
        }
    }
}

/// Words as pairs of bfloat16.
#[inline]
#[target_feature(enable = "avx512f")]
fn numbers(words: __m512i) -> __m512bh {
    // SAFETY: a register of the same size, every bit of which may be anything.
    unsafe { transmute::<__m512i, __m512bh>(words) }
}

/// 16 floats and 16 more, rounded to bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round(low: __m512, high: __m512) -> __m512i {
    // SAFETY: as in `numbers`.
    unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
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
fn transpose(x: [__m512i; WORDS]) -> [__m512i; WORDS] {
    // In each 128 bits, four rows become four columns.
    let mut y = x;
    for i in (0..WORDS).step_by(4) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_small_integers_are_exact_in_every_shape_and_leave_nothing_out() {
        if !is_supported() {
            return println!("left out: this processor has no bfloat16 products of its own here");
        }
        // Eight bits hold the numbers, and float32 their sums.
        let numbers = |n: usize, by: usize| (0..n).map(move |i| (i * by % 23) as f32 - 11.0);
        let at = |matrix: Matrix, i: usize, j: usize| match matrix.transposed {
            true => matrix.data[j * matrix.columns + i],
            false => matrix.data[i * matrix.columns + j],
        };
        for (m, n, k) in [(1, 1, 1), (14, 32, 2), (3, 33, 5), (15, 47, 31), (29, 7, 33), (57, 70, 300), (5, 100, 513)] {
            let choices = [false, true].into_iter().flat_map(|a| [false, true].map(|b| (a, b)));
            for ((a_transposed, b_transposed), packed) in
                choices.flat_map(|ab| [false, true].map(|packed| (ab, packed)))
            {
                let (x, y): (Vec<f32>, Vec<f32>) = (numbers(m * k, 7).collect(), numbers(k * n, 5).collect());
                let a = if a_transposed { Matrix::new(&x, m).t() } else { Matrix::new(&x, k) };
                let b = if b_transposed { Matrix::new(&y, k).t() } else { Matrix::new(&y, n) };
                // SAFETY: the instructions are there.
                let factor = if packed { Factor::Packed(unsafe { Packed::right(b) }) } else { b.into() };
                let row: Vec<f32> = numbers(n, 3).collect();
                for to in [To::Nothing, To::Old, To::Row(&row)] {
                    let mut out: Vec<f32> = (0..m * n).map(|i| i as f32).collect();
                    // SAFETY: the instructions are there.
                    unsafe { product(a, &factor, &mut out, to) };
                    for (at_out, &found) in out.iter().enumerate() {
                        let (i, j) = (at_out / n, at_out % n);
                        let sum: f32 = (0..k).map(|step| at(a, i, step) * at(b, step, j)).sum();
                        let expected = match to {
                            To::Nothing => sum,
                            To::Old => sum + at_out as f32,
                            To::Row(row) => sum + row[j],
                        };
                        assert_eq!(
                            found, expected,
                            "{m}×{k}×{n} {a_transposed} {b_transposed} {packed} {to:?} at {i}, {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_factor_may_be_some_columns_of_a_matrix() {
        if !is_supported() {
            return println!("left out: this processor has no bfloat16 products of its own here");
        }
        let x: Vec<f32> = (0..40 * 30).map(|i| (i % 19) as f32 - 9.0).collect();
        let part = Matrix::new(&x, 30).part(7, 20);
        let copied: Vec<f32> = x.chunks_exact(30).flat_map(|row| &row[7..27]).copied().collect();
        let copy = Matrix::new(&copied, 20);
        let gram = |matrix: Matrix| {
            let mut out = [vec![0.0; 40 * 40], vec![0.0; 20 * 20]];
            // SAFETY: the instructions are there.
            unsafe {
                product(matrix, &matrix.t().into(), &mut out[0], To::Nothing);
                product(matrix.t(), &matrix.into(), &mut out[1], To::Nothing);
            }
            out
        };
        assert_eq!(gram(part), gram(copy));
    }

    #[test]
    fn factors_are_rounded_to_the_nearest_bfloat16() {
        if !is_supported() {
            return println!("left out: this processor has no bfloat16 products of its own here");
        }
        let mut out = [0.0; 2];
        // 257 and 259 lie between the bfloat16 numbers 256, 258 and 260: a tie goes to the even one.
        // SAFETY: the instructions are there.
        unsafe { product(Matrix::new(&[257.0, 259.0], 1), &Matrix::new(&[1.0], 1).into(), &mut out, To::Nothing) };
        assert_eq!(out, [256.0, 260.0]);
    }
}
