//! The right operand of a product, packed or not.

#[cfg(target_arch = "x86_64")]
use super::element::Element;
use super::matrix::MatRef;
#[cfg(target_arch = "x86_64")]
use super::pack::{NR, Packed};

/// A right operand: packed ahead where many products share it, else as it lies in memory.
#[derive(Debug)]
pub enum Operand<'a> {
    Plain(MatRef<'a>),
    #[cfg(target_arch = "x86_64")]
    Packed(Packed),
}

/// A matrix as the right operand of both products that take it.
#[derive(Debug)]
pub struct BothOperands<'a> {
    /// Of the forward pass.
    pub transposed: Operand<'a>,
    /// Of the backward pass.
    pub plain: Operand<'a>,
}

impl Operand<'_> {
    /// Rows and columns, `[k, n]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Plain(matrix) => matrix.shape(),
            #[cfg(target_arch = "x86_64")]
            Self::Packed(packed) => [packed.k, packed.count],
        }
    }
}

/// An operand packed: as it is, or into `buffer`. Its lanes have a multiple of K_ALIGN words: zeros follow the last.
///
/// # Safety
/// The processor has the instructions, as [`super::features::AVX512`] says.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn packed_rhs<'a, E: Element, const K_ALIGN: usize>(
    buffer: &'a mut Packed,
    operand: &'a Operand,
) -> &'a Packed {
    match operand {
        Operand::Packed(packed) => packed,
        &Operand::Plain(matrix) => {
            let [k, n] = matrix.shape();
            // SAFETY: the caller's promise.
            unsafe { buffer.pack::<E, NR, K_ALIGN>(matrix, [n, k], matrix.transposed) };
            buffer
        }
    }
}

/// A right operand packed ahead.
///
/// # Safety
/// The processor has the instructions, as [`super::features::AVX512`] says.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn pack_rhs<E: Element, const K_ALIGN: usize>(matrix: MatRef) -> Packed {
    let mut packed = Packed::default();
    // SAFETY: the caller's promise.
    unsafe { packed_rhs::<E, K_ALIGN>(&mut packed, &matrix.into()) };
    packed
}

impl<'a> From<MatRef<'a>> for Operand<'a> {
    fn from(matrix: MatRef<'a>) -> Self {
        Self::Plain(matrix)
    }
}
