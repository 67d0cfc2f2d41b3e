//! Products over packed [`panels`](super::pack): of bfloat16, of float32 and of whole numbers.
//!
//! Libtorch takes and gives bfloat16 tensors, so that its product comes with three passes of conversion; here sums leave the
//! registers as float32. In float32 its kernels on AMD are AVX2's, and pack a factor in every product; on Intel they are as
//! fast. A tile of the output is [`MR`] × [`NR`] sums, which fill the registers.

use std::arch::x86_64::{
    __m512i, __mmask16, _MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch, _mm512_load_si512, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
};

use super::pack::{Element, MR, NR, PACK_BUFFERS, REGISTER, lane_mask};
use super::{Epilogue, MatRef, Operand};

/// Words along k that are summed at a time: so much of a right panel, 32 KiB, is taken again and again.
pub const KC: usize = 256;

/// As [`super::product`].
///
/// # Safety
/// The processor has the instructions, as [`AVX512`](super::pack::AVX512) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn gemm<E: Element>(a: MatRef, b: &Operand, out: &mut [E::Acc], epilogue: Epilogue<E::Acc>) {
    let ([m, k], [height, n]) = (a.shape(), b.shape());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(epilogue, Epilogue::Bias(row) if row.len() != n));
    PACK_BUFFERS.with_borrow_mut(|[left, right]| {
        // SAFETY: the caller's promise.
        let right = unsafe {
            left.pack::<E, MR, 1>(a, [m, k], !a.transposed);
            right.packed::<E, 1>(b)
        };
        assert_eq!(left.words, right.words, "a factor that was packed for other elements");
        for start in (0..left.words).step_by(KC) {
            let words = KC.min(left.words - start);
            let epilogue = if start > 0 { Epilogue::Accumulate } else { epilogue };
            for j in (0..n).step_by(NR) {
                let right = right.panel::<NR>(j / NR, start);
                for i in (0..m).step_by(MR) {
                    let left = left.panel::<MR>(i / MR, start);
                    let tile = OutputTile::new(out, n, [i, j], MR, epilogue);
                    // SAFETY: both panels hold so many more words of each lane; the caller's promise.
                    unsafe {
                        match tile.rows {
                            ..=4 => tile.microkernel::<E, 4>(words, left, right),
                            5..=8 => tile.microkernel::<E, 8>(words, left, right),
                            _ => tile.microkernel::<E, MR>(words, left, right),
                        }
                    }
                }
            }
        }
    });
}

/// Where the sums of a tile go: some rows of the output, and [`NR`] columns at most.
pub struct OutputTile<'a, T> {
    /// From the tile's first element.
    out: &'a mut [T],
    stride: usize,
    pub rows: usize,
    /// Which columns there are.
    masks: [__mmask16; NR / REGISTER],
    /// What the sums are added to; a row from the tile's first column.
    epilogue: Epilogue<'a, T>,
}

impl<'a, T: Copy> OutputTile<'a, T> {
    /// From row i and column j on of an output of n columns, as many rows as there are, and `rows` at most.
    pub fn new(out: &'a mut [T], n: usize, [i, j]: [usize; 2], rows: usize, epilogue: Epilogue<'a, T>) -> Self {
        let epilogue = match epilogue {
            Epilogue::Bias(row) => Epilogue::Bias(&row[j..]),
            epilogue => epilogue,
        };
        let rows = rows.min(out.len() / n - i);
        let masks = [lane_mask(n - j), lane_mask((n - j).saturating_sub(REGISTER))];
        Self { out: &mut out[i * n + j..], stride: n, rows, masks, epilogue }
    }

