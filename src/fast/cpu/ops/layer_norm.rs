//! LayerNorm with what surrounds it: a dropout of the new part and the residual, row by row, in one pass.

use super::dropout::{Dropout, Stream};
use super::simd::{axpy, dot, sum};

/// LayerNorm's parameters.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

/// A dropout with the stream of its place in the model; rows are numbered in the batch.
#[derive(Debug, Clone, Copy)]
pub struct RowDropout<'a> {
    pub dropout: Option<Dropout>,
    pub place: Stream,
    /// The number of every row.
    pub rows: &'a [u64],
}

impl RowDropout<'_> {
    /// The mask of a row; `false` where nothing is dropped.
    #[inline(always)]
    pub fn mask(&self, row: usize, mask: &mut [f32]) -> bool {
        let Some(dropout) = self.dropout else { return false };
        dropout.mask(self.place.part(self.rows[row]), mask);
        true
    }
}

/// `out` = LayerNorm(dropout(y) + residual). Leaves in `y` the normalised rows before weight and bias, and in `rstd`
/// 1 / σ of every row, which the backward pass needs.
///
/// # Shapes
/// y, residual, out `[n, H]`, rstd `[n]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn forward(norm: LayerNorm, y: &mut [f32], residual: &[f32], drops: RowDropout, rstd: &mut [f32], out: &mut [f32]) {
    let h = norm.weight.len();
    let mut mask = vec![0.0; h];
    let rows = y.chunks_exact_mut(h).zip(residual.chunks_exact(h)).zip(out.chunks_exact_mut(h));
    for (row, ((y, residual), out)) in rows.enumerate() {
        if drops.mask(row, &mut mask) {
            for ((y, m), r) in y.iter_mut().zip(&mask).zip(residual) {
                *y = *y * m + r;
            }
        } else {
            axpy(1.0, residual, y);
        }
        rstd[row] = normalize(norm, y, out);
    }
}

/// LayerNorm of one row, in place, and with weight and bias in `out`; gives 1 / σ.
#[inline(always)]
fn normalize(norm: LayerNorm, y: &mut [f32], out: &mut [f32]) -> f32 {
    let n = y.len() as f32;
    let mean = sum(y) / n;
    y.iter_mut().for_each(|y| *y -= mean);
    let rstd = 1.0 / (dot(y, y) / n + norm.eps).sqrt();
    y.iter_mut().for_each(|y| *y *= rstd);
    for (((out, y), w), b) in out.iter_mut().zip(&*y).zip(norm.weight).zip(norm.bias) {
        *out = y * w + b;
    }
    rstd
}

/// `out` = dropout(LayerNorm(y)), as behind the item embedding; leaves normalised rows in `y` and 1 / σ in `rstd`.
///
/// # Shapes
/// y, out `[n, H]`, rstd `[n]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn embed(norm: LayerNorm, y: &mut [f32], drops: RowDropout, rstd: &mut [f32], out: &mut [f32]) {
    let h = norm.weight.len();
    let mut mask = vec![0.0; h];
    for (row, (y, out)) in y.chunks_exact_mut(h).zip(out.chunks_exact_mut(h)).enumerate() {
        rstd[row] = normalize(norm, y, out);
        if drops.mask(row, &mut mask) {
            out.iter_mut().zip(&mask).for_each(|(out, m)| *out *= m);
        }
    }
}

/// The gradient of [`embed`]: turns the gradient of `out`, in place, into that of `y`.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn embed_backward(
    norm: LayerNorm,
    normalized: &[f32],
    rstd: &[f32],
    drops: RowDropout,
    grad: &mut [f32],
    (dweight, dbias): (&mut [f32], &mut [f32]),
) {
    let h = norm.weight.len();
    let mut mask = vec![0.0; h];
    for (row, (normalized, grad)) in normalized.chunks_exact(h).zip(grad.chunks_exact_mut(h)).enumerate() {
        if drops.mask(row, &mut mask) {
            grad.iter_mut().zip(&mask).for_each(|(grad, m)| *grad *= m);
        }
        normalize_backward(norm, normalized, rstd[row], grad, dweight, dbias);
    }
}

/// The output of a LayerNorm from its normalised rows.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn scale(norm: LayerNorm, normalized: &[f32], out: &mut [f32]) {
    let h = norm.weight.len();
    for (x, out) in normalized.chunks_exact(h).zip(out.chunks_exact_mut(h)) {
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(norm.weight).zip(norm.bias) {
            *out = x * w + b;
        }
    }
}

/// The gradient of [`forward`]: turns the gradient of `out`, in place, into that of the residual, and writes that of the
/// new part before its dropout to `dy`. Adds to the gradients of weight and bias.
///
/// # Shapes
/// normalized, grad, dy `[n, H]`, rstd `[n]`, dweight, dbias `[H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn backward(
    norm: LayerNorm,
    normalized: &[f32],
    rstd: &[f32],
    drops: RowDropout,
    grad: &mut [f32],
    dy: &mut [f32],
    (dweight, dbias): (&mut [f32], &mut [f32]),
) {
    let h = norm.weight.len();
    let mut mask = vec![0.0; h];
    let rows = normalized.chunks_exact(h).zip(grad.chunks_exact_mut(h)).zip(dy.chunks_exact_mut(h));
    for (row, ((normalized, grad), dy)) in rows.enumerate() {
        normalize_backward(norm, normalized, rstd[row], grad, dweight, dbias);
        if drops.mask(row, &mut mask) {
            for ((dy, g), m) in dy.iter_mut().zip(&*grad).zip(&mask) {
                *dy = g * m;
            }
        } else {
            dy.copy_from_slice(grad);
        }
    }
}

/// The gradient of [`normalize`], in place.
#[inline(always)]
fn normalize_backward(
    norm: LayerNorm,
    normalized: &[f32],
    rstd: f32,
    grad: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let h = grad.len();
    let (normalized, weight) = (&normalized[..h], &norm.weight[..h]);
    let (dweight, dbias) = (&mut dweight[..h], &mut dbias[..h]);
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
