//! Matrix products over slices.
//!
//! [`gemm`] goes to the fastest kernel that the processor has:
//!
//! | | float32 | bfloat16 | int16 ([`gemm_i16`]) |
//! | --- | --- | --- | --- |
//! | AMX | [`avx512`] | [`amx`] | [`avx512`] |
//! | AVX-512 with BF16 and VNNI | [`avx512`] | [`avx512`] | [`avx512`] |
//! | AVX2 with FMA | [`avx2`] | [`avx2`] | none |
//! | others | [`libtorch`] | [`libtorch`] | none |
//!
//! The kernels are a microkernel over packed panels ([`pack`]). A right operand that many products share is packed
//! once ([`pack_operand`]).

use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod element;
#[cfg(target_arch = "x86_64")]
mod features;
mod libtorch;
mod matrix;
mod operand;
#[cfg(target_arch = "x86_64")]
mod pack;
mod rows;
#[cfg(target_arch = "x86_64")]
mod tile;

#[cfg(target_arch = "x86_64")]
use element::{Bf16, F32, I16};
#[cfg(target_arch = "x86_64")]
use features::{AMX, AVX2, AVX512};
pub use matrix::{Epilogue, MatRef};
#[cfg(target_arch = "x86_64")]
use operand::pack_rhs;
pub use operand::{BothOperands, Operand};
pub use rows::{Numbers, OperandBuffer};

use crate::config::Precision;

/// What computes a product.
enum Backend {
    Libtorch,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// The fastest backend of this processor.
fn backend(precision: Precision) -> Backend {
    #[cfg(target_arch = "x86_64")]
    if precision == Precision::Bf16 && *AMX {
        return Backend::Amx;
    } else if *AVX512 {
        return Backend::Avx512;
    } else if *AVX2 {
        return Backend::Avx2;
    }
    let _ = precision;
    Backend::Libtorch
}

/// The name of what computes products here.
pub fn backend_name(precision: Precision) -> &'static str {
    match backend(precision) {
        Backend::Libtorch => "libtorch",
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => "AVX2",
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Backend::Amx => "AMX",
    }
}

/// A right operand packed for [`gemm`], where its backend packs.
pub fn pack_operand(precision: Precision, matrix: MatRef) -> Operand {
    match backend(precision) {
        Backend::Libtorch => matrix.into(),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => Operand::Packed(avx2::pack_rhs(precision, matrix)),
        // SAFETY: `backend` names what the processor has the instructions of.
        #[cfg(target_arch = "x86_64")]
        Backend::Amx => Operand::Packed(unsafe { pack_rhs::<Bf16, { element::REGISTER }>(matrix) }),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => Operand::Packed(unsafe {
            match precision {
                Precision::Float32 => pack_rhs::<F32, 1>(matrix),
                Precision::Bf16 => pack_rhs::<Bf16, 1>(matrix),
            }
        }),
    }
}

/// A right operand for [`gemm_i16`], rounded to int16; `None` where the processor has no kernel.
pub fn pack_operand_i16(matrix: MatRef) -> Option<Operand<'static>> {
    #[cfg(target_arch = "x86_64")]
    if *AVX512 {
        // SAFETY: the condition is the promise.
        return Some(Operand::Packed(unsafe { pack_rhs::<I16, 1>(matrix) }));
    }
    let _ = matrix;
    None
}

