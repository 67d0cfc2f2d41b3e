//! What enters the first layer before its LayerNorm: the item's vector, with all that SASRec and SASRecF add to it.

use std::ops::Range;

use crate::config::{Architecture, AttributeKind, Pooling};
use crate::fast::cpu::batch::micro_batch::MicroBatch;
use crate::fast::cpu::batch::tokens::Tokens;
use crate::fast::cpu::gemm::Epilogue;
use crate::fast::cpu::ops::simd::axpy;
use crate::fast::cpu::params::layout::{Layout, LinearRange};
use crate::fast::cpu::params::linear::Weights;
use crate::fast::cpu::params::look_up::LookUp;
use crate::model::Model;

/// The input, by model.
#[derive(Debug)]
pub enum Input {
    /// SASRecD: the item.
    Item,
    /// SASRec: item + position.
    Position,
    /// SASRecF: W \[item; attributes\] + b + position.
    Attributes(AttributeInput),
}

/// SASRecF's attributes.
#[derive(Debug)]
pub struct AttributeInput {
    pooling: Pooling,
    /// In the order of the projection's inputs: those of kind `token` first.
    columns: Vec<Column>,
    /// The projection of the item's vector and those of the attributes.
    concat_layer: LinearRange,
}

/// An attribute of SASRecF.
#[derive(Debug)]
struct Column {
    kind: AttributeKind,
    tokens: Tokens,
    /// Its embeddings in the layout, `[vocabulary, H]`.
    embeddings: Range<usize>,
}

impl Input {
    pub fn new(model: &Model, layout: &Layout) -> Self {
        let config = model.config();
        let concat_layer = match (config.model, &layout.concat_layer) {
            (Architecture::SasRecF, Some(concat_layer)) => concat_layer.clone(),
            (Architecture::SasRecD, _) => return Self::Item,
            _ => return Self::Position,
        };
        let h = config.hidden_size as usize;
        let features = model.features();
        // The `token` attributes share a tensor, so that embeddings lie in the order of the columns.
        let mut next = layout.feature_embeddings.start;
        let kinds = [AttributeKind::Token, AttributeKind::TokenSeq];
        let ordered = kinds.iter().flat_map(|kind| features.iter().filter(move |feature| feature.kind == *kind));
        let columns = ordered.map(|feature| {
            let embeddings = next..next + feature.vocab as usize * h;
            next = embeddings.end;
            Column { kind: feature.kind, tokens: Tokens::new(feature), embeddings }
        });
        Self::Attributes(AttributeInput { pooling: config.pooling_mode, columns: columns.collect(), concat_layer })
    }

    /// The input of a micro-batch, by the items' vectors and the place of the position embedding. `concatenated` keeps what
    /// SASRecF projects for the backward pass.
    ///
    /// # Shapes
    /// concatenated `[rows, (1 + attributes) · H]`, out `[rows, H]`
    pub fn forward(
        &self,
        weights: &Weights,
        items: &LookUp,
        positions: &Range<usize>,
        batch: &MicroBatch,
        concatenated: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) {
        let h = items.width;
        match self {
            Self::Item | Self::Position => {
                out.clear();
                batch.items.iter().for_each(|&item| out.extend_from_slice(items.row(item as usize)));
            }
            Self::Attributes(attributes) => {
                let width = attributes.concat_layer.inputs;
                concatenated.resize(batch.n_rows() * width, 0.0);
                for (&item, row) in batch.items.iter().zip(concatenated.chunks_exact_mut(width)) {
                    let (own, vectors) = row.split_at_mut(h);
                    own.copy_from_slice(items.row(item as usize));
                    attributes.look_up(weights.flat, item as usize, h, vectors);
                }
                weights.forward(&attributes.concat_layer, &*concatenated, out);
            }
        }
        if !matches!(self, Self::Item) {
            let positions = &weights.flat[positions.clone()];
            for (&position, out) in batch.positions.iter().zip(out.chunks_exact_mut(h)) {
                axpy(1.0, &positions[position as usize * h..][..h], out);
            }
        }
    }

