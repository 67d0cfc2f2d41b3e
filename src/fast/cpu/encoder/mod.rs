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
use super::gemm::OperandBuffer;
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
    input: OperandBuffer,
    attention: AttentionActivations,
    feed_forward: FeedForwardActivations,
}

/// Memory of a thread. The last layer has its own: in memory shared by all layers its fewer queries would shrink the
/// vectors, and the next layer would fill them with zeros again.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The input of the next layer, `[rows, H]`.
    hidden: Vec<f32>,
    last: LayerScratch,
    others: LayerScratch,
}

/// What a layer needs in passing.
#[derive(Debug, Default)]
struct LayerScratch {
    attention: AttentionScratch,
    feed_forward: FeedForwardScratch,
    /// The output of self-attention in bfloat16, `[rows, H]` or `[queries, H]`; nothing in float32.
    attended: OperandBuffer,
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
        let Self { batch, concatenated, embedding, layers, output } = self;
        let (h, precision) = (step.h, step.weights.precision);
        layers.resize_with(step.layout.layers.len(), LayerActivations::default);
        let (positions, mut hidden) = (&step.layout.position_embedding, take(&mut scratch.hidden));
        step.input.forward(&step.weights, &step.look_up, positions, batch, concatenated, &mut hidden);
        embedding.resize(step.saved, batch.n_rows(), h);
        norm_dropout(step.layer_norm(&step.layout.norm), step.embedding_dropout(batch), &mut hidden, embedding);
        for (k, LayerActivations { input, attention, feed_forward }) in layers.iter_mut().enumerate() {
            let layer = step.layer(k);
            // Nobody reads the first layer's input where its query, key and value are in the cache.
            let is_cached = k == 0 && step.item_cache.is_some();
            input.resize((!is_cached).then_some(precision), hidden.len());
            input.store(0, &hidden);
            let hidden = match layer.queries() {
                Queries::All => &mut hidden,
                Queries::Last => {
                    output.clear();
                    batch.last.iter().for_each(|&row| output.extend_from_slice(&hidden[row as usize * h..][..h]));
                    &mut *output
                }
            };
            let LayerScratch { attended, feed_forward: inner, .. } = scratch.of(layer.queries());
            self_attention::forward(layer, batch, input, attention, hidden, attended);
            feed_forward::forward(layer, batch, attended, feed_forward, inner, hidden);
        }
        scratch.hidden = hidden;
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