/// `out` = a · b, `out` += a · b or `out` = a · b + bias, as the epilogue says. `out` is row-major without gaps.
///
/// Under [`Precision::Bf16`] both operands are rounded to bfloat16 and sums are float32. Libtorch, where it computes,
/// rounds the product to bfloat16 too.
///
/// # Shapes
/// a `[m, k]`, b `[k, n]`, out `[m, n]`
pub fn gemm(precision: Precision, a: MatRef, b: &Operand, out: &mut [f32], epilogue: Epilogue) {
    let ([m, k], [_, n]) = (a.shape(), b.shape());
    assert_eq!(out.len(), m * n);
    if out.is_empty() || (k == 0 && epilogue == Epilogue::Accumulate) {
        return;
    }
    match backend(precision) {
        Backend::Libtorch => libtorch::gemm(precision, a, b, out, epilogue),
        // SAFETY: `backend` names what the processor has the instructions of.
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => unsafe { avx2::gemm(precision, a, b, out, epilogue) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Backend::Amx => unsafe { amx::gemm(a, b, out, epilogue) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => unsafe {
            match precision {
                Precision::Float32 => avx512::gemm::<F32>(a, b, out, epilogue),
                Precision::Bf16 => avx512::gemm::<Bf16>(a, b, out, epilogue),
            }
        },
    }
}

/// a · b, and the bias added to every row if there is one, a block of rows at a time: `each` takes the number of the
/// block's first row, and the block while it is in the cache.
///
/// # Shapes
/// a `[m, k]` not transposed, b `[k, n]`, bias `[n]`, a block `[rows, n]`
pub fn gemm_by_rows(
    precision: Precision,
    a: MatRef,
    b: &Operand,
    bias: Option<&[f32]>,
    mut each: impl FnMut(usize, &mut [f32]),
) {
    thread_local! {
        static BLOCK: RefCell<Vec<f32>> = RefCell::default();
    }
    let ([m, _], [_, n]) = (a.shape(), b.shape());
    // Whole tiles. AVX-512 lets a panel of b in the L1 cache meet all rows of a block, so that it has more of them: all 256
    // of the item loss.
    let size = match backend(precision) {
        Backend::Libtorch => m.max(1),
        #[cfg(target_arch = "x86_64")]
        Backend::Avx2 => avx2::MC,
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => 19 * pack::MR,
        #[cfg(target_arch = "x86_64")]
        Backend::Amx => amx::TILE_ROWS,
    };
    let packed;
    let b = match b {
        &Operand::Plain(matrix) if size < m => {
            packed = pack_operand(precision, matrix);
            &packed
        }
        _ => b,
    };
    BLOCK.with_borrow_mut(|block| {
        block.resize(block.len().max(size.min(m) * n), 0.0);
        for start in (0..m).step_by(size) {
            let end = (start + size).min(m);
            let block = &mut block[..(end - start) * n];
            gemm(precision, a.row_range(start..end), b, block, bias.map_or(Epilogue::Overwrite, Epilogue::Bias));
            each(start, block);
        }
    });
}

/// `out` = a · b in integers, a rounded to int16 as b is; no sum may leave 32 bits.
///
/// # Shapes
/// a `[m, k]`, b `[k, n]`, out `[m, n]`
///
/// # Panics
/// With an operand that is not [`pack_operand_i16`]'s.
pub fn gemm_i16(a: MatRef, b: &Operand, out: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    if *AVX512 {
        // SAFETY: the condition is the promise.
        return unsafe { avx512::gemm::<I16>(a, b, out, Epilogue::Overwrite) };
    }
    let _ = (a, b, out);
    unreachable!("operands are packed to int16 where there is a kernel for them")
}

/// Whether a test of [`gemm_i16`] can run on this processor; says so where it cannot, and fails where `DIF_SR_AVX512`
/// is `required`.
#[cfg(test)]
pub fn can_run_i16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return features::can_run("DIF_SR_AVX512", &AVX512);
    #[cfg(not(target_arch = "x86_64"))]
    {
        println!("left out: this processor lacks the instructions");
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_by_rows_is_the_product_and_every_row_comes_once() {
        let small = |n: usize, by: usize| (0..n).map(|i| (i * by % 23) as f32 - 11.0).collect::<Vec<f32>>();
        for (m, k, n) in [(0, 5, 3), (1, 5, 3), (33, 64, 40), (250, 70, 17)] {
            let (x, y, bias) = (small(m * k, 7), small(k * n, 5), small(n, 3));
            for (precision, stored, is_packed) in [
                (Precision::Float32, Precision::Float32, false),
                (Precision::Bf16, Precision::Bf16, false),
                (Precision::Bf16, Precision::Float32, true),
            ] {
                let mut a = OperandBuffer::default();
                a.resize(stored, m * k);
                a.store(0, &x);
                let (a, b) = (MatRef::new(&a, k), MatRef::new(&y, n));
                let b = if is_packed { pack_operand(precision, b) } else { b.into() };
                let (mut all, mut found) = (vec![0.0; m * n], Vec::new());
                gemm(precision, a, &b, &mut all, Epilogue::Bias(&bias));
                gemm_by_rows(precision, a, &b, Some(&bias), |first, block| {
                    assert_eq!(first * n, found.len());
                    found.extend_from_slice(block);
                });
                assert_eq!(found, all, "{m}×{k}×{n} {precision:?}");
            }
        }
    }
}