    /// Sums over so many words.
    ///
    /// # Safety
    /// The panels hold so many words of each lane, and the tile no more than ROWS rows; the processor has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn microkernel<E: Element<Acc = T>, const ROWS: usize>(
        mut self,
        words: usize,
        left: *const i32,
        right: *const i32,
    ) {
        // Its lines are on their way while the sums are taken.
        for row in 0..self.rows {
            for part in 0..NR / REGISTER {
                let at = self.out.as_ptr().wrapping_add(row * self.stride + part * REGISTER);
                _mm_prefetch::<_MM_HINT_ET0>(at.cast());
            }
        }
        let mut sums = [[_mm512_setzero_si512(); NR / REGISTER]; ROWS];
        for word in 0..words {
            // SAFETY: the caller's promise; lines are aligned, and a right panel's word is whole lines.
            let [b, c] = unsafe {
                let ahead = right.wrapping_add((word + 8) * NR);
                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(REGISTER).cast());
                let word = right.add(word * NR);
                [_mm512_load_si512(word.cast()), _mm512_load_si512(word.add(REGISTER).cast())]
            };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let a = _mm512_set1_epi32(*left.add(word * MR + row));
                    *sums = [E::mul_add(sums[0], a, b), E::mul_add(sums[1], a, c)];
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate().take(self.rows) {
            // SAFETY: the caller's promise.
            unsafe { self.store_row::<E>(row, sums) };
        }
    }

    /// Writes a row of sums.
    ///
    /// # Safety
    /// The tile has this row; the processor has the instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn store_row<E: Element<Acc = T>>(&mut self, row: usize, sums: [__m512i; NR / REGISTER]) {
        for (part, (sum, mask)) in sums.into_iter().zip(self.masks).enumerate() {
            let at = self.out.as_mut_ptr().wrapping_add(row * self.stride + part * REGISTER).cast();
            // SAFETY: the mask lets through columns of this row alone, and a register holds 16 numbers.
            unsafe {
                let to = match self.epilogue {
                    Epilogue::Overwrite => _mm512_setzero_si512(),
                    Epilogue::Accumulate => _mm512_maskz_loadu_epi32(mask, at),
                    Epilogue::Bias(row) => {
                        _mm512_maskz_loadu_epi32(mask, row.as_ptr().wrapping_add(part * REGISTER).cast())
                    }
                };
                _mm512_mask_storeu_epi32(at, mask, E::add(to, sum));
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::pack::{AVX512, Bf16Pair, F32, I16Pair, Packed};
    use super::*;

    fn supported() -> bool {
        if !*AVX512 {
            println!("left out: this processor has no products of its own here");
        }
        *AVX512
    }

    /// Products of small integers, in every shape, by factors as they are and packed: `number` is one of the output's. Eight
    /// bits hold the numbers, and float32 their sums.
    pub fn holds<T: Copy + PartialEq + std::fmt::Debug>(
        number: impl Fn(i32) -> T,
        packed: impl Fn(MatRef) -> Packed,
        product: impl Fn(MatRef, &Operand, &mut [T], Epilogue<T>),
    ) {
        let small = |n: usize, by: usize| (0..n).map(move |i| (i * by % 23) as i32 - 11);
        let at = |matrix: MatRef, i: usize, j: usize| match matrix.transposed {
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
                let a = if a_transposed { MatRef::new(&x, m).t() } else { MatRef::new(&x, k) };
                let b = if b_transposed { MatRef::new(&y, k).t() } else { MatRef::new(&y, n) };
                let factor = if is_packed { Operand::Packed(packed(b)) } else { b.into() };
                let row: Vec<i32> = small(n, 3).collect();
                let numbers: Vec<T> = row.iter().map(|&x| number(x)).collect();
                for epilogue in [Epilogue::Overwrite, Epilogue::Accumulate, Epilogue::Bias(&numbers[..])] {
                    let mut out: Vec<T> = (0..m * n).map(|i| number(i as i32)).collect();
                    gemm(a, &factor, &mut out, epilogue);
                    for (at_out, &found) in out.iter().enumerate() {
                        let (i, j) = (at_out / n, at_out % n);
                        let sum = (0..k).map(|step| at(a, i, step) * at(b, step, j)).sum::<f32>() as i32;
                        let expected = match epilogue {
                            Epilogue::Overwrite => sum,
                            Epilogue::Accumulate => sum + at_out as i32,
                            Epilogue::Bias(_) => sum + row[j],
                        };
                        assert_eq!(
                            found,
                            number(expected),
                            "{m}×{k}×{n} {a_transposed} {b_transposed} {is_packed} {epilogue:?} at {i}, {j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_small_integers_are_exact_in_every_shape_and_leave_nothing_out() {
        fn of<E: Element<Acc: PartialEq + std::fmt::Debug>>(number: impl Fn(i32) -> E::Acc) {
            // SAFETY: the instructions are there.
            let packed = |b: MatRef| unsafe { Packed::rhs::<E, 1>(b) };
            holds(number, packed, |a, b, out, epilogue| unsafe { gemm::<E>(a, b, out, epilogue) });
        }
        if supported() {
            of::<Bf16Pair>(|x| x as f32);
            of::<F32>(|x| x as f32);
            of::<I16Pair>(|x| x);
        }
    }

    #[test]
    fn a_factor_may_be_some_columns_of_a_matrix() {
        if !supported() {
            return;
        }
        let x: Vec<f32> = (0..40 * 30).map(|i| (i % 19) as f32 - 9.0).collect();
        let part = MatRef::new(&x, 30).column_range(7, 20);
        let copied: Vec<f32> = x.chunks_exact(30).flat_map(|row| &row[7..27]).copied().collect();
        let copy = MatRef::new(&copied, 20);
        let gram = |matrix: MatRef| {
            let mut out = [vec![0.0; 40 * 40], vec![0.0; 20 * 20]];
            // SAFETY: the instructions are there.
            unsafe {
                gemm::<Bf16Pair>(matrix, &matrix.t().into(), &mut out[0], Epilogue::Overwrite);
                gemm::<F32>(matrix.t(), &matrix.into(), &mut out[1], Epilogue::Overwrite);
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
        let one = Operand::from(MatRef::new(&[1.0], 1));
        // SAFETY: the instructions are there.
        unsafe {
            gemm::<Bf16Pair>(MatRef::new(&[257.0, 259.0], 1), &one, &mut floats, Epilogue::Overwrite);
            gemm::<I16Pair>(MatRef::new(&[0.5, 1.5, -32_767.2, 40_000.0], 1), &one, &mut wholes, Epilogue::Overwrite);
        }
        assert_eq!((floats, wholes), ([256.0, 260.0], [0, 2, -32_767, 32_767]));
    }
}
