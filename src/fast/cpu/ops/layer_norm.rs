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
    /// x̂ `[n, H]`; before the forward pass its input x.
    pub rows: Vec<f32>,
    /// `[n]`
    pub rstd: Vec<f32>,
}

/// `out` = LayerNorm(dropout(x) + residual), where `saved.rows` holds x.
///
/// # Shapes
/// saved.rows, residual, out `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_norm(norm: LayerNorm, residual: &[f32], dropout: RowDropout, saved: &mut Normalized, out: &mut [f32]) {
    let h = norm.weight.len();
    let Normalized { rows, rstd } = saved;
    rstd.resize(rows.len() / h, 0.0);
    let mut mask = vec![0.0; h];
    let rows = rows.chunks_exact_mut(h).zip(residual.chunks_exact(h)).zip(out.chunks_exact_mut(h));
    for (row, ((x, residual), out)) in rows.enumerate() {
        if dropout.mask(row, &mut mask) {
            for ((x, m), r) in x.iter_mut().zip(&mask).zip(residual) {
                *x = *x * m + r;
            }
        } else {
            axpy(1.0, residual, x);
        }
        rstd[row] = normalize(norm, x, out);
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
    dx: &mut [f32],
    mut into: LayerNormGrads,
) {
    let h = norm.weight.len();
    let mut mask = vec![0.0; h];
    let rows = saved.rows.chunks_exact(h).zip(grad.chunks_exact_mut(h)).zip(dx.chunks_exact_mut(h));
    for (row, ((normalized, grad), dx)) in rows.enumerate() {
        normalize_backward(norm, normalized, saved.rstd[row], grad, &mut into);
        if dropout.mask(row, &mut mask) {
            for ((dx, g), m) in dx.iter_mut().zip(&*grad).zip(&mask) {
                *dx = g * m;
            }
        } else {
            dx.copy_from_slice(grad);
        }
    }
}

/// `out` = dropout(LayerNorm(x)), where `saved.rows` holds x.
///
/// # Shapes
/// saved.rows, out `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn norm_dropout(norm: LayerNorm, dropout: RowDropout, saved: &mut Normalized, out: &mut [f32]) {
    let h = norm.weight.len();
    let Normalized { rows, rstd } = saved;
    rstd.resize(rows.len() / h, 0.0);
    let mut mask = vec![0.0; h];
    for (row, (x, out)) in rows.chunks_exact_mut(h).zip(out.chunks_exact_mut(h)).enumerate() {
        rstd[row] = normalize(norm, x, out);
        if dropout.mask(row, &mut mask) {
            out.iter_mut().zip(&mask).for_each(|(out, m)| *out *= m);
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
    let mut mask = vec![0.0; h];
    for (row, (normalized, grad)) in saved.rows.chunks_exact(h).zip(grad.chunks_exact_mut(h)).enumerate() {
        if dropout.mask(row, &mut mask) {
            grad.iter_mut().zip(&mask).for_each(|(grad, m)| *grad *= m);
        }
        normalize_backward(norm, normalized, saved.rstd[row], grad, &mut into);
    }
}

/// `out` = x̂ · weight + bias: the output of a LayerNorm anew.
///
/// # Shapes
/// normalized, out `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn affine(norm: LayerNorm, normalized: &[f32], out: &mut [f32]) {
    let h = norm.weight.len();
    for (x, out) in normalized.chunks_exact(h).zip(out.chunks_exact_mut(h)) {
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(norm.weight).zip(norm.bias) {
            *out = x * w + b;
        }
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
