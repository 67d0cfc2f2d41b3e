//! The last layer's keys and values, taken through its queries.
//!
//! That layer has one query a sequence. Its score of a row x in a head is q · (W x + b) = (Wᵀ q) · x + q · b, and its context is
//! Σ pⱼ (W xⱼ + b) = W (Σ pⱼ xⱼ) + b Σ pⱼ: so that a product for every query stands for one for every row. Queries are lifted to
//! the width of the input with the key's weight, and sums of rows are lowered to a head's width with the value's.

use crate::fast::cpu::encoder::step::Frame;
use crate::fast::cpu::gemm::{Matrix, To, product};
use crate::fast::cpu::ops::simd::{axpy, dots};
use crate::fast::cpu::params::layout::Dense;

/// Rows of the input's width for every head, and a number beside each.
#[derive(Debug, Default)]
pub struct Lifted {
    /// `[heads, n, H]`
    pub rows: Vec<f32>,
    /// What belongs to the bias, `[n, heads]`.
    pub offsets: Vec<f32>,
}

impl Lifted {
    pub fn resize(&mut self, frame: &Frame, n: usize) {
        self.rows.resize(frame.heads * n * frame.h, 0.0);
        self.offsets.resize(n * frame.heads, 0.0);
    }

    /// Wᵀ y and y · b, head by head.
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn lift(&mut self, frame: &Frame, dense: &Dense, y: &[f32]) {
        let (h, heads) = (frame.h, frame.heads);
        let n = y.len() / h;
        self.resize(frame, n);
        for (head, rows) in self.rows.chunks_exact_mut(n * h).enumerate() {
            let weight = Matrix::new(of_head(frame, dense, head), h);
            product(frame.precision, part(frame, y, head), &weight.into(), rows, To::Nothing);
        }
        let bias = &frame.flat[dense.bias.clone()];
        for (y, offsets) in y.chunks_exact(h).zip(self.offsets.chunks_exact_mut(heads)) {
            dots(y, bias, offsets);
        }
    }

    /// W z + o b, head by head, of rows z and their offsets o.
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn lower(&self, frame: &Frame, dense: &Dense, y: &mut [f32]) {
        let (h, heads) = (frame.h, frame.heads);
        let (n, d) = (y.len() / h, h / heads);
        let mut lowered = vec![0.0; n * d];
        for (head, rows) in self.rows.chunks_exact(n * h).enumerate() {
            let weight = Matrix::new(of_head(frame, dense, head), h);
            product(frame.precision, Matrix::new(rows, h), &weight.t().into(), &mut lowered, To::Nothing);
            let bias = &frame.flat[dense.bias.clone()][head * d..][..d];
            let offsets = self.offsets[head..].iter().step_by(heads);
            for ((y, lowered), &offset) in y.chunks_exact_mut(h).zip(lowered.chunks_exact(d)).zip(offsets) {
                let y = &mut y[head * d..][..d];
                y.copy_from_slice(lowered);
                axpy(offset, bias, y);
            }
        }
    }

    /// Adds the gradients of weight and bias, Σ y zᵀ and Σ o y: from what is lifted and the gradient of [`Lifted::lift`], or
    /// from what is lowered and the gradient of [`Lifted::lower`].
    ///
    /// # Shapes
    /// y `[n, H]`
    pub fn parameters(&self, frame: &Frame, dense: &Dense, y: &[f32], flat: &mut [f32]) {
        let (h, heads) = (frame.h, frame.heads);
        let (n, d) = (y.len() / h, h / heads);
        let weight = flat[dense.weight.clone()].chunks_exact_mut(d * h);
        for ((head, rows), weight) in self.rows.chunks_exact(n * h).enumerate().zip(weight) {
            let of_outputs = part(frame, y, head).t();
            product(frame.precision, of_outputs, &Matrix::new(rows, h).into(), weight, To::Old);
        }
        let bias = &mut flat[dense.bias.clone()];
        for (y, offsets) in y.chunks_exact(h).zip(self.offsets.chunks_exact(heads)) {
            let heads = bias.chunks_exact_mut(d).zip(y.chunks_exact(d)).zip(offsets);
            heads.for_each(|((bias, y), &offset)| axpy(offset, y, bias));
        }
    }
}

/// The rows of a weight that give a head's outputs, `[d, H]`.
fn of_head<'a>(frame: &Frame<'a>, dense: &Dense, head: usize) -> &'a [f32] {
    let size = frame.h / frame.heads * frame.h;
    &frame.flat[dense.weight.clone()][head * size..][..size]
}

/// A head's columns, `[n, d]`.
fn part<'a>(frame: &Frame, y: &'a [f32], head: usize) -> Matrix<'a> {
    let d = frame.h / frame.heads;
    Matrix::new(y, frame.h).part(head * d, d)
}
