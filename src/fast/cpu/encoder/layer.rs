//! An encoder layer: self-attention, then the feed-forward network.

use super::feed_forward::{self, FeedForwardActivations, FeedForwardScratch};
use super::self_attention::{self, AttentionActivations, AttentionScratch};
use super::step::LayerContext;
use crate::fast::cpu::batch::micro_batch::MicroBatch;
use crate::fast::cpu::params::grads::Grads;

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Default)]
pub struct LayerActivations {
    /// `[rows, H]`
    pub input: Vec<f32>,
    attention: AttentionActivations,
    feed_forward: FeedForwardActivations,
}

/// Memory of a thread.
#[derive(Debug, Default)]
pub struct Scratch {
    attention: AttentionScratch,
    feed_forward: FeedForwardScratch,
    /// The output of self-attention, `[rows, H]` or `[queries, H]`.
    attended: Vec<f32>,
}

/// Writes the output for `saved.input`: a row for every row of the micro-batch, in the last layer for every query.
///
/// # Shapes
/// out `[rows, H]` or `[queries, H]`
pub fn forward(
    layer: LayerContext,
    batch: &MicroBatch,
    saved: &mut LayerActivations,
    scratch: &mut Scratch,
    out: &mut Vec<f32>,
) {
    let LayerActivations { input, attention, feed_forward } = saved;
    let attended = &mut scratch.attended;
    self_attention::forward(layer, batch, input, attention, attended);
    feed_forward::forward(layer, batch, attended, feed_forward, &mut scratch.feed_forward, out);
}

/// Turns the gradient of the output, in place, into that of the input.
///
/// # Shapes
/// grad `[rows, H]` or `[queries, H]` → `[rows, H]`
pub fn backward(
    layer: LayerContext,
    batch: &MicroBatch,
    saved: &LayerActivations,
    scratch: &mut Scratch,
    grad: &mut Vec<f32>,
    into: &mut Grads,
) {
    let LayerActivations { input, attention, feed_forward } = saved;
    feed_forward::backward(layer, batch, &attention.norm, feed_forward, &mut scratch.feed_forward, grad, into);
    self_attention::backward(layer, batch, input, attention, &mut scratch.attention, grad, into);
}
