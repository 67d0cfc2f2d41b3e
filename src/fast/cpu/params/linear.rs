//! Linear layers: y = x Wᵀ + b, dx = dy W, dW = dyᵀ x, db = Σ dy.

use rayon::prelude::*;

use super::layout::{Layout, LinearRange};
use crate::config::Precision;
use crate::fast::cpu::gemm::{BothOperands, Epilogue, MatRef, gemm, pack_operand};
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
    pub fn forward(&self, linear: &LinearRange, x: &[f32], y: &mut Vec<f32>) {
        let bias = &self.flat[linear.bias.clone()];
        y.resize(x.len() / linear.inputs * bias.len(), 0.0);
        let weight = &self.packed[linear.index].transposed;
        gemm(self.precision, MatRef::new(x, linear.inputs), weight, y, Epilogue::Bias(bias));
    }

    /// dx = dy W, or dx += dy W.
    ///
    /// # Shapes
    /// dy `[n, outputs]`, dx `[n, inputs]`
    pub fn backward_input(&self, linear: &LinearRange, dy: &[f32], dx: &mut [f32], epilogue: Epilogue) {
        let weight = &self.packed[linear.index].plain;
        gemm(self.precision, MatRef::new(dy, linear.bias.len()), weight, dx, epilogue);
    }

    /// dW += dyᵀ x and db += Σ dy, in the layout's ranges of `flat_grad`.
    ///
    /// # Shapes
    /// x `[n, inputs]`, dy `[n, outputs]`
    pub fn backward_params(&self, linear: &LinearRange, x: &[f32], dy: &[f32], flat_grad: &mut [f32]) {
        let dy_t = MatRef::new(dy, linear.bias.len()).t();
        let dweight = &mut flat_grad[linear.weight.clone()];
        gemm(self.precision, dy_t, &MatRef::new(x, linear.inputs).into(), dweight, Epilogue::Accumulate);
        add_rows(dy, &mut flat_grad[linear.bias.clone()]);
    }
}
