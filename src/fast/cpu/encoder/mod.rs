//! The encoder on a micro-batch: embedding, layers, and back.
//!
//! [`step`] holds what all micro-batches of a step read; a layer is [`self_attention`], then [`feed_forward`];
//! [`input`] is what tells SASRecD, SASRec and SASRecF apart; [`item_cache`] is for evaluations, [`item_sums`] for the
//! gradient of the item embedding.

pub mod feed_forward;
pub mod input;
pub mod item_cache;
pub mod item_sums;
pub mod self_attention;
pub mod step;

use std::mem::take;

use self::feed_forward::{FeedForwardActivations, FeedForwardScratch};
use self::self_attention::{AttentionActivations, AttentionScratch};
use self::step::StepContext;
use super::attention::geometry::Queries;
use super::batch::micro_batch::MicroBatch;
use super::ops::layer_norm::{Normalized, norm_dropout, norm_dropout_backward};
use super::params::grads::Grads;

/// A micro-batch, and what it keeps between its forward and its backward pass.
#[derive(Debug, Default)]
pub struct Activations {
    pub batch: MicroBatch,
    /// What SASRecF projects, `[rows, (1 + attributes) · H]`.
    concatenated: Vec<f32>,
    /// Of the LayerNorm behind the embedding, `[rows, H]`.
    embedding: Normalized,
    layers: Vec<LayerActivations>,
    /// The output of the last items, `[sequences, H]`, then its gradient; after the backward pass the gradient of
    /// the items' vectors, `[rows, H]`.
    pub output: Vec<f32>,
}

/// What the forward pass of a layer keeps for its backward pass.
#[derive(Debug, Default)]
struct LayerActivations {
    /// `[rows, H]`
    input: Vec<f32>,
    attention: AttentionActivations,
    feed_forward: FeedForwardActivations,
}

/// Memory of a thread. The last layer has its own: in memory shared by all layers its fewer queries would shrink the
/// vectors, and the next layer would fill them with zeros again.
#[derive(Debug, Default)]
pub struct Scratch {
    last: LayerScratch,
    others: LayerScratch,
}

/// What a layer needs in passing.
#[derive(Debug, Default)]
struct LayerScratch {
    attention: AttentionScratch,
    feed_forward: FeedForwardScratch,
    /// The output of self-attention, `[rows, H]` or `[queries, H]`.
    attended: Vec<f32>,
}

impl Scratch {
    fn of(&mut self, queries: Queries) -> &mut LayerScratch {
        match queries {
            Queries::All => &mut self.others,
            Queries::Last => &mut self.last,
        }
    }
}

impl Activations {
    /// Takes the rows through all layers; leaves the output.
    pub fn forward(&mut self, step: &StepContext, scratch: &mut Scratch) {
        self.layers.resize_with(step.layout.layers.len(), LayerActivations::default);
        let mut hidden = take(&mut self.layers[0].input);
        let (positions, rows) = (&step.layout.position_embedding, &mut self.embedding.rows);
        step.input.forward(&step.weights, &step.look_up, positions, &self.batch, &mut self.concatenated, rows);
        hidden.resize(self.batch.n_rows() * step.h, 0.0);
        let (norm, dropout) = (step.layer_norm(&step.layout.norm), step.embedding_dropout(&self.batch));
        norm_dropout(norm, dropout, &mut self.embedding, &mut hidden);
        self.layers[0].input = hidden;
        for k in 0..self.layers.len() {
            let (layer, mut out) = (step.layer(k), take(self.output_of(k)));
            let LayerActivations { input, attention, feed_forward } = &mut self.layers[k];
            let LayerScratch { attended, feed_forward: inner, .. } = scratch.of(layer.queries());
            self_attention::forward(layer, &self.batch, input, attention, attended);
            feed_forward::forward(layer, &self.batch, attended, feed_forward, inner, &mut out);
            *self.output_of(k) = out;
        }
    }

    /// Where the output of layer k goes: to the next layer, or out.
    fn output_of(&mut self, k: usize) -> &mut Vec<f32> {
        match self.layers.get_mut(k + 1) {
            Some(next) => &mut next.input,
            None => &mut self.output,
        }
    }

    /// Turns the gradient of the output into that of the items' vectors.
    pub fn backward(&mut self, step: &StepContext, scratch: &mut Scratch, into: &mut Grads) {
        let mut grad = take(&mut self.output);
        for (k, LayerActivations { input, attention, feed_forward }) in self.layers.iter().enumerate().rev() {
            let (layer, batch) = (step.layer(k), &self.batch);
            let LayerScratch { attention: outer, feed_forward: inner, .. } = scratch.of(layer.queries());
            feed_forward::backward(layer, batch, &attention.norm, feed_forward, inner, &mut grad, into);
            self_attention::backward(layer, batch, input, attention, outer, &mut grad, into);
        }
        let (norm, dropout) = (step.layer_norm(&step.layout.norm), step.embedding_dropout(&self.batch));
        norm_dropout_backward(norm, dropout, &self.embedding, &mut grad, into.layer_norm(&step.layout.norm));
        let (positions, concatenated) = (&step.layout.position_embedding, &mut self.concatenated);
        step.input.backward(&step.weights, positions, &self.batch, concatenated, &mut grad, &mut into.flat);
        self.output = grad;
    }

    /// The item of every row, and the gradient of its vector.
    pub fn item_gradients(&self) -> impl Iterator<Item = (u32, &[f32])> {
        let h = self.output.len() / self.batch.n_rows();
        self.batch.items.iter().copied().zip(self.output.chunks_exact(h))
    }
}
