//! LayerNorm, fused with the dropout and the residual beside it: one pass over each row.
//!
//! x̂ = (x − mean(x)) · rstd with rstd = 1 / √(var(x) + ε), and LayerNorm(x) = x̂ · weight + bias. Two forms are
//! needed:
//! * [`add_norm`]: LayerNorm(dropout(x) + residual), behind attention and feed-forward network;
//! * [`norm_dropout`]: dropout(LayerNorm(x)), behind the embedding.
//!
//! The backward pass needs x̂ and rstd alone ([`Normalized`]). With g = dy · weight,
//! dx = (g − mean(g) − x̂ · mean(g · x̂)) · rstd, dweight = Σ dy · x̂ and dbias = Σ dy.

use super::dropout::RowDropout;
use super::simd::{axpy, dot, sum};
use crate::config::Precision;
use crate::fast::cpu::gemm::OperandBuffer;

/// The parameters of a LayerNorm.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm<'a> {
    /// `[H]`
    pub weight: &'a [f32],
    /// `[H]`
    pub bias: &'a [f32],
    pub eps: f32,
}

/// The gradients of a LayerNorm's parameters, which are added to.
#[derive(Debug)]
pub struct LayerNormGrads<'a> {
    /// `[H]`
    pub weight: &'a mut [f32],
    /// `[H]`
    pub bias: &'a mut [f32],
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Default)]
pub struct Normalized {
    /// x̂ `[n, H]`.
    pub rows: OperandBuffer,
    /// `[n]`
    pub rstd: Vec<f32>,
}

impl Normalized {
    /// Makes room for n rows; with `None` for their rstd alone.
    pub fn resize(&mut self, saved: impl Into<Option<Precision>>, n: usize, h: usize) {
        self.rows.resize(saved, n * h);
        self.rstd.resize(n, 0.0);
    }
}

/// Replaces `hidden` by LayerNorm(dropout(x) + hidden), in a block of rows that begins with row `first` of all. Overwrites
/// x.
///
/// # Shapes
/// x, hidden `[rows, H]`; saved, of all rows, `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_norm(
    norm: LayerNorm,
    dropout: RowDropout,
    first: usize,
    x: &mut [f32],
    saved: &mut Normalized,
    hidden: &mut [f32],
) {
    let h = norm.weight.len();
    let mut mask = vec![0.0; h];
    let Normalized { rows, rstd } = saved;
    for (row, (x, hidden)) in (first..).zip(x.chunks_exact_mut(h).zip(hidden.chunks_exact_mut(h))) {
        if dropout.mask(row, &mut mask) {
            for ((x, m), r) in x.iter_mut().zip(&mask).zip(&*hidden) {
                *x = *x * m + r;
            }
        } else {
            axpy(1.0, hidden, x);
        }
        rstd[row] = normalize(norm, x, hidden);
        rows.store(row * h, x);
    }
}

/// The gradient of [`add_norm`]: turns that of its output, in place, into that of the residual, and writes that of x to
/// `dx`.
///
/// # Shapes
/// saved.rows, grad, dx `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_norm_backward(
    norm: LayerNorm,
    dropout: RowDropout,
    saved: &Normalized,
    grad: &mut [f32],
    dx: &mut OperandBuffer,
    mut into: LayerNormGrads,
) {
    let h = norm.weight.len();
    let [mut mask, mut normalized] = [(); 2].map(|()| vec![0.0; h]);
    for (row, grad) in grad.chunks_exact_mut(h).enumerate() {
        saved.rows.load(row * h, &mut normalized);
        normalize_backward(norm, &normalized, saved.rstd[row], grad, &mut into);
        if dropout.mask(row, &mut mask) {
            mask.iter_mut().zip(&*grad).for_each(|(m, g)| *m *= g);
            dx.store(row * h, &mask);
        } else {
            dx.store(row * h, grad);
        }
    }
}

/// Replaces x by dropout(LayerNorm(x)).
///
/// # Shapes
/// x, saved.rows `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn norm_dropout(norm: LayerNorm, dropout: RowDropout, x: &mut [f32], saved: &mut Normalized) {
    let h = norm.weight.len();
    let [mut mask, mut normalized] = [(); 2].map(|()| vec![0.0; h]);
    for (row, x) in x.chunks_exact_mut(h).enumerate() {
        normalized.copy_from_slice(x);
        saved.rstd[row] = normalize(norm, &mut normalized, x);
        saved.rows.store(row * h, &normalized);
        if dropout.mask(row, &mut mask) {
            x.iter_mut().zip(&mask).for_each(|(x, m)| *x *= m);
        }
    }
}

/// The gradient of [`norm_dropout`]: turns that of its output, in place, into that of x.
///
/// # Shapes
/// saved.rows, grad `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn norm_dropout_backward(
    norm: LayerNorm,
    dropout: RowDropout,
    saved: &Normalized,
    grad: &mut [f32],
    mut into: LayerNormGrads,
) {
    let h = norm.weight.len();
    let [mut mask, mut normalized] = [(); 2].map(|()| vec![0.0; h]);
    for (row, grad) in grad.chunks_exact_mut(h).enumerate() {
        if dropout.mask(row, &mut mask) {
            grad.iter_mut().zip(&mask).for_each(|(grad, m)| *grad *= m);
        }
        saved.rows.load(row * h, &mut normalized);
        normalize_backward(norm, &normalized, saved.rstd[row], grad, &mut into);
    }
}

/// `out` = x̂ · weight + bias: the output of a LayerNorm anew.
///
/// # Shapes
/// normalized, out `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn affine(norm: LayerNorm, normalized: &OperandBuffer, out: &mut OperandBuffer) {
    let h = norm.weight.len();
    let mut row = vec![0.0; h];
    for start in (0..normalized.size()).step_by(h) {
        normalized.load(start, &mut row);
        for ((x, w), b) in row.iter_mut().zip(norm.weight).zip(norm.bias) {
            *x = *x * w + b;
        }
        out.store(start, &row);
    }
}

/// x̂ of one row, in place, and its LayerNorm in `out`; gives rstd.
#[inline(always)]
fn normalize(norm: LayerNorm, x: &mut [f32], out: &mut [f32]) -> f32 {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    x.iter_mut().for_each(|x| *x -= mean);
    let rstd = 1.0 / (dot(x, x) / n + norm.eps).sqrt();
    x.iter_mut().for_each(|x| *x *= rstd);
    for (((out, x), w), b) in out.iter_mut().zip(&*x).zip(norm.weight).zip(norm.bias) {
        *out = x * w + b;
    }
    rstd
}

/// The gradient of [`normalize`], in place.
#[inline(always)]
fn normalize_backward(norm: LayerNorm, normalized: &[f32], rstd: f32, grad: &mut [f32], into: &mut LayerNormGrads) {
    let h = grad.len();
    let (normalized, weight) = (&normalized[..h], &norm.weight[..h]);
    let (dweight, dbias) = (&mut into.weight[..h], &mut into.bias[..h]);
    for i in 0..h {
        dweight[i] += grad[i] * normalized[i];
        dbias[i] += grad[i];
        grad[i] *= weight[i];
    }
    let (mean, along) = (sum(grad) / h as f32, dot(grad, normalized) / h as f32);
    for (g, x) in grad.iter_mut().zip(normalized) {
        *g = (*g - mean - x * along) * rstd;
    }
}
