//! What all chunks of a step read: weights and what follows from weights alone.

use rayon::prelude::*;

use super::item_cache::ItemCache;
use super::layer::{Grads, parameters};
use crate::config::{Activation, ModelConfig, Precision};
use crate::fast::cpu::attention::fusion::Fusion;
use crate::fast::cpu::attention::score_table::{Attribute, ScoreTable};
use crate::fast::cpu::gemm::{Epilogue, MatRef, Operand, gemm};
use crate::fast::cpu::ops::dropout::{Dropout, Stream};
use crate::fast::cpu::ops::layer_norm::LayerNorm;
use crate::fast::cpu::ops::simd::total;
use crate::fast::cpu::params::layout::{LayerNormRange, Layout, Linear};

/// The weights of a step, laid out for the kernels.
#[derive(Debug)]
pub struct StepContext<'a> {
    pub layout: &'a Layout,
    /// All parameters but the item embedding, in the layout's places.
    pub flat: &'a [f32],
    /// The item embedding, `[n_items, H]`.
    pub table: &'a [f32],
    /// Of every linear layer by its number: the weight transposed, and as it is.
    factors: Vec<[Operand<'a>; 2]>,
    pub attributes: &'a [Attribute],
    pub precision: Precision,
    pub activation: Activation,
    pub eps: f32,
    /// H.
    pub h: usize,
    pub heads: usize,
    /// L.
    pub length: usize,
    pub hidden_dropout: Option<Dropout>,
    pub attention_dropout: Option<Dropout>,
    /// The step's random numbers.
    pub stream: Stream,
    /// By layer.
    pub fusions: Vec<Fusion<'a>>,
    /// By layer and stream, the attributes' and the position's: what serves the whole step.
    pub shared: Vec<Vec<Option<ScoreTable>>>,
    /// In evaluation, if it pays: rows of all items.
    pub item_cache: Option<ItemCache>,
}

impl<'a> StepContext<'a> {
    /// `dropout`: the step's random numbers; `None` drops nothing.
    pub fn new(
        config: &ModelConfig,
        layout: &'a Layout,
        (flat, table): (&'a [f32], &'a [f32]),
        attributes: &'a [Attribute],
        length: usize,
        precision: Precision,
        dropout: Option<Stream>,
    ) -> Self {
        let drops = |p: f64| dropout.and_then(|_| Dropout::new(p));
        let mut step = Self {
            layout,
            flat,
            table,
            factors: Vec::new(),
            attributes,
            precision,
            activation: config.hidden_act,
            eps: config.layer_norm_eps as f32,
            h: config.hidden_size as usize,
            heads: config.n_heads as usize,
            length,
            hidden_dropout: drops(config.hidden_dropout_prob),
            attention_dropout: drops(config.attn_dropout_prob),
            stream: dropout.unwrap_or(Stream::new(0)),
            fusions: Vec::new(),
            shared: Vec::new(),
            item_cache: None,
        };
        let factors = layout.dense.par_iter().map(|dense| {
            let weight = MatRef::new(&flat[dense.weight.clone()], dense.inputs);
            [weight.t(), weight].map(|weight| Operand::new(precision, weight))
        });
        step.factors = factors.collect();
        for slots in &layout.layers {
            let parts: Vec<&[f32]> = slots.fusion.iter().map(|place| &flat[place.clone()]).collect();
            step.fusions.push(Fusion::new(&parts));
        }
        let pairs = |dense: &Linear, vectors: &[f32]| ScoreTable::new(&step, dense, vectors);
        let layers = layout.layers.par_iter().map(|slots| {
            let attributes = attributes.iter().zip(&slots.attributes);
            let attributes =
                attributes.map(|(attribute, dense)| attribute.shared.then(|| pairs(dense, &attribute.vectors)));
            let position = slots.position.as_ref().map(|dense| Some(pairs(dense, step.position_embedding())));
            attributes.chain(position).collect()
        });
        step.shared = layers.collect();
        step
    }

    /// The position embedding, `[L, H]`.
    pub fn position_embedding(&self) -> &'a [f32] {
        &self.flat[self.layout.position_embedding.clone()]
    }

    /// A linear layer: `out` = x · weightᵀ + bias.
    ///
    /// # Shapes
    /// x `[n, inputs]`, out `[n, outputs]`
    pub fn linear(&self, dense: &Linear, x: &[f32], out: &mut Vec<f32>) {
        let bias = &self.flat[dense.bias.clone()];
        out.resize(x.len() / dense.inputs * bias.len(), 0.0);
        let [weight_t, _] = &self.factors[dense.number];
        gemm(self.precision, MatRef::new(x, dense.inputs), weight_t, out, Epilogue::Bias(bias));
    }

    /// A LayerNorm's parameters.
    pub fn norm(&self, scale: &LayerNormRange) -> LayerNorm<'_> {
        LayerNorm { weight: &self.flat[scale.weight.clone()], bias: &self.flat[scale.bias.clone()], eps: self.eps }
    }

    /// The gradient of a linear layer's input: dy · weight.
    pub fn transposed(&self, dense: &Linear, dy: &[f32], out: &mut [f32], to: Epilogue) {
        let [_, weight] = &self.factors[dense.number];
        gemm(self.precision, MatRef::new(dy, dense.bias.len()), weight, out, to);
    }

    /// Moves what was gathered apart, of fusions and scores, to its places in the flat gradient.
    pub fn reduce(&self, grad: &mut Grads) {
        for (k, slots) in self.layout.layers.iter().enumerate() {
            let places = slots.fusion.iter().flat_map(Clone::clone);
            places.zip(&grad.fusion[k]).for_each(|(place, &lanes)| grad.flat[place] = total(lanes));
        }
        // Of what serves the whole step: a linear layer, the vectors that enter it, and whether these are trained; its pairs with
        // their scores' gradient.
        let streams = self.layout.layers.iter().enumerate().flat_map(|(k, slots)| {
            let attributes = self.attributes.iter().zip(&slots.attributes);
            let attributes = attributes.map(|(attribute, dense)| (dense, &attribute.vectors[..], false));
            let streams =
                attributes.chain(slots.position.as_ref().map(|dense| (dense, self.position_embedding(), true)));
            streams.zip(self.shared[k].iter().zip(&grad.scores[k]))
        });
        let streams: Vec<_> = streams.filter_map(|(s, (pairs, dscores))| Some((s, pairs.as_ref()?, dscores))).collect();
        let dsides: Vec<Vec<f32>> =
            streams.par_iter().map(|((dense, ..), pairs, dscores)| pairs.backward(self, dense, dscores)).collect();
        for (((dense, vectors, trained), ..), dsides) in streams.iter().zip(&dsides) {
            parameters(self, dense, vectors, dsides, &mut grad.flat);
            if *trained {
                let embedding = &mut grad.flat[self.layout.position_embedding.clone()];
                self.transposed(dense, dsides, embedding, Epilogue::Accumulate);
            }
        }
    }
}
