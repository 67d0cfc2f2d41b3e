//! Products in AVX2, of float32 and of bfloat16 multiplied as float32: for processors without AVX-512.
//!
//! The loops of [`super::avx512`] around a smaller microkernel: 6 × 16 sums take 12 of the 16 registers. In float32 a
//! left operand whose neighbours in memory are steps along k is read where it lies. Libtorch packs both operands in
//! every product, and has no instruction for bfloat16 here either.

use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use half::bf16;

use super::matrix::{Epilogue, MatRef};
use super::operand::Operand;
use super::pack::{PACK_BUFFERS, Packed, Source};
use super::rows::Numbers;
use super::tile::KC;
use crate::config::Precision;

/// Rows and columns of a microkernel's tile of the output.
const MR: usize = 6;
const NR: usize = 16;
/// Floats of a register.
const REGISTER: usize = 8;
/// Rows of the left operand that meet every panel of the right one before the next rows do: [`KC`] steps of them, 192
/// KiB, stay in the L2 cache.
pub const MC: usize = 32 * MR;

/// A row of a tile's sums.
type Row = [__m256; NR / REGISTER];

/// A left operand.
struct Left<'a> {
    data: &'a [f32],
    rows: usize,
    /// From a panel of [`MR`] rows to the next, from a row of a panel to the next, and from a step along k to the next.
    strides: [usize; 3],
}

/// A right operand packed ahead.
pub fn pack_rhs(precision: Precision, matrix: MatRef) -> Packed {
    let mut packed = Packed::default();
    pack::<NR>(&mut packed, precision, matrix.t());
    packed
}

/// As [`super::gemm`].
///
/// # Safety
/// The processor has the instructions, as [`super::features::AVX2`] says.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn gemm(precision: Precision, a: MatRef, b: &Operand, out: &mut [f32], epilogue: Epilogue) {
    let ([m, k], [height, n]) = (a.shape(), b.shape());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(epilogue, Epilogue::Bias(row) if row.len() != n));
    PACK_BUFFERS.with_borrow_mut(|[left, right]| {
        let left = Left::new(left, precision, a);
        let right = match b {
            Operand::Packed(packed) => packed,
            &Operand::Plain(matrix) => {
                pack::<NR>(right, precision, matrix.t());
                right
            }
        };
        assert_eq!(right.words, k, "an operand that was packed for another kernel");
        for start in (0..k).step_by(KC) {
            let steps = KC.min(k - start);
            let epilogue = if start > 0 { Epilogue::Accumulate } else { epilogue };
            for block in (0..m).step_by(MC) {
                for j in (0..n).step_by(NR) {
                    let right = right.panel::<NR>(j / NR, start).cast();
                    for i in (block..m.min(block + MC)).step_by(MR) {
                        // SAFETY: both panels hold this many more steps of each lane; the caller's promise.
                        let sums = unsafe { microkernel(steps, left.panel(i, start), left.strides[2], right) };
                        for (sums, row) in sums.into_iter().zip(i..m) {
                            // SAFETY: the caller's promise.
                            unsafe { store_row(sums, &mut out[row * n + j..(row + 1) * n], epilogue.from_column(j)) };
                        }
                    }
                }
            }
        }
    });
}

impl<'a> Left<'a> {
    fn new(buffer: &'a mut Packed, precision: Precision, matrix: MatRef<'a>) -> Self {
        let [rows, k] = matrix.shape();
        match (precision, matrix) {
            (Precision::Float32, MatRef { data: Numbers::Float32(data), stride, transposed: false, .. }) => {
                assert!(data.len() >= (rows - 1) * stride + k);
                Self { data, rows, strides: [MR * stride, stride, 1] }
            }
            _ => {
                pack::<MR>(buffer, precision, matrix);
                Self { data: buffer.floats(), rows, strides: [MR * k, 1, MR] }
            }
        }
    }

    /// Where the rows of the panel of row i begin, from a step on. Behind the last row it is given again.
    fn panel(&self, i: usize, start: usize) -> [*const f32; MR] {
        let [panel, row, step] = self.strides;
        std::array::from_fn(|of_panel| {
            let of_panel = of_panel.min(self.rows - 1 - i);
            self.data.as_ptr().wrapping_add(i / MR * panel + of_panel * row + start * step)
        })
    }
}

