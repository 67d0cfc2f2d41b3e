//! Matrix products over slices, by libtorch, or by the kernels of `amx.rs` and `tiles.rs` where these are faster.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod pack;

use tch::{Device, Kind, Tensor};

use crate::config::Precision;
#[cfg(target_arch = "x86_64")]
use pack::{BFloat16, Float32, Int16, MATRIX_UNIT, Packed, VECTORS};

/// A row-major matrix in a slice of floats, or its transposed.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    /// Of the memory, before the transposition.
    pub columns: usize,
    /// From a row of the memory to the next.
    pub stride: usize,
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    /// All of `data`, in rows of so many columns.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        assert_eq!(data.len() % columns, 0);
        Self { data, columns, stride: columns, transposed: false }
    }

    /// Some columns of a matrix that is not transposed.
    pub fn part(self, start: usize, columns: usize) -> Self {
        assert!(!self.transposed && start + columns <= self.columns);
        Self { data: &self.data[start..], columns, ..self }
    }

    /// The transposed matrix, as a view.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Of the memory.
    fn rows(self) -> usize {
        self.data.len().div_ceil(self.stride)
    }

    /// Rows and columns.
    pub fn size(self) -> [usize; 2] {
        let size = [self.rows(), self.columns];
        if self.transposed { [size[1], size[0]] } else { size }
    }

    /// A view for libtorch that must not outlive the slice.
    pub fn tensor(self) -> Tensor {
        let [rows, columns, stride] = [self.rows(), self.columns, self.stride].map(|size| size as i64);
        // SAFETY: the slice reaches to the last row's last column, and it is borrowed longer than the products of this file
        // keep the tensor.
        let tensor = unsafe {
            Tensor::from_blob(self.data.as_ptr().cast(), &[rows, columns], &[stride, 1], Kind::Float, Device::Cpu)
        };
        if self.transposed { tensor.tr() } else { tensor }
    }
}

/// A right factor: packed once where many products take it, and as it is elsewhere.
#[derive(Debug)]
pub enum Factor<'a> {
    Plain(Matrix<'a>),
    #[cfg(target_arch = "x86_64")]
    Packed(Packed),
}

impl<'a> Factor<'a> {
    /// Packs what is packed.
    pub fn new(precision: Precision, matrix: Matrix<'a>) -> Self {
        // SAFETY: the processor has the instructions.
        match unit(precision) {
            Unit::Libtorch => Self::Plain(matrix),
            #[cfg(target_arch = "x86_64")]
            Unit::Matrix => Self::Packed(unsafe { amx::right(matrix) }),
            #[cfg(target_arch = "x86_64")]
            Unit::Vectors => Self::Packed(unsafe {
                match precision {
                    Precision::Float32 => Packed::right::<Float32, 1>(matrix),
                    Precision::Bf16 => Packed::right::<BFloat16, 1>(matrix),
                }
            }),
        }
    }

    /// Packs whole numbers of 16 bits, to which floats are rounded; `None` where [`whole_product`] has no kernel.
    pub fn whole(matrix: Matrix) -> Option<Factor<'static>> {
        #[cfg(target_arch = "x86_64")]
        if *VECTORS {
            // SAFETY: the condition is the promise.
            return Some(Factor::Packed(unsafe { Packed::right::<Int16, 1>(matrix) }));
        }
        let _ = matrix;
        None
    }

    /// Rows and columns.
    pub fn size(&self) -> [usize; 2] {
        match self {
            Self::Plain(matrix) => matrix.size(),
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed) => packed.size(),
        }
    }
}

impl<'a> From<Matrix<'a>> for Factor<'a> {
    fn from(matrix: Matrix<'a>) -> Self {
        Self::Plain(matrix)
    }
}

