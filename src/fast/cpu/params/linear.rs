//! Linear layers: y = x Wᵀ + b, dx = dy W, dW = dyᵀ x, db = Σ dy.

use rayon::prelude::*;

use super::layout::{Layout, LinearRange};
use crate::config::Precision;
use crate::fast::cpu::gemm::{
    BothOperands, Epilogue, MatRef, Numbers, OperandBuffer, gemm, gemm_by_rows, pack_operand,
};
use crate::fast::cpu::ops::simd::add_rows;

/// The weights of a step.
#[derive(Debug)]
pub struct Weights<'a> {
    /// All parameters but the item embedding, in the layout's ranges.
    pub flat: &'a [f32],
    pub precision: Precision,
    /// W of every linear layer by its index.
    packed: Vec<BothOperands<'a>>,
}

impl<'a> Weights<'a> {
    /// Packs the weight of every linear layer, once for the step.
    pub fn new(layout: &Layout, flat: &'a [f32], precision: Precision) -> Self {
        let packed = layout.linears.par_iter().map(|linear| {
            let weight = MatRef::new(&flat[linear.weight.clone()], linear.inputs);
            let [transposed, plain] = [weight.t(), weight].map(|weight| pack_operand(precision, weight));
            BothOperands { transposed, plain }
        });
        Self { flat, precision, packed: packed.collect() }
    }

    /// y = x Wᵀ + b.
    ///
    /// # Shapes
    /// x `[n, inputs]`, y `[n, outputs]`
    pub fn forward<'x>(&self, linear: &LinearRange, x: impl Into<Numbers<'x>>, y: &mut Vec<f32>) {
        let (x, bias) = (MatRef::new(x, linear.inputs), &self.flat[linear.bias.clone()]);
        y.resize(x.rows() * bias.len(), 0.0);
        gemm(self.precision, x, &self.packed[linear.index].transposed, y, Epilogue::Bias(bias));
    }

    /// As [`Weights::forward`], to an operand that has room.
    pub fn forward_to<'x>(&self, linear: &LinearRange, x: impl Into<Numbers<'x>>, y: &mut OperandBuffer) {
        let width = linear.bias.len();
        match y {
            OperandBuffer::Float32(y) => self.forward(linear, x, y),
            _ => self.forward_by_rows(linear, x, |first, block| y.store(first * width, block)),
        }
    }

    /// As [`Weights::forward`], a block of rows at a time: `each` takes the number of the first and the block.
    pub fn forward_by_rows<'x>(
        &self,
        linear: &LinearRange,
        x: impl Into<Numbers<'x>>,
        each: impl FnMut(usize, &mut [f32]),
    ) {
        let (x, bias) = (MatRef::new(x, linear.inputs), &self.flat[linear.bias.clone()]);
        gemm_by_rows(self.precision, x, &self.packed[linear.index].transposed, Some(bias), each);
    }

    /// dx = dy W, or dx += dy W.
    ///
    /// # Shapes
    /// dy `[n, outputs]`, dx `[n, inputs]`
    pub fn backward_input<'x>(
        &self,
        linear: &LinearRange,
        dy: impl Into<Numbers<'x>>,
        dx: &mut [f32],
        epilogue: Epilogue,
    ) {
        gemm(self.precision, MatRef::new(dy, linear.bias.len()), &self.packed[linear.index].plain, dx, epilogue);
    }

    /// dx = dy W, as [`Weights::forward_by_rows`].
    pub fn backward_input_by_rows<'x>(
        &self,
        linear: &LinearRange,
        dy: impl Into<Numbers<'x>>,
        each: impl FnMut(usize, &mut [f32]),
    ) {
        let (dy, weight) = (MatRef::new(dy, linear.bias.len()), &self.packed[linear.index].plain);
        gemm_by_rows(self.precision, dy, weight, None, each);
    }

    /// dW += dyᵀ x and db += Σ dy, in the layout's ranges of `flat_grad`.
    ///
    /// # Shapes
    /// x `[n, inputs]`, dy `[n, outputs]`
    pub fn backward_params<'x, 'y>(
        &self,
        linear: &LinearRange,
        x: impl Into<Numbers<'x>>,
        dy: impl Into<Numbers<'y>>,
        flat_grad: &mut [f32],
    ) {
        let (x, dy) = (MatRef::new(x, linear.inputs), dy.into());
        let dy_t = MatRef::new(dy, linear.bias.len()).t();
        gemm(self.precision, dy_t, &x.into(), &mut flat_grad[linear.weight.clone()], Epilogue::Accumulate);
        let dbias = &mut flat_grad[linear.bias.clone()];
        match dy {
            Numbers::Float32(dy) => add_rows(dy, dbias),
            Numbers::Bf16(dy) => add_rows(dy, dbias),
        }
    }
}
