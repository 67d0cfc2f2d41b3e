//! MatRef products over slices, by libtorch, or by the kernels of `amx.rs` and `tiles.rs` where these are faster.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod pack;

use tch::{Device, Kind, Tensor};

use crate::config::Precision;
#[cfg(target_arch = "x86_64")]
use pack::{AMX, AVX512, Bf16Pair, F32, I16Pair, Packed};

/// A row-major matrix in a slice of floats, or its transposed.
#[derive(Debug, Clone, Copy)]
pub struct MatRef<'a> {
    pub data: &'a [f32],
    /// Of the memory, before the transposition.
    pub columns: usize,
    /// From a row of the memory to the next.
    pub stride: usize,
    pub transposed: bool,
}

impl<'a> MatRef<'a> {
    /// All of `data`, in rows of so many columns.
    pub fn new(data: &'a [f32], columns: usize) -> Self {
        assert_eq!(data.len() % columns, 0);
        Self { data, columns, stride: columns, transposed: false }
    }

    /// Some columns of a matrix that is not transposed.
    pub fn column_range(self, start: usize, columns: usize) -> Self {
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
    pub fn shape(self) -> [usize; 2] {
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
pub enum Operand<'a> {
    Plain(MatRef<'a>),
    #[cfg(target_arch = "x86_64")]
    Packed(Packed),
}

impl<'a> Operand<'a> {
    /// Packs what is packed.
    pub fn new(precision: Precision, matrix: MatRef<'a>) -> Self {
        // SAFETY: the processor has the instructions.
        match backend(precision) {
            Backend::Libtorch => Self::Plain(matrix),
            #[cfg(target_arch = "x86_64")]
            Backend::Amx => Self::Packed(unsafe { amx::pack_rhs(matrix) }),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Self::Packed(unsafe {
                match precision {
                    Precision::Float32 => Packed::rhs::<F32, 1>(matrix),
                    Precision::Bf16 => Packed::rhs::<Bf16Pair, 1>(matrix),
                }
            }),
        }
    }

    /// Packs whole numbers of 16 bits, to which floats are rounded; `None` where [`gemm_i16`] has no kernel.
    pub fn pack_i16(matrix: MatRef) -> Option<Operand<'static>> {
        #[cfg(target_arch = "x86_64")]
        if *AVX512 {
            // SAFETY: the condition is the promise.
            return Some(Operand::Packed(unsafe { Packed::rhs::<I16Pair, 1>(matrix) }));
        }
        let _ = matrix;
        None
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Plain(matrix) => matrix.shape(),
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed) => packed.shape(),
        }
    }
}

impl<'a> From<MatRef<'a>> for Operand<'a> {
    fn from(matrix: MatRef<'a>) -> Self {
        Self::Plain(matrix)
    }
}

/// A view for libtorch, `[n, columns]`, of a slice that it may write to and must not outlive.
pub fn tensor_mut(out: &mut [f32], columns: usize) -> Tensor {
    let (rows, columns) = ((out.len() / columns) as i64, columns as i64);
    // SAFETY: the slice holds rows · columns elements, and the callers drop the tensor while they borrow it.
    unsafe { Tensor::from_blob(out.as_mut_ptr().cast(), &[rows, columns], &[columns, 1], Kind::Float, Device::Cpu) }
}

/// What a product is added to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Epilogue<'a, T = f32> {
    Overwrite,
    /// The output's old values.
    Accumulate,
    /// A row, `[n]`, in every row.
    Bias(&'a [T]),
}

/// `out` = a · b + what `to` says, where `out` is row-major without gaps.
///
/// Under [`Precision::Bf16`] both factors are rounded to bfloat16, and sums are float32's. Where libtorch does it, because
/// the processor is none that this module has products for, the product is rounded too.
///
/// # Shapes
/// a `[m, k]`, b `[k, n]`, out `[m, n]`
pub fn gemm(precision: Precision, a: MatRef, b: &Operand, out: &mut [f32], epilogue: Epilogue) {
    let ([m, k], [_, n]) = (a.shape(), b.shape());
    assert_eq!(out.len(), m * n);
    if out.is_empty() || (k == 0 && epilogue == Epilogue::Accumulate) {
        return;
    }
    // SAFETY: the processor has the instructions.
    match backend(precision) {
        Backend::Libtorch => by_libtorch(precision, a, b, out, epilogue),
        #[cfg(target_arch = "x86_64")]
        Backend::Amx => unsafe { amx::gemm(a, b, out, epilogue) },
        #[cfg(target_arch = "x86_64")]
        Backend::Avx512 => unsafe {
            match precision {
                Precision::Float32 => avx512::gemm::<F32>(a, b, out, epilogue),
                Precision::Bf16 => avx512::gemm::<Bf16Pair>(a, b, out, epilogue),
            }
        },
    }
}

/// What multiplies.
enum Backend {
    Libtorch,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// What is fastest on this processor.
fn backend(precision: Precision) -> Backend {
    #[cfg(target_arch = "x86_64")]
    if precision == Precision::Bf16 && *AMX {
        return Backend::Amx;
    } else if *AVX512 {
        return Backend::Avx512;
    }
    let _ = precision;
    Backend::Libtorch
}

fn by_libtorch(precision: Precision, a: MatRef, b: &Operand, out: &mut [f32], epilogue: Epilogue) {
    let n = b.shape()[1];
    let b = match b {
        Operand::Plain(matrix) => matrix.tensor(),
        #[cfg(target_arch = "x86_64")]
        Operand::Packed(_) => unreachable!("factors are packed for this module's products alone"),
    };
    if let Epilogue::Bias(row) = epilogue {
        out.chunks_exact_mut(n).for_each(|out| out.copy_from_slice(row));
    }
    let (a, mut target) = (a.tensor(), tensor_mut(out, n));
    match precision {
        Precision::Float32 if epilogue == Epilogue::Overwrite => _ = a.mm_out(&target, &b),
        Precision::Float32 => _ = target.addmm_(&a, &b),
        Precision::Bf16 => {
            let product = a.to_kind(Kind::BFloat16).mm(&b.to_kind(Kind::BFloat16));
            match epilogue {
                Epilogue::Overwrite => target.copy_(&product),
                Epilogue::Accumulate | Epilogue::Bias(_) => _ = target.g_add_(&product),
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
/// With a factor that is not [`Operand::whole`]'s.
pub fn gemm_i16(a: MatRef, b: &Operand, out: &mut [i32]) {
    #[cfg(target_arch = "x86_64")]
    if *AVX512 {
        // SAFETY: the condition is the promise.
        return unsafe { avx512::gemm::<I16Pair>(a, b, out, Epilogue::Overwrite) };
    }
    let _ = (a, b, out);
    unreachable!("factors are packed for `tiles.rs` alone")
}
