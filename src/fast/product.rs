//! Matrix products over slices, by libtorch.

use tch::{Device, Kind, Tensor};

use crate::config::Precision;

/// A row-major matrix in a slice of floats; `stride` is the distance between rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// All of `data`, in rows of so many columns.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        debug_assert_eq!(data.len() % columns, 0);
        Self { data, rows: data.len() / columns, columns, stride: columns, transposed: false }
    }

    /// The transposed matrix, as a view.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// A view for libtorch that must not outlive the slice.
    pub fn tensor(self) -> Tensor {
        let (size, strides) = ([self.rows as i64, self.columns as i64], [self.stride as i64, 1]);
        debug_assert!(self.rows == 0 || (self.rows - 1) * self.stride + self.columns <= self.data.len());
        // SAFETY: the slice holds all elements that size and strides reach, and it is borrowed longer than the products
        // of this file keep the tensor.
        let tensor = unsafe { Tensor::from_blob(self.data.as_ptr().cast(), &size, &strides, Kind::Float, Device::Cpu) };
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
/// Under [`Precision::Bf16`] both factors and the product are rounded to bfloat16, and libtorch sums in float32.
///
/// # Shapes
/// a `[m, k]`, b `[k, n]`, out `[m, n]`
pub(super) fn product(precision: Precision, a: Matrix, b: Matrix, out: &mut [f32], into: Into) {
    let (m, n) = (if a.transposed { a.columns } else { a.rows }, if b.transposed { b.rows } else { b.columns });
    debug_assert_eq!(out.len(), m * n);
    if m == 0 || n == 0 {
        return;
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
