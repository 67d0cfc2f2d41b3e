//! The feed-forward network: y = LayerNorm(dropout(W₂ f(W₁ x + b₁) + b₂) + x).
//!
//! n is the number of rows, in the last layer that of queries.

use super::step::{DropoutSite, LayerContext};
use crate::fast::cpu::batch::micro_batch::MicroBatch;
use crate::fast::cpu::gemm::{Epilogue, Numbers, OperandBuffer};
use crate::fast::cpu::ops::activation;
use crate::fast::cpu::ops::layer_norm::{Normalized, add_norm, add_norm_backward, affine};
use crate::fast::cpu::params::grads::Grads;

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Default)]
pub struct FeedForwardActivations {
    /// W₁ x + b₁, `[n, inner]`.
    inner: OperandBuffer,
    /// `[n, H]`
    norm: Normalized,
}

/// Memory of a thread.
#[derive(Debug, Default)]
pub struct FeedForwardScratch {
    /// f(W₁ x + b₁), `[n, inner]`.
    activated: OperandBuffer,
    /// The gradient of W₁ x + b₁, `[n, inner]`.
    dinner: OperandBuffer,
    /// The gradient of what `dense_2` gave, then x computed anew, `[n, H]`.
    rows: OperandBuffer,
    /// A block of W₁ x + b₁.
    block: Vec<f32>,
}

/// Replaces `hidden`, the input, by the output. x is the input as an operand; where none is stored, `hidden` is it.
///
/// # Shapes
/// x, hidden `[n, H]`
pub fn forward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &OperandBuffer,
    saved: &mut FeedForwardActivations,
    scratch: &mut FeedForwardScratch,
    hidden: &mut [f32],
) {
    let (step, layout) = (layer.step, layer.layout());
    let (h, width) = (step.h, layout.dense_1.bias.len());
    let n = hidden.len() / h;
    let FeedForwardActivations { inner, norm } = saved;
    let activated = &mut scratch.activated;
    inner.resize(step.saved, n * width);
    activated.resize(step.weights.precision, n * width);
    norm.resize(step.saved, n, h);
    let x = if matches!(x, OperandBuffer::Unread) { Numbers::from(&*hidden) } else { x.into() };
    step.weights.forward_by_rows(&layout.dense_1, x, |first, block| {
        inner.store(first * width, block);
        activation::forward(step.activation, block);
        activated.store(first * width, block);
    });
    let dropout = layer.dropout(batch, DropoutSite::FeedForwardOutput);
    let parameters = step.layer_norm(&layout.norm);
    step.weights.forward_by_rows(&layout.dense_2, &*activated, |first, block| {
        let hidden = &mut hidden[first * h..][..block.len()];
        add_norm(parameters, dropout, first, block, norm, hidden);
    });
}

/// Turns the gradient of the output, in place, into that of x. x is not kept: it is the attention's LayerNorm of
/// `attended`.
///
/// # Shapes
/// grad `[n, H]`
pub fn backward(
    layer: LayerContext,
    batch: &MicroBatch,
    attended: &Normalized,
    saved: &FeedForwardActivations,
    scratch: &mut FeedForwardScratch,
    grad: &mut [f32],
    into: &mut Grads,
) {
    let (step, layout) = (layer.step, layer.layout());
    let (width, precision) = (layout.dense_1.bias.len(), step.weights.precision);
    let FeedForwardScratch { activated, dinner, rows, block: x } = scratch;
    [&mut *activated, &mut *dinner].into_iter().for_each(|rows| rows.resize(precision, saved.inner.size()));
    rows.resize(precision, grad.len());
    let dropout = layer.dropout(batch, DropoutSite::FeedForwardOutput);
    // From here on `grad` is the residual's.
    let norm = step.layer_norm(&layout.norm);
    add_norm_backward(norm, dropout, &saved.norm, grad, rows, into.layer_norm(&layout.norm));
    step.weights.backward_input_by_rows(&layout.dense_2, &*rows, |first, block| {
        x.resize(block.len(), 0.0);
        saved.inner.load(first * width, x);
        activation::backward(step.activation, x, block);
        activated.store(first * width, x);
        dinner.store(first * width, block);
    });
    step.weights.backward_params(&layout.dense_2, &*activated, &*rows, &mut into.flat);
    affine(step.layer_norm(&layout.attention_norm), &attended.rows, rows);
    step.weights.backward_params(&layout.dense_1, &*rows, &*dinner, &mut into.flat);
    step.weights.backward_input(&layout.dense_1, &*dinner, grad, Epilogue::Accumulate);
}
