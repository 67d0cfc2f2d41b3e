//! Products over packed [`panels`](super::panels): of bfloat16, of float32 and of whole numbers.
//!
//! Libtorch takes and gives bfloat16 tensors, so that its product comes with three passes of conversion; here sums leave the
//! registers as float32. In float32 its kernels on AMD are AVX2's, and pack a factor in every product. A tile of the output is
//! [`LEFT`] × [`RIGHT`] sums, which fill the registers.

use std::arch::x86_64::{
    __mmask16, _MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch, _mm512_load_si512, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
};
use std::cell::RefCell;

use super::panels::{Element, LEFT, Packed, RIGHT, WORDS, lanes};
use super::product::{Factor, Matrix, To};

/// Words along k that are summed at a time: so much of a right panel, 16 KiB, stays in the first cache.
const DEPTH: usize = 256;

thread_local! {
    /// Memory for both factors that a thread uses again and again.
    static FACTORS: RefCell<[Packed; 2]> = RefCell::default();
}

/// As [`super::product::product`].
///
/// # Safety
/// The processor has the instructions, as [`PREFERRED`](super::panels::PREFERRED) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub(super) unsafe fn product<E: Element>(a: Matrix, b: &Factor, out: &mut [E::Sum], to: To<E::Sum>) {
    let ([m, k], [height, n]) = (a.size(), b.size());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(to, To::Row(row) if row.len() != n));
    FACTORS.with_borrow_mut(|[left, right]| {
        // SAFETY: the caller's promise.
        unsafe { left.pack::<E, LEFT>(a, [m, k], !a.transposed) };
        let right = match b {
            Factor::Packed(packed) => packed,
            &Factor::Plain(b) => {
                // SAFETY: the caller's promise.
                unsafe { right.pack::<E, RIGHT>(b, [n, k], b.transposed) };
                right
            }
        };
        assert_eq!(left.words, right.words, "a factor that was packed for other elements");
        for start in (0..left.words).step_by(DEPTH) {
            let words = DEPTH.min(left.words - start);
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
                    // SAFETY: both panels hold so many more words of each lane; the caller's promise.
                    unsafe {
                        match tile.rows {
                            ..=4 => tile.sum::<E, 4>(words, left, right),
                            5..=8 => tile.sum::<E, 8>(words, left, right),
                            _ => tile.sum::<E, LEFT>(words, left, right),
                        }
                    }
                }
            }
        }
    });
}

/// Where the sums of a tile go.
struct Tile<'a, T> {
    /// From the tile's first element.
    out: &'a mut [T],
    stride: usize,
    rows: usize,
    /// Which columns there are.
    masks: [__mmask16; RIGHT / WORDS],
    /// What the sums are added to; a row from the tile's first column.
    to: To<'a, T>,
}