/// Packs the rows of a matrix as lanes, as [`super::pack`] says, with a step along k in each word.
fn pack<const PANEL: usize>(to: &mut Packed, precision: Precision, matrix: MatRef) {
    match (matrix.data, precision) {
        (Numbers::Float32(data), Precision::Float32) => pack_as::<_, PANEL>(to, matrix, data, |x| x),
        (Numbers::Float32(data), Precision::Bf16) => pack_as::<_, PANEL>(to, matrix, data, bf16_of),
        (Numbers::Bf16(data), _) => pack_as::<_, PANEL>(to, matrix, data, bf16::to_f32),
    }
}

/// Rounded to bfloat16.
fn bf16_of(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

#[inline(always)]
fn pack_as<T: Copy, const PANEL: usize>(to: &mut Packed, matrix: MatRef, data: &[T], convert: impl Fn(T) -> f32) {
    let ([count, k], stride) = (matrix.shape(), matrix.stride);
    let source = Source { data, stride, count, k, k_contiguous: !matrix.transposed };
    to.reserve(&source, count.next_multiple_of(PANEL), k);
    let panels = &mut to.floats_mut()[..count.next_multiple_of(PANEL) * k];
    if let Some(last) = panels.chunks_exact_mut(PANEL * k).last() {
        last.fill(0.0);
    }
    for (i, line) in data.chunks(stride).enumerate() {
        if matrix.transposed {
            // A step of all lanes.
            for (panel, lanes) in line[..count].chunks(PANEL).enumerate() {
                let to = &mut panels[(panel * k + i) * PANEL..][..lanes.len()];
                to.iter_mut().zip(lanes).for_each(|(to, &x)| *to = convert(x));
            }
        } else {
            // All steps of a lane.
            let to = panels[i / PANEL * PANEL * k + i % PANEL..].iter_mut().step_by(PANEL);
            to.zip(&line[..k]).for_each(|(to, &x)| *to = convert(x));
        }
    }
}

/// Sums over `steps` steps of both panels; `step` floats of the left one are from one to the next.
///
/// # Safety
/// The panels hold `steps` steps of each lane; the processor has the instructions.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn microkernel(steps: usize, left: [*const f32; MR], step: usize, right: *const f32) -> [Row; MR] {
    let mut sums = [[_mm256_setzero_ps(); NR / REGISTER]; MR];
    for k in 0..steps {
        // SAFETY: the caller's promise.
        unsafe {
            let right = right.add(k * NR);
            let b = [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(REGISTER))];
            for (left, sums) in left.iter().zip(&mut sums) {
                let a = _mm256_broadcast_ss(&*left.add(k * step));
                *sums = [_mm256_fmadd_ps(a, b[0], sums[0]), _mm256_fmadd_ps(a, b[1], sums[1])];
            }
        }
    }
    sums
}

/// Applies the epilogue to a row of sums, and writes what there is of it in `out`, the rest of the output's row.
///
/// # Safety
/// The processor has the instructions.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn store_row(sums: Row, out: &mut [f32], epilogue: Epilogue) {
    let width = NR.min(out.len());
    let row = |of: &[f32]| {
        let mut row = [0.0; NR];
        row[..width].copy_from_slice(&of[..width]);
        row
    };
    let to = match epilogue {
        Epilogue::Overwrite => [0.0; NR],
        Epilogue::Accumulate => row(out),
        Epilogue::Bias(bias) => row(bias),
    };
    let mut whole = [0.0; NR];
    for (sums, at) in sums.into_iter().zip((0..).step_by(REGISTER)) {
        // SAFETY: a register's floats of each row.
        unsafe { _mm256_storeu_ps(whole[at..].as_mut_ptr(), _mm256_add_ps(_mm256_loadu_ps(to[at..].as_ptr()), sums)) };
    }
    out[..width].copy_from_slice(&whole[..width]);
}

#[cfg(test)]
mod tests {
    use super::super::avx512::tests::products_are_exact;
    use super::super::features::{AVX2, can_run};
    use super::*;

    #[test]
    fn products_of_small_integers_are_exact_in_every_shape_and_leave_nothing_out() {
        if !can_run("DIF_SR_AVX2", &AVX2) {
            return;
        }
        for precision in [Precision::Float32, Precision::Bf16] {
            let packed = |b: MatRef| pack_rhs(precision, b);
            // SAFETY: the instructions are there.
            let product = |a: MatRef, b: &Operand, out: &mut [f32], epilogue: Epilogue| unsafe {
                gemm(precision, a, b, out, epilogue);
            };
            products_are_exact(|x| x as f32, packed, product);
        }
    }
}
