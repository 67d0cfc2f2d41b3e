//! Products in AVX-512: of float32, bfloat16 and int16.
//!
//! The usual three loops around a microkernel: blocks of [`KC`] words along k, then panels of [`NR`] columns, then
//! panels of [`MR`] rows. Sums leave the registers as float32, where libtorch takes and gives bfloat16 tensors, with
//! three passes of conversion a product. In float32 libtorch's kernels on AMD are AVX2's and pack an operand in every
//! product; on Intel they are as fast as these.

use std::arch::x86_64::{
    _MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch, _mm512_load_si512, _mm512_set1_epi32, _mm512_setzero_si512,
};

use super::element::{Element, REGISTER};
use super::matrix::{Epilogue, MatRef};
use super::operand::{Operand, packed_rhs};
use super::pack::{MR, NR, PACK_BUFFERS};
use super::tile::{KC, OutputTile};

/// As [`super::gemm`].
///
/// # Safety
/// The processor has the instructions, as [`super::features::AVX512`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn gemm<E: Element>(a: MatRef, b: &Operand, out: &mut [E::Acc], epilogue: Epilogue<E::Acc>) {
    let ([m, k], [height, n]) = (a.shape(), b.shape());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(epilogue, Epilogue::Bias(row) if row.len() != n));
    PACK_BUFFERS.with_borrow_mut(|[left, right]| {
        // SAFETY: the caller's promise.
        let right = unsafe {
            left.pack::<E, MR, 1>(a, [m, k], !a.transposed);
            packed_rhs::<E, 1>(right, b)
        };
        assert_eq!(left.words, right.words, "an operand that was packed for another element");
        for start in (0..left.words).step_by(KC) {
            let words = KC.min(left.words - start);
            let epilogue = if start > 0 { Epilogue::Accumulate } else { epilogue };
            for j in (0..n).step_by(NR) {
                let right = right.panel::<NR>(j / NR, start);
                for i in (0..m).step_by(MR) {
                    let left = left.panel::<MR>(i / MR, start);
                    let tile = OutputTile::new(out, n, [i, j], MR, epilogue);
                    // SAFETY: both panels hold this many more words of each lane; the caller's promise.
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

impl<T: Copy> OutputTile<'_, T> {
    /// Sums over `words` words of both panels: [`MR`] × [`NR`] sums stay in registers, of which the first ROWS rows are
    /// computed.
    ///
    /// # Safety
    /// The panels hold `words` words of each lane, and the tile no more than ROWS rows; the processor has the
    /// instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn microkernel<E: Element<Acc = T>, const ROWS: usize>(
        mut self,
        words: usize,
        left: *const i32,
        right: *const i32,
    ) {
        // The output's lines are on their way while the sums are taken.
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
        // SAFETY: the caller's promise.
        unsafe { self.store::<E, ROWS>(0, sums) };
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::element::{Bf16, F32, I16};
    use super::super::features::{AVX512, can_run};
    use super::super::operand::pack_rhs;
    use super::super::pack::Packed;
    use super::super::rows::OperandBuffer;
    use super::*;
    use crate::config::Precision;

    fn supported() -> bool {
        can_run("DIF_SR_AVX512", &AVX512)
    }

    /// Holds products of small integers to integer arithmetic, in every shape, with right operands packed and not.
    /// Eight bits hold the integers and float32 their sums; `number` makes one of the output's type.
    pub fn products_are_exact<T: Copy + PartialEq + std::fmt::Debug>(
        number: impl Fn(i32) -> T,
        packed: impl Fn(MatRef) -> Packed,
        product: impl Fn(MatRef, &Operand, &mut [T], Epilogue<T>),
    ) {
        let small = |n: usize, by: usize| (0..n).map(move |i| (i * by % 23) as i32 - 11);
        let both = [false, true];
        let shapes = [(1, 1, 1), (14, 32, 2), (3, 33, 5), (15, 47, 31), (29, 7, 33), (57, 70, 300), (5, 100, 513)];
        for (m, n, k) in shapes.into_iter().chain([(32, 32, 32), (70, 33, 64), (40, 64, 544)]) {
            let choices = both.into_iter().flat_map(|a| both.map(|b| (a, b)));
            for (((a_transposed, b_transposed), is_packed), precision) in choices
                .flat_map(|ab| both.map(|is_packed| (ab, is_packed)))
                .flat_map(|choice| [Precision::Float32, Precision::Bf16].map(|precision| (choice, precision)))
            {
                let floats = |n, by| small(n, by).map(|x| x as f32).collect::<Vec<_>>();
                let (floats_a, floats_b) = (floats(m * k, 7), floats(k * n, 5));
                let [x, y] = [&floats_a, &floats_b].map(|floats| {
                    let mut rows = OperandBuffer::default();
                    rows.resize(precision, floats.len());
                    rows.store(0, floats);
                    rows
                });
                let at = |floats: &[f32], matrix: MatRef, i: usize, j: usize| match matrix.transposed {
                    true => floats[j * matrix.columns + i],
                    false => floats[i * matrix.columns + j],
                };
                let a = if a_transposed { MatRef::new(&x, m).t() } else { MatRef::new(&x, k) };
                let b = if b_transposed { MatRef::new(&y, k).t() } else { MatRef::new(&y, n) };
                let operand = if is_packed { Operand::Packed(packed(b)) } else { b.into() };
                let row: Vec<i32> = small(n, 3).collect();
                let numbers: Vec<T> = row.iter().map(|&x| number(x)).collect();
                for epilogue in [Epilogue::Overwrite, Epilogue::Accumulate, Epilogue::Bias(&numbers[..])] {
                    let mut out: Vec<T> = (0..m * n).map(|i| number(i as i32)).collect();
                    product(a, &operand, &mut out, epilogue);
                    for (at_out, &found) in out.iter().enumerate() {
                        let (i, j) = (at_out / n, at_out % n);
                        let terms = (0..k).map(|step| at(&floats_a, a, i, step) * at(&floats_b, b, step, j));
                        let sum = terms.sum::<f32>() as i32;
                        let expected = match epilogue {
                            Epilogue::Overwrite => sum,
                            Epilogue::Accumulate => sum + at_out as i32,
                            Epilogue::Bias(_) => sum + row[j],
                        };
                        assert_eq!(
                            found,
                            number(expected),
                            "{m}×{k}×{n} {a_transposed} {b_transposed} {is_packed} {precision:?} {epilogue:?} at {i}, {j}"
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
            let packed = |b: MatRef| unsafe { pack_rhs::<E, 1>(b) };
            products_are_exact(number, packed, |a, b, out, epilogue| unsafe { gemm::<E>(a, b, out, epilogue) });
        }
        if supported() {
            of::<Bf16>(|x| x as f32);
            of::<F32>(|x| x as f32);
            of::<I16>(|x| x);
        }
    }

    #[test]
    fn an_operand_may_be_some_columns_of_a_matrix() {
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
                gemm::<Bf16>(matrix, &matrix.t().into(), &mut out[0], Epilogue::Overwrite);
                gemm::<F32>(matrix.t(), &matrix.into(), &mut out[1], Epilogue::Overwrite);
            }
            out
        };
        assert_eq!(gram(part), gram(copy));
    }

    #[test]
    fn operands_are_rounded_to_the_nearest_even() {
        if !supported() {
            return;
        }
        // 257 and 259 lie between the bfloat16 numbers 256, 258 and 260: a tie goes to the even one.
        let (mut floats, mut wholes) = ([0.0; 2], [0; 4]);
        let one = Operand::from(MatRef::new(&[1.0][..], 1));
        // SAFETY: the instructions are there.
        unsafe {
            gemm::<Bf16>(MatRef::new(&[257.0, 259.0][..], 1), &one, &mut floats, Epilogue::Overwrite);
            gemm::<I16>(MatRef::new(&[0.5, 1.5, -32_767.2, 40_000.0][..], 1), &one, &mut wholes, Epilogue::Overwrite);
        }
        assert_eq!((floats, wholes), ([256.0, 260.0], [0, 2, -32_767, 32_767]));
    }
}
