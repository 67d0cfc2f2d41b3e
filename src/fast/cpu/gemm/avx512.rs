//! Products over packed [`panels`](super::pack): of bfloat16, of float32 and of whole numbers.
//!
//! Libtorch takes and gives bfloat16 tensors, so that its product comes with three passes of conversion; here sums leave the
//! registers as float32. In float32 its kernels on AMD are AVX2's, and pack a factor in every product; on Intel they are as
//! fast. A tile of the output is [`LEFT`] × [`RIGHT`] sums, which fill the registers.

use std::arch::x86_64::{
    __m512i, __mmask16, _MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch, _mm512_load_si512, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
};

use super::pack::{Element, FACTORS, LEFT, RIGHT, WORDS, lanes};
use super::{Factor, Matrix, To};

/// Words along k that are summed at a time: so much of a right panel, 32 KiB, is taken again and again.
pub const DEPTH: usize = 256;

/// As [`super::product`].
///
/// # Safety
/// The processor has the instructions, as [`VECTORS`](super::pack::VECTORS) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn product<E: Element>(a: Matrix, b: &Factor, out: &mut [E::Sum], to: To<E::Sum>) {
    let ([m, k], [height, n]) = (a.size(), b.size());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(to, To::Row(row) if row.len() != n));
    FACTORS.with_borrow_mut(|[left, right]| {
        // SAFETY: the caller's promise.
        let right = unsafe {
            left.pack::<E, LEFT, 1>(a, [m, k], !a.transposed);
            right.packed::<E, 1>(b)
        };
        assert_eq!(left.words, right.words, "a factor that was packed for other elements");
        for start in (0..left.words).step_by(DEPTH) {
            let words = DEPTH.min(left.words - start);
            let to = if start > 0 { To::Old } else { to };
            for j in (0..n).step_by(RIGHT) {
                let right = right.panel::<RIGHT>(j / RIGHT, start);
                for i in (0..m).step_by(LEFT) {
                    let left = left.panel::<LEFT>(i / LEFT, start);
                    let tile = Tile::new(out, n, [i, j], LEFT, to);
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

/// Where the sums of a tile go: some rows of the output, and [`RIGHT`] columns at most.
pub struct Tile<'a, T> {
    /// From the tile's first element.
    out: &'a mut [T],
    stride: usize,
    pub rows: usize,
    /// Which columns there are.
    masks: [__mmask16; RIGHT / WORDS],
    /// What the sums are added to; a row from the tile's first column.
    to: To<'a, T>,
}

impl<'a, T: Copy> Tile<'a, T> {
    /// From row i and column j on of an output of n columns, as many rows as there are, and `rows` at most.
    pub fn new(out: &'a mut [T], n: usize, [i, j]: [usize; 2], rows: usize, to: To<'a, T>) -> Self {
        let to = match to {
            To::Row(row) => To::Row(&row[j..]),
            to => to,
        };
        let rows = rows.min(out.len() / n - i);
        let masks = [lanes(n - j), lanes((n - j).saturating_sub(WORDS))];
        Self { out: &mut out[i * n + j..], stride: n, rows, masks, to }
    }

    /// Sums over so many words.
    ///
    /// # Safety
    /// The panels hold so many words of each lane, and the tile no more than ROWS rows; the processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn sum<E: Element<Sum = T>, const ROWS: usize>(mut self, words: usize, left: *const i32, right: *const i32) {
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
        for (row, sums) in sums.into_iter().enumerate().take(self.rows) {
            // SAFETY: the caller's promise.
            unsafe { self.put::<E>(row, sums) };
        }
    }

    /// Writes a row of sums.
    ///
    /// # Safety
    /// The tile has this row; the processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn put<E: Element<Sum = T>>(&mut self, row: usize, sums: [__m512i; RIGHT / WORDS]) {
        for (part, (sum, mask)) in sums.into_iter().zip(self.masks).enumerate() {
            let at = self.out.as_mut_ptr().wrapping_add(row * self.stride + part * WORDS).cast();
            // SAFETY: the mask lets through columns of this row alone, and a register holds 16 numbers.
            unsafe {
                let to = match self.to {
                    To::Nothing => _mm512_setzero_si512(),
                    To::Old => _mm512_maskz_loadu_epi32(mask, at),
                    To::Row(row) => _mm512_maskz_loadu_epi32(mask, row.as_ptr().wrapping_add(part * WORDS).cast()),
                };
                _mm512_mask_storeu_epi32(at, mask, E::add(to, sum));
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::pack::{BFloat16, Float32, Int16, Packed, VECTORS};
    use super::*;

    fn supported() -> bool {
        if !*VECTORS {
            println!("left out: this processor has no products of its own here");
        }
        *VECTORS
    }

    /// Products of small integers, in every shape, by factors as they are and packed: `number` is one of the output's. Eight
    /// bits hold the numbers, and float32 their sums.
    pub fn holds<T: Copy + PartialEq + std::fmt::Debug>(
        number: impl Fn(i32) -> T,
        packed: impl Fn(Matrix) -> Packed,
        product: impl Fn(Matrix, &Factor, &mut [T], To<T>),
    ) {
        let small = |n: usize, by: usize| (0..n).map(move |i| (i * by % 23) as i32 - 11);
        let at = |matrix: Matrix, i: usize, j: usize| match matrix.transposed {
            true => matrix.data[j * matrix.columns + i],
            false => matrix.data[i * matrix.columns + j],
        };
        for (m, n, k) in [(1, 1, 1), (14, 32, 2), (3, 33, 5), (15, 47, 31), (29, 7, 33), (57, 70, 300), (5, 100, 513)] {
            let choices = [false, true].into_iter().flat_map(|a| [false, true].map(|b| (a, b)));
            for ((a_transposed, b_transposed), is_packed) in
                choices.flat_map(|ab| [false, true].map(|is_packed| (ab, is_packed)))
            {
                let floats = |n, by| small(n, by).map(|x| x as f32).collect::<Vec<_>>();
                let (x, y) = (floats(m * k, 7), floats(k * n, 5));
                let a = if a_transposed { Matrix::new(&x, m).t() } else { Matrix::new(&x, k) };
                let b = if b_transposed { Matrix::new(&y, k).t() } else { Matrix::new(&y, n) };
                let factor = if is_packed { Factor::Packed(packed(b)) } else { b.into() };
                let row: Vec<i32> = small(n, 3).collect();
                let numbers: Vec<T> = row.iter().map(|&x| number(x)).collect();
                for to in [To::Nothing, To::Old, To::Row(&numbers[..])] {
                    let mut out: Vec<T> = (0..m * n).map(|i| number(i as i32)).collect();
                    product(a, &factor, &mut out, to);
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
                            "{m}×{k}×{n} {a_transposed} {b_transposed} {is_packed} {to:?} at {i}, {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_small_integers_are_exact_in_every_shape_and_leave_nothing_out() {
        fn of<E: Element<Sum: PartialEq + std::fmt::Debug>>(number: impl Fn(i32) -> E::Sum) {
            // SAFETY: the instructions are there.
            let packed = |b: Matrix| unsafe { Packed::right::<E, 1>(b) };
            holds(number, packed, |a, b, out, to| unsafe { product::<E>(a, b, out, to) });
        }
        if supported() {
            of::<BFloat16>(|x| x as f32);
            of::<Float32>(|x| x as f32);
            of::<Int16>(|x| x);
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