/// A view for libtorch, `[n, columns]`, of a slice that it may write to and must not outlive.
pub fn wrap(out: &mut [f32], columns: usize) -> Tensor {
    let (rows, columns) = ((out.len() / columns) as i64, columns as i64);
    // SAFETY: the slice holds rows · columns elements, and the callers drop the tensor while they borrow it.
    unsafe { Tensor::from_blob(out.as_mut_ptr().cast(), &[rows, columns], &[columns, 1], Kind::Float, Device::Cpu) }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum To<'a, T = f32> {
    Nothing,
    /// The output's old values.
    Old,
    /// A row, `[n]`, in every row.
    Row(&'a [T]),
}

/// `out` = a · b + what `to` says, where `out` is row-major without gaps.
///
/// Under [`Precision::Bf16`] both factors are rounded to bfloat16, and sums are float32's. Where libtorch does it, because
/// the processor is none that this module has products for, the product is rounded too.
///
/// # Shapes
/// a `[m, k]`, b `[k, n]`, out `[m, n]`
pub fn product(precision: Precision, a: Matrix, b: &Factor, out: &mut [f32], to: To) {
    let ([m, k], [_, n]) = (a.size(), b.size());
    assert_eq!(out.len(), m * n);
    if out.is_empty() || (k == 0 && to == To::Old) {
        return;
    }
    // SAFETY: the processor has the instructions.
    match unit(precision) {
        Unit::Libtorch => by_libtorch(precision, a, b, out, to),
        #[cfg(target_arch = "x86_64")]
        Unit::Matrix => unsafe { amx::product(a, b, out, to) },
        #[cfg(target_arch = "x86_64")]
        Unit::Vectors => unsafe {
            match precision {
                Precision::Float32 => avx512::product::<Float32>(a, b, out, to),
                Precision::Bf16 => avx512::product::<BFloat16>(a, b, out, to),
            }
        },
    }
}

/// What multiplies.
enum Unit {
    Libtorch,
    #[cfg(target_arch = "x86_64")]
    Vectors,
    #[cfg(target_arch = "x86_64")]
    Matrix,
}

/// What is fastest on this processor.
fn unit(precision: Precision) -> Unit {
    #[cfg(target_arch = "x86_64")]
    if precision == Precision::Bf16 && *MATRIX_UNIT {
        return Unit::Matrix;
    } else if *VECTORS {
        return Unit::Vectors;
    }
    let _ = precision;
    Unit::Libtorch
}

fn by_libtorch(precision: Precision, a: Matrix, b: &Factor, out: &mut [f32], to: To) {
    let n = b.size()[1];
    let b = match b {
        Factor::Plain(matrix) => matrix.tensor(),
        #[cfg(target_arch = "x86_64")]
        Factor::Packed(_) => unreachable!("factors are packed for this module's products alone"),
    };
    if let To::Row(row) = to {
        out.chunks_exact_mut(n).for_each(|out| out.copy_from_slice(row));
    }
    let (a, mut target) = (a.tensor(), wrap(out, n));
    match precision {
        Precision::Float32 if to == To::Nothing => _ = a.mm_out(&target, &b),
        Precision::Float32 => _ = target.addmm_(&a, &b),
        Precision::Bf16 => {
            let product = a.to_kind(Kind::BFloat16).mm(&b.to_kind(Kind::BFloat16));
            match to {
                To::Nothing => target.copy_(&product),
                To::Old | To::Row(_) => _ = target.g_add_(&product),
            }
        }
    }
}

/// `out` = a · b in whole numbers, where no sum leaves 32 bits: floats are rounded to 16 bits.
///
/// # Shapes
/// a `[m, k]`, b `[k, n]`, out `[m, n]`
///
/// # Panics
/// With a factor that is not [`Factor::whole`]'s.
pub fn whole_product(a: Matrix, b: &Factor, out: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    if *VECTORS {
        // SAFETY: the condition is the promise.
        return unsafe { avx512::product::<Int16>(a, b, out, To::Nothing) };
    }
    let _ = (a, b, out);
    unreachable!("factors are packed for `tiles.rs` alone")
}