    /// Turns the gradient of the input, `[rows, H]`, into that of the items' vectors; adds that of all else to
    /// `flat_grad`. Overwrites `concatenated`.
    pub fn backward(
        &self,
        weights: &Weights,
        positions: &Range<usize>,
        batch: &MicroBatch,
        concatenated: &mut [f32],
        grad: &mut [f32],
        flat_grad: &mut [f32],
    ) {
        if matches!(self, Self::Item) {
            return;
        }
        let h = grad.len() / batch.n_rows();
        let dpositions = &mut flat_grad[positions.clone()];
        for (&position, grad) in batch.positions.iter().zip(grad.chunks_exact(h)) {
            axpy(1.0, grad, &mut dpositions[position as usize * h..][..h]);
        }
        if let Self::Attributes(attributes) = self {
            let linear = &attributes.concat_layer;
            weights.backward_params(linear, &*concatenated, &*grad, flat_grad);
            weights.backward_input(linear, &*grad, concatenated, Epilogue::Overwrite);
            let rows = concatenated.chunks_exact(linear.inputs).zip(grad.chunks_exact_mut(h));
            for (&item, (dconcatenated, grad)) in batch.items.iter().zip(rows) {
                let (own, dvectors) = dconcatenated.split_at(h);
                grad.copy_from_slice(own);
                attributes.backward(weights.flat, item as usize, dvectors, h, flat_grad);
            }
        }
    }
}

/// Subtracted from the padding token's values under `max` pooling, as in `model/embedding.rs`.
const NO_TOKEN: f32 = 1e9;

impl AttributeInput {
    /// The vectors of an item's attributes: the sum, mean or maximum of its tokens' embeddings.
    ///
    /// # Shapes
    /// out `[attributes, H]`
    fn look_up(&self, flat: &[f32], item: usize, h: usize, out: &mut [f32]) {
        for (Column { kind, tokens, embeddings }, out) in self.columns.iter().zip(out.chunks_exact_mut(h)) {
            let embeddings = &flat[embeddings.clone()];
            let row = |token: usize| &embeddings[token * h..][..h];
            match (kind, self.pooling) {
                (AttributeKind::Token, _) => out.copy_from_slice(row(tokens.padded(item)[0] as usize)),
                (AttributeKind::TokenSeq, Pooling::Max) => {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = first_largest(tokens.padded(item), |token| row(token)[i]).value;
                    }
                }
                (AttributeKind::TokenSeq, Pooling::Sum | Pooling::Mean) => {
                    let weight = self.token_weight(tokens, item);
                    out.fill(0.0);
                    tokens.of(item).for_each(|token| axpy(weight, row(token), out));
                }
            }
        }
    }

    /// Adds to the gradients of the embeddings what follows from that of an item's vectors.
    fn backward(&self, flat: &[f32], item: usize, dvectors: &[f32], h: usize, flat_grad: &mut [f32]) {
        for (Column { kind, tokens, embeddings }, grad) in self.columns.iter().zip(dvectors.chunks_exact(h)) {
            let (values, into) = (&flat[embeddings.clone()], &mut flat_grad[embeddings.clone()]);
            match (kind, self.pooling) {
                (AttributeKind::Token, _) => axpy(1.0, grad, &mut into[tokens.padded(item)[0] as usize * h..][..h]),
                (AttributeKind::TokenSeq, Pooling::Max) => {
                    for (i, grad) in grad.iter().enumerate() {
                        let largest = first_largest(tokens.padded(item), |token| values[token * h + i]);
                        into[largest.token * h + i] += grad;
                    }
                }
                (AttributeKind::TokenSeq, Pooling::Sum | Pooling::Mean) => {
                    let weight = self.token_weight(tokens, item);
                    tokens.of(item).for_each(|token| axpy(weight, grad, &mut into[token * h..][..h]));
                }
            }
        }
    }

    /// The weight of each token in an item's sum or mean.
    fn token_weight(&self, tokens: &Tokens, item: usize) -> f32 {
        if self.pooling == Pooling::Mean { 1.0 / tokens.of(item).count() as f32 } else { 1.0 }
    }
}

/// A token and its value.
#[derive(Clone, Copy)]
struct Valued {
    token: usize,
    value: f32,
}

/// The token of the largest value, the first of equal ones. A NaN is the largest of all, as in libtorch.
fn first_largest(tokens: &[i64], value: impl Fn(usize) -> f32) -> Valued {
    let valued = tokens.iter().map(|&token| token as usize).map(|token| {
        let value = value(token) - if token == 0 { NO_TOKEN } else { 0.0 };
        Valued { token, value }
    });
    let larger = |max: Valued, other: Valued| if max.value >= other.value || max.value.is_nan() { max } else { other };
    valued.reduce(larger).expect("an attribute has a width")
}
