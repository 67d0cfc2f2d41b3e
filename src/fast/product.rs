//! Matrix products over slices, by libtorch.

use tch::{Device, Kind, Tensor};

#[cfg(target_arch = "x86_64")]
use super::bfloat;
use crate::config::Precision;

/// A row-major matrix in a slice of floats, or its transposed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [f32],
    /// Of the memory, before the transposition.
    pub columns: usize,
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// All of `data`, in rows of so many columns.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        debug_assert_eq!(data.len() % columns, 0);
        Self { data, columns, transposed: false }
    }

    /// The transposed matrix, as a view.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Rows and columns.
    pub fn size(self) -> [usize; 2] {
        let size = [self.data.len() / self.columns, self.columns];
        if self.transposed { [size[1], size[0]] } else { size }
    }

    /// A view for libtorch that must not outlive the slice.
    pub fn tensor(self) -> Tensor {
        let [rows, columns] = [self.data.len() / self.columns, self.columns].map(|size| size as i64);
        // SAFETY: the slice holds rows · columns elements, and it is borrowed longer than the products of this file keep
        // the tensor.
        let tensor = unsafe {
            Tensor::from_blob(self.data.as_ptr().cast(), &[rows, columns], &[columns, 1], Kind::Float, Device::Cpu)
        };
        if self.transposed { tensor.tr() } else { tensor }
    }
}

/// A view for libtorch, `[n, columns]`, of a slice that it may write to and must not outlive.
pub(super) fn wrap(out: &mut [f32], columns: usize) -> Tensor {
    let (rows, columns) = ((out.len() / columns) as i64, columns as i64);
    // SAFETY: the slice holds rows · columns elements, and the callers drop the tensor while they borrow it.
    unsafe { Tensor::from_blob(out.as_mut_ptr().cast(), &[rows, columns], &[columns, 1], Kind::Float, Device::Cpu) }
}

/// What becomes of the old values of a product's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    Replace,
    Add,
}

/// `out = a · b` or `out += a · b`, where `out` is row-major without gaps.
///
/// Under [`Precision::Bf16`] both factors are rounded to bfloat16, and sums are float32's. Where libtorch does it, because
/// the processor is none that `bfloat.rs` is for, the product is rounded too.
///
/// # Shapes
/// a `[m, k]`, b `[k, n]`, out `[m, n]`
pub(super) fn product(precision: Precision, a: Matrix, b: Matrix, out: &mut [f32], into: Into) {
    let ([m, _], [_, n]) = (a.size(), b.size());
    debug_assert_eq!(out.len(), m * n);
    if m == 0 || n == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if precision == Precision::Bf16 && *bfloat::PREFERRED {
        // SAFETY: the condition is the promise.
        return unsafe { bfloat::product(a, b, out, into) };
    }
    let mut target = wrap(out, n);
    let (a, b) = (a.tensor(), b.tensor());
    match (precision, into) {
        (Precision::Float32, Into::Replace) => _ = a.mm_out(&target, &b),
        (Precision::Float32, Into::Add) => _ = target.addmm_(&a, &b),
        (Precision::Bf16, into) => {
            let product = a.to_kind(Kind::BFloat16).mm(&b.to_kind(Kind::BFloat16));
            match into {
                Into::Replace => target.copy_(&product),
                Into::Add => _ = target.g_add_(&product),
            }
        }
    }
}