impl<T: Copy> Tile<'_, T> {
    /// Sums over so many words.
    ///
    /// # Safety
    /// The panels hold so many words of each lane, and the tile no more than ROWS rows; the processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn sum<E: Element<Sum = T>, const ROWS: usize>(self, words: usize, left: *const i32, right: *const i32) {
        // Its lines are on their way while the sums are taken.
        for row in 0..self.rows {
            for part in 0..RIGHT / WORDS {
                let at = self.out.as_ptr().wrapping_add(row * self.stride + part * WORDS);
                _mm_prefetch::<_MM_HINT_ET0>(at.cast());
            }
        }
        let mut sums = [[_mm512_setzero_si512(); RIGHT / WORDS]; ROWS];
        for word in 0..words {
            // SAFETY: the caller's promise; lines are aligned, and a right panel's word is whole lines.
            let [b, c] = unsafe {
                let ahead = right.wrapping_add((word + 8) * RIGHT);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(WORDS).cast());
                let word = right.add(word * RIGHT);
                [_mm512_load_si512(word.cast()), _mm512_load_si512(word.add(WORDS).cast())]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let a = _mm512_set1_epi32(*left.add(word * LEFT + row));
                    *sums = [E::fuse(sums[0], a, b), E::fuse(sums[1], a, c)];
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            if row < self.rows {
                for (part, (sum, mask)) in sums.into_iter().zip(self.masks).enumerate() {
                    let at = self.out.as_mut_ptr().wrapping_add(row * self.stride + part * WORDS).cast();
                    // SAFETY: the mask lets through columns of this row alone, and a register holds 16 numbers.
                    unsafe {
                        let to = match self.to {
                            To::Nothing => _mm512_setzero_si512(),
                            To::Old => _mm512_maskz_loadu_epi32(mask, at),
                            To::Row(row) => {
                                _mm512_maskz_loadu_epi32(mask, row.as_ptr().wrapping_add(part * WORDS).cast())
                            }
                        };
                        _mm512_mask_storeu_epi32(at, mask, E::add(to, sum));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::panels::{BFloat16, Float32, Int16, is_supported};
    use super::*;

    fn supported() -> bool {
        let supported = is_supported();
        if !supported {
            println!("left out: this processor has no products of its own here");
        }
        supported
    }

    /// Eight bits hold the numbers, and float32 their sums: every element gives the same.
    fn holds<E: Element>(number: impl Fn(i32) -> E::Sum)
    where
        E::Sum: PartialEq + std::fmt::Debug,
    {
        let small = |n: usize, by: usize| (0..n).map(move |i| (i * by % 23) as i32 - 11);
        let at = |matrix: Matrix, i: usize, j: usize| match matrix.transposed {
            true => matrix.data[j * matrix.columns + i],
            false => matrix.data[i * matrix.columns + j],
        };
        for (m, n, k) in [(1, 1, 1), (14, 32, 2), (3, 33, 5), (15, 47, 31), (29, 7, 33), (57, 70, 300), (5, 100, 513)] {
            let choices = [false, true].into_iter().flat_map(|a| [false, true].map(|b| (a, b)));
            for ((a_transposed, b_transposed), packed) in
                choices.flat_map(|ab| [false, true].map(|packed| (ab, packed)))
            {
                let floats = |n, by| small(n, by).map(|x| x as f32).collect::<Vec<_>>();
                let (x, y) = (floats(m * k, 7), floats(k * n, 5));
                let a = if a_transposed { Matrix::new(&x, m).t() } else { Matrix::new(&x, k) };
                let b = if b_transposed { Matrix::new(&y, k).t() } else { Matrix::new(&y, n) };
                // SAFETY: the instructions are there.
                let factor = if packed { Factor::Packed(unsafe { Packed::right::<E>(b) }) } else { b.into() };
                let row: Vec<i32> = small(n, 3).collect();
                let numbers: Vec<E::Sum> = row.iter().map(|&x| number(x)).collect();
                for to in [To::Nothing, To::Old, To::Row(&numbers[..])] {
                    let mut out: Vec<E::Sum> = (0..m * n).map(|i| number(i as i32)).collect();
                    // SAFETY: the instructions are there.
                    unsafe { product::<E>(a, &factor, &mut out, to) };
                    for (at_out, &found) in out.iter().enumerate() {
                        let (i, j) = (at_out / n, at_out % n);
                        let sum = (0..k).map(|step| at(a, i, step) * at(b, step, j)).sum::<f32>() as i32;
                        let expected = match to {
                            To::Nothing => sum,
                            To::Old => sum + at_out as i32,
                            To::Row(_) => sum + row[j],
                        };
                        assert_eq!(
                            found,
                            number(expected),
                            "{m}×{k}×{n} {a_transposed} {b_transposed} {packed} {to:?} at {i}, {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_small_integers_are_exact_in_every_shape_and_leave_nothing_out() {
        if supported() {
            holds::<BFloat16>(|x| x as f32);
            holds::<Float32>(|x| x as f32);
            holds::<Int16>(|x| x);
        }
    }

    #[test]
    fn a_factor_may_be_some_columns_of_a_matrix() {
        if !supported() {
            return;
        }
        let x: Vec<f32> = (0..40 * 30).map(|i| (i % 19) as f32 - 9.0).collect();
        let part = Matrix::new(&x, 30).part(7, 20);
        let copied: Vec<f32> = x.chunks_exact(30).flat_map(|row| &row[7..27]).copied().collect();
        let copy = Matrix::new(&copied, 20);
        let gram = |matrix: Matrix| {
            let mut out = [vec![0.0; 40 * 40], vec![0.0; 20 * 20]];
            // SAFETY: the instructions are there.
            unsafe {
                product::<BFloat16>(matrix, &matrix.t().into(), &mut out[0], To::Nothing);
                product::<Float32>(matrix.t(), &matrix.into(), &mut out[1], To::Nothing);
            }
            out
        };
        assert_eq!(gram(part), gram(copy));
    }

    #[test]
    fn factors_are_rounded_to_the_nearest() {
        if !supported() {
            return;
        }
        // 257 and 259 lie between the bfloat16 numbers 256, 258 and 260: a tie goes to the even one.
        let (mut floats, mut wholes) = ([0.0; 2], [0; 4]);
        let one = Factor::from(Matrix::new(&[1.0], 1));
        // SAFETY: the instructions are there.
        unsafe {
            product::<BFloat16>(Matrix::new(&[257.0, 259.0], 1), &one, &mut floats, To::Nothing);
            product::<Int16>(Matrix::new(&[0.5, 1.5, -32_767.2, 40_000.0], 1), &one, &mut wholes, To::Nothing);
        }
        assert_eq!((floats, wholes), ([256.0, 260.0], [0, 2, -32_767, 32_767]));
    }
}
