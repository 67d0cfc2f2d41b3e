//! Absorbed projections: the key's and the value's weights taken to the side of the queries, as in multi-head latent
//! attention.
//!
//! The last layer has one query a sequence. In a head of width d, with x the rows of the sequence,
//!
//! * its scores are q · (W_K x + b_K) = (W_Kᵀ q) · x + q · b_K: the key layer is absorbed into the query ([`absorb`]);
//! * its context is Σ pⱼ (W_V xⱼ + b_V) = W_V (Σ pⱼ xⱼ) + b_V Σ pⱼ: the value layer is applied to the sum
//!   ([`project`]).
//!
//! So each layer costs a product for every query instead of one for every row. [`absorb`] and [`project`] are each
//! other's gradients, with the same gradient of the parameters ([`backward_params`]).
//!
//! [`absorb`]: AbsorbedRows::absorb
//! [`project`]: AbsorbedRows::project
//! [`backward_params`]: AbsorbedRows::backward_params

use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::fast::cpu::ops::simd::{axpy, dot_heads};
use crate::fast::cpu::params::layout::LinearRange;
use crate::fast::cpu::params::linear::Weights;

/// Rows of the input's width for every query and head, with what belongs to the bias.
#[derive(Debug, Default)]
pub struct AbsorbedRows {
    /// z: absorbed queries or sums of rows, `[heads, n, H]`.
    pub rows: Vec<f32>,
    /// o: q · b_K or Σ pⱼ, `[n, heads]`.
    pub bias: Vec<f32>,
}

impl AbsorbedRows {
    /// Makes room for n queries.
    pub fn resize(&mut self, n: usize, heads: usize, h: usize) {
        self.rows.resize(heads * n * h, 0.0);
        self.bias.resize(n * heads, 0.0);
    }

    /// z = Wᵀ y and o = y · b, head by head.
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn absorb(&mut self, weights: &Weights, linear: &LinearRange, heads: usize, y: &[f32]) {
        let h = linear.inputs;
        let n = y.len() / h;
        self.resize(n, heads, h);
        for (head, rows) in self.rows.chunks_exact_mut(n * h).enumerate() {
            let weight = MatRef::new(weight_of_head(weights, linear, heads, head), h);
            gemm(weights.precision, head_columns(y, h, heads, head), &weight.into(), rows, Epilogue::Overwrite);
        }
        let bias = &weights.flat[linear.bias.clone()];
        for (y, out) in y.chunks_exact(h).zip(self.bias.chunks_exact_mut(heads)) {
            dot_heads(y, bias, out);
        }
    }

    /// y = W z + o b, head by head.
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn project(&self, weights: &Weights, linear: &LinearRange, heads: usize, y: &mut [f32]) {
        let (h, d) = (linear.inputs, linear.inputs / heads);
        let n = y.len() / h;
        let mut projected = vec![0.0; n * d];
        for (head, rows) in self.rows.chunks_exact(n * h).enumerate() {
            let weight = MatRef::new(weight_of_head(weights, linear, heads, head), h);
            gemm(weights.precision, MatRef::new(rows, h), &weight.t().into(), &mut projected, Epilogue::Overwrite);
            let bias = &weights.flat[linear.bias.clone()][head * d..][..d];
            let of_head = self.bias[head..].iter().step_by(heads);
            for ((y, projected), &o) in y.chunks_exact_mut(h).zip(projected.chunks_exact(d)).zip(of_head) {
                let y = &mut y[head * d..][..d];
                y.copy_from_slice(projected);
                axpy(o, bias, y);
            }
        }
    }

    /// dW += Σ y zᵀ and db += Σ o y: with y absorbed and z, o the gradient of what it became, or with z, o projected
    /// and y the gradient of what they became.
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn backward_params(
        &self,
        weights: &Weights,
        linear: &LinearRange,
        heads: usize,
        y: &[f32],
        flat_grad: &mut [f32],
    ) {
        let (h, d) = (linear.inputs, linear.inputs / heads);
        let n = y.len() / h;
        let dweight = flat_grad[linear.weight.clone()].chunks_exact_mut(d * h);
        for ((head, rows), dweight) in self.rows.chunks_exact(n * h).enumerate().zip(dweight) {
            let y_t = head_columns(y, h, heads, head).t();
            gemm(weights.precision, y_t, &MatRef::new(rows, h).into(), dweight, Epilogue::Accumulate);
        }
        let dbias = &mut flat_grad[linear.bias.clone()];
        for (y, bias) in y.chunks_exact(h).zip(self.bias.chunks_exact(heads)) {
            let of_heads = dbias.chunks_exact_mut(d).zip(y.chunks_exact(d)).zip(bias);
            of_heads.for_each(|((dbias, y), &o)| axpy(o, y, dbias));
        }
    }
}

/// The rows of a weight that give a head's outputs, `[d, H]`.
fn weight_of_head<'a>(weights: &Weights<'a>, linear: &LinearRange, heads: usize, head: usize) -> &'a [f32] {
    let size = linear.inputs / heads * linear.inputs;
    &weights.flat[linear.weight.clone()][head * size..][..size]
}

/// A head's columns of y, `[n, d]`.
fn head_columns(y: &[f32], h: usize, heads: usize, head: usize) -> MatRef<'_> {
    let d = h / heads;
    MatRef::new(y, h).column_range(head * d, d)
}
