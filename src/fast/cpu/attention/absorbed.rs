//! The last layer's keys and values, taken through its queries.
//!
//! That layer has one query a sequence. Its score of a row x in a head is q · (W x + b) = (Wᵀ q) · x + q · b, and its context is
//! Σ pⱼ (W xⱼ + b) = W (Σ pⱼ xⱼ) + b Σ pⱼ: so that a product for every query stands for one for every row. Queries are lifted to
//! the width of the input with the key's weight, and sums of rows are lowered to a head's width with the value's.

use crate::fast::cpu::encoder::step::StepContext;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::fast::cpu::ops::simd::{axpy, dot_heads};
use crate::fast::cpu::params::layout::Linear;

/// Rows of the input's width for every head, and a number beside each.
#[derive(Debug, Default)]
pub struct Absorbed {
    /// `[heads, n, H]`
    pub rows: Vec<f32>,
    /// What belongs to the bias, `[n, heads]`.
    pub offsets: Vec<f32>,
}

impl Absorbed {
    pub fn resize(&mut self, step: &StepContext, n: usize) {
        self.rows.resize(step.heads * n * step.h, 0.0);
        self.offsets.resize(n * step.heads, 0.0);
    }

    /// Wᵀ y and y · b, head by head.
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn lift(&mut self, step: &StepContext, dense: &Linear, y: &[f32]) {
        let (h, heads) = (step.h, step.heads);
        let n = y.len() / h;
        self.resize(step, n);
        for (head, rows) in self.rows.chunks_exact_mut(n * h).enumerate() {
            let weight = MatRef::new(of_head(step, dense, head), h);
            gemm(step.precision, part(step, y, head), &weight.into(), rows, Epilogue::Overwrite);
        }
        let bias = &step.flat[dense.bias.clone()];
        for (y, offsets) in y.chunks_exact(h).zip(self.offsets.chunks_exact_mut(heads)) {
            dot_heads(y, bias, offsets);
        }
    }

    /// W z + o b, head by head, of rows z and their offsets o.
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn lower(&self, step: &StepContext, dense: &Linear, y: &mut [f32]) {
        let (h, heads) = (step.h, step.heads);
        let (n, d) = (y.len() / h, h / heads);
        let mut lowered = vec![0.0; n * d];
        for (head, rows) in self.rows.chunks_exact(n * h).enumerate() {
            let weight = MatRef::new(of_head(step, dense, head), h);
            gemm(step.precision, MatRef::new(rows, h), &weight.t().into(), &mut lowered, Epilogue::Overwrite);
            let bias = &step.flat[dense.bias.clone()][head * d..][..d];
            let offsets = self.offsets[head..].iter().step_by(heads);
            for ((y, lowered), &offset) in y.chunks_exact_mut(h).zip(lowered.chunks_exact(d)).zip(offsets) {
                let y = &mut y[head * d..][..d];
                y.copy_from_slice(lowered);
                axpy(offset, bias, y);
            }
        }
    }

    /// Adds the gradients of weight and bias, Σ y zᵀ and Σ o y: from what is lifted and the gradient of [`Absorbed::lift`], or
    /// from what is lowered and the gradient of [`Absorbed::lower`].
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn parameters(&self, step: &StepContext, dense: &Linear, y: &[f32], flat: &mut [f32]) {
        let (h, heads) = (step.h, step.heads);
        let (n, d) = (y.len() / h, h / heads);
        let weight = flat[dense.weight.clone()].chunks_exact_mut(d * h);
        for ((head, rows), weight) in self.rows.chunks_exact(n * h).enumerate().zip(weight) {
            let of_outputs = part(step, y, head).t();
            gemm(step.precision, of_outputs, &MatRef::new(rows, h).into(), weight, Epilogue::Accumulate);
        }
        let bias = &mut flat[dense.bias.clone()];
        for (y, offsets) in y.chunks_exact(h).zip(self.offsets.chunks_exact(heads)) {
            let heads = bias.chunks_exact_mut(d).zip(y.chunks_exact(d)).zip(offsets);
            heads.for_each(|((bias, y), &offset)| axpy(offset, y, bias));
        }
    }
}

/// The rows of a weight that give a head's outputs, `[d, H]`.
fn of_head<'a>(step: &StepContext<'a>, dense: &Linear, head: usize) -> &'a [f32] {
    let size = step.h / step.heads * step.h;
    &step.flat[dense.weight.clone()][head * size..][..size]
}

/// A head's columns, `[n, d]`.
fn part<'a>(step: &StepContext, y: &'a [f32], head: usize) -> MatRef<'a> {
    let d = step.h / step.heads;
    MatRef::new(y, step.h).column_range(head * d, d)
}
