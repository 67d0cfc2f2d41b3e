//! Products by libtorch, where the processor has no kernel of this module.

use tch::{Device, Kind, Tensor};

use super::matrix::{Epilogue, MatRef};
use super::operand::Operand;
use super::rows::Numbers;
use crate::config::Precision;

impl MatRef<'_> {
    /// A view for libtorch that must not outlive the slice.
    fn tensor(self) -> Tensor {
        let [rows, columns, stride] = [self.rows(), self.columns, self.stride].map(|size| size as i64);
        let (data, kind) = match self.data {
            Numbers::Float32(data) => (data.as_ptr().cast(), Kind::Float),
            Numbers::Bf16(data) => (data.as_ptr().cast(), Kind::BFloat16),
        };
        // SAFETY: the slice reaches to the last column of the last row, and callers drop the tensor while it is
        // borrowed.
        let tensor = unsafe { Tensor::from_blob(data, &[rows, columns], &[stride, 1], kind, Device::Cpu) };
        if self.transposed { tensor.tr() } else { tensor }
    }
}

/// A view for libtorch, `[n, columns]`, of a slice that it may write to and must not outlive.
fn tensor_mut(out: &mut [f32], columns: usize) -> Tensor {
    let (rows, columns) = ((out.len() / columns) as i64, columns as i64);
    // SAFETY: the slice holds rows · columns elements, and callers drop the tensor while they borrow it.
    unsafe { Tensor::from_blob(out.as_mut_ptr().cast(), &[rows, columns], &[columns, 1], Kind::Float, Device::Cpu) }
}

/// As [`super::gemm`]. In bfloat16 the product is rounded to bfloat16 before the epilogue.
pub fn gemm(precision: Precision, a: MatRef, b: &Operand, out: &mut [f32], epilogue: Epilogue) {
    let n = b.shape()[1];
    let b = match b {
        Operand::Plain(matrix) => matrix.tensor(),
        #[cfg(target_arch = "x86_64")]
        Operand::Packed(_) => unreachable!("operands are packed for the kernels of this module alone"),
    };
    if let Epilogue::Bias(bias) = epilogue {
        out.chunks_exact_mut(n).for_each(|out| out.copy_from_slice(bias));
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

#[cfg(test)]
mod tests {
    use super::super::rows::OperandBuffer;
    use super::*;

    #[test]
    fn operands_may_be_bfloat16() {
        let (x, y): (Vec<f32>, Vec<f32>) =
            ((0..15).map(|i| i as f32 - 7.0).collect(), (0..10).map(|i| i as f32).collect());
        let mut buffer = OperandBuffer::default();
        buffer.resize(Precision::Bf16, x.len());
        buffer.store(0, &x);
        let product = |a: MatRef| {
            let mut out = vec![1.0; 6];
            gemm(Precision::Bf16, a, &MatRef::new(&y, 2).into(), &mut out, Epilogue::Accumulate);
            out
        };
        assert_eq!(product(MatRef::new(&buffer, 5)), product(MatRef::new(&x, 5)));
        assert_eq!(product(MatRef::new(&x, 5))[..2], [1.0 - 80.0, 1.0 - 105.0]);
    }
}
