//! The encoder on a micro-batch: embedding, layers, and back.
//!
//! [`step`] holds what all micro-batches of a step read; [`layer`] is a layer, made of [`self_attention`] and
//! [`feed_forward`]; [`input`] is what tells SASRecD, SASRec and SASRecF apart; [`item_cache`] is for
//! evaluations, [`item_sums`] for the gradient of the item embedding.

pub mod feed_forward;
pub mod input;
pub mod item_cache;
pub mod item_sums;
pub mod layer;
pub mod self_attention;
pub mod step;

use std::mem::take;

use self::layer::{LayerActivations, Scratch};
use self::step::StepContext;
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
    /// The output of the last true items, `[sequences, H]`, then its gradient; after the backward pass the gradient of
    /// the items' vectors, `[rows, H]`.
    pub output: Vec<f32>,
}

impl Activations {
    /// Takes the rows through all layers; leaves the output.
    pub fn forward(&mut self, step: &StepContext, scratch: &mut Scratch) {
        self.layers.resize_with(step.layout.layers.len(), LayerActivations::default);
        let mut hidden = take(&mut self.layers[0].input);
        step.input.forward(step.input_parameters(), &self.batch, &mut self.concatenated, &mut self.embedding.rows);
        hidden.resize(self.batch.n_rows() * step.h, 0.0);
        let (norm, dropout) = (step.layer_norm(&step.layout.norm), step.embedding_dropout(&self.batch));
        norm_dropout(norm, dropout, &mut self.embedding, &mut hidden);
        self.layers[0].input = hidden;
        for k in 0..self.layers.len() {
            let mut out = take(self.output_of(k));
            layer::forward(step.layer(k), &self.batch, &mut self.layers[k], scratch, &mut out);
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
        for (k, saved) in self.layers.iter().enumerate().rev() {
            layer::backward(step.layer(k), &self.batch, saved, scratch, &mut grad, into);
        }
        let (norm, dropout) = (step.layer_norm(&step.layout.norm), step.embedding_dropout(&self.batch));
        norm_dropout_backward(norm, dropout, &self.embedding, &mut grad, into.layer_norm(&step.layout.norm));
        let parameters = step.input_parameters();
        step.input.backward(parameters, &self.batch, &mut self.concatenated, &mut grad, &mut into.flat);
        self.output = grad;
    }

    /// The item of every row, and the gradient of its vector.
    pub fn item_gradients(&self) -> impl Iterator<Item = (u32, &[f32])> {
        let h = self.output.len() / self.batch.n_rows();
        self.batch.items.iter().copied().zip(self.output.chunks_exact(h))
    }
}
