//! The feed-forward network: y = LayerNorm(dropout(W₂ f(W₁ x + b₁) + b₂) + x).
//!
//! n is the number of rows, in the last layer that of queries.

use super::step::{DropoutSite, LayerContext};
use crate::fast::cpu::batch::micro_batch::MicroBatch;
use crate::fast::cpu::gemm::Epilogue;
use crate::fast::cpu::ops::activation;
use crate::fast::cpu::ops::layer_norm::{Normalized, add_norm, add_norm_backward, affine};
use crate::fast::cpu::params::grads::Grads;

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Default)]
pub struct FeedForwardActivations {
    /// W₁ x + b₁, `[n, inner]`.
    hidden: Vec<f32>,
    /// `[n, H]`
    norm: Normalized,
}

/// Memory of a thread.
#[derive(Debug, Default)]
pub struct FeedForwardScratch {
    /// f(W₁ x + b₁) or its gradient, `[n, inner]`.
    activated: Vec<f32>,
    /// The gradient of what `dense_2` gave, then x computed anew, `[n, H]`.
    rows: Vec<f32>,
}

/// Writes the output for the input x.
///
/// # Shapes
/// x, out `[n, H]`
pub fn forward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &[f32],
    saved: &mut FeedForwardActivations,
    scratch: &mut FeedForwardScratch,
    out: &mut Vec<f32>,
) {
    let (step, layout) = (layer.step, layer.layout());
    let activated = &mut scratch.activated;
    step.weights.forward(&layout.dense_1, x, &mut saved.hidden);
    activated.resize(saved.hidden.len(), 0.0);
    activation::forward(step.activation, &saved.hidden, activated);
    step.weights.forward(&layout.dense_2, activated, &mut saved.norm.rows);
    out.resize(x.len(), 0.0);
    let dropout = layer.dropout(batch, DropoutSite::FeedForwardOutput);
    add_norm(step.layer_norm(&layout.norm), x, dropout, &mut saved.norm, out);
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
    let FeedForwardScratch { activated, rows } = scratch;
    rows.resize(grad.len(), 0.0);
    let dropout = layer.dropout(batch, DropoutSite::FeedForwardOutput);
    // From here on `grad` is the residual's.
    let norm = step.layer_norm(&layout.norm);
    add_norm_backward(norm, dropout, &saved.norm, grad, rows, into.layer_norm(&layout.norm));
    activated.resize(saved.hidden.len(), 0.0);
    activation::forward(step.activation, &saved.hidden, activated);
    step.weights.backward_params(&layout.dense_2, activated, rows, &mut into.flat);
    step.weights.backward_input(&layout.dense_2, rows, activated, Epilogue::Overwrite);
    activation::backward(step.activation, &saved.hidden, activated);
    affine(step.layer_norm(&layout.attention_norm), &attended.rows, rows);
    step.weights.backward_params(&layout.dense_1, rows, activated, &mut into.flat);
    step.weights.backward_input(&layout.dense_1, activated, grad, Epilogue::Accumulate);
}
