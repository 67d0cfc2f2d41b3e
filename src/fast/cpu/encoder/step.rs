//! The context of a step: all that its micro-batches read and none of them changes.

use std::borrow::Cow;

use rayon::prelude::*;

use super::input::Input;
use crate::config::{Activation, ModelConfig, Precision};
use crate::fast::cpu::attention::fusion::Fusion;
use crate::fast::cpu::attention::geometry::{Geometry, Queries};
use crate::fast::cpu::attention::score_table::ScoreTable;
use crate::fast::cpu::batch::attribute::Attribute;
use crate::fast::cpu::batch::micro_batch::MicroBatch;
use crate::fast::cpu::gemm::Epilogue;
use crate::fast::cpu::ops::dropout::{Dropout, RowDropout, Stream};
use crate::fast::cpu::ops::layer_norm::LayerNorm;
use crate::fast::cpu::params::grads::Grads;
use crate::fast::cpu::params::item_embedding::ItemEmbedding;
use crate::fast::cpu::params::layout::{LayerLayout, LayerNormRange, Layout, LinearRange};
use crate::fast::cpu::params::linear::Weights;
use crate::fast::cpu::params::look_up::LookUp;

/// What all steps of a model share.
#[derive(Debug)]
pub struct EncoderParts {
    pub config: ModelConfig,
    pub precision: Precision,
    /// L.
    pub length: usize,
    pub layout: Layout,
    pub input: Input,
    pub attributes: Vec<Attribute>,
}

/// The parameters as they are in a step.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// All but the item embedding, in the layout's ranges.
    pub flat: &'a [f32],
    pub items: ItemEmbedding<'a>,
}

/// A step: the weights, and what follows from weights alone.
#[derive(Debug)]
pub struct StepContext<'a> {
    pub layout: &'a Layout,
    pub input: &'a Input,
    pub attributes: &'a [Attribute],
    pub weights: Weights<'a>,
    /// How the forward pass stores what the backward pass alone reads; `None` where none follows.
    pub saved: Option<Precision>,
    pub items: ItemEmbedding<'a>,
    /// The vectors of the items in the sequences; ranks that share the items out bring them before they are looked up.
    pub look_up: LookUp<'a>,
    /// H.
    pub h: usize,
    pub heads: usize,
    /// L.
    pub length: usize,
    pub eps: f32,
    pub activation: Activation,
    pub dropout: StepDropout,
    /// By layer.
    pub fusions: Vec<Fusion<'a>>,
    /// By layer and side stream, the attributes' and the positions': `None` where each micro-batch computes its scores.
    pub score_tables: Vec<Vec<Option<ScoreTable>>>,
    /// Query, key and value of every item in the first layer, `[items, 3 H]`; in an evaluation, where it is wanted.
    pub item_cache: Option<LookUp<'static>>,
}

/// The dropout of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepDropout {
    pub hidden: Option<Dropout>,
    pub attention: Option<Dropout>,
    stream: Stream,
}

impl<'a> StepContext<'a> {
    /// `dropout` is the stream of a training step that drops elements.
    pub fn new(parts: &'a EncoderParts, parameters: Parameters<'a>, dropout: Option<Stream>) -> Self {
        let EncoderParts { config, precision, length, layout, input, attributes } = parts;
        let Parameters { flat, items } = parameters;
        let (h, heads, eps) = (config.hidden_size as usize, config.n_heads as usize, config.layer_norm_eps as f32);
        let weights = Weights::new(layout, flat, *precision);
        let fusions = layout.layers.iter().map(|layer| {
            let parts: Vec<&[f32]> = layer.fusion.iter().map(|range| &flat[range.clone()]).collect();
            Fusion::new(&parts)
        });
        let fusions = fusions.collect();
        let score_tables = score_tables(parts, &weights);
        Self {
            layout,
            input,
            attributes,
            weights,
            saved: None,
            items,
            look_up: LookUp { rows: Cow::Borrowed(items.rows), width: h, ids: None },
            h,
            heads,
            length: *length,
            eps,
            activation: config.hidden_act,
            dropout: StepDropout::new(config, dropout),
            fusions,
            score_tables,
            item_cache: None,
        }
    }

    /// The parameters of a LayerNorm.
    pub fn layer_norm(&self, range: &LayerNormRange) -> LayerNorm<'a> {
        let flat = self.weights.flat;
        LayerNorm { weight: &flat[range.weight.clone()], bias: &flat[range.bias.clone()], eps: self.eps }
    }

    /// The dropout behind the embedding.
    pub fn embedding_dropout<'b>(&self, batch: &'b MicroBatch) -> RowDropout<'b> {
        let StepDropout { hidden, stream, .. } = self.dropout;
        RowDropout { dropout: hidden, stream: stream.substream(0), row_numbers: &batch.row_numbers }
    }

    pub fn layer(&self, k: usize) -> LayerContext<'_> {
        LayerContext { step: self, k }
    }

    /// The sizes of the score tables by layer and stream, 0 where there is none.
    pub fn score_table_sizes(&self) -> Vec<Vec<usize>> {
        let size = |table: &Option<ScoreTable>| table.as_ref().map_or(0, |table| table.scores.len());
        self.score_tables.iter().map(|tables| tables.iter().map(size).collect()).collect()
    }

    /// The backward pass of the score tables: adds to the flat gradient what follows from theirs.
    pub fn backward_score_tables(&self, grads: &mut Grads) {
        let backward = |(table, grad): (&Option<ScoreTable>, &Vec<f32>)| Some(table.as_ref()?.backward(grad));
        let layers = self.score_tables.par_iter().zip(&grads.score_tables);
        let dprojections = layers.map(|(tables, grads)| tables.par_iter().zip(grads).map(backward).collect());
        let dprojections: Vec<Vec<Option<Vec<f32>>>> = dprojections.collect();
        let positions = &self.layout.position_embedding;
        for (layer, dprojections) in self.layout.layers.iter().zip(&dprojections) {
            let attributes = self.attributes.iter().map(|attribute| &attribute.vectors[..]).zip(&layer.attributes);
            let position = layer.position.as_ref().map(|linear| (&self.weights.flat[positions.clone()], linear));
            for ((vectors, linear), dprojections) in attributes.chain(position).zip(dprojections) {
                let Some(dprojections) = dprojections else { continue };
                self.weights.backward_params(linear, vectors, dprojections, &mut grads.flat);
            }
            // Of all vectors the positions' alone are trained.
            if let (Some(linear), Some(Some(dprojections))) = (&layer.position, dprojections.last()) {
                let dpositions = &mut grads.flat[positions.clone()];
                self.weights.backward_input(linear, dprojections, dpositions, Epilogue::Accumulate);
            }
        }
    }
}

/// The tables of every layer: of the attributes that have few vectors, and of the positions.
fn score_tables(parts: &EncoderParts, weights: &Weights) -> Vec<Vec<Option<ScoreTable>>> {
    let EncoderParts { config, layout, attributes, .. } = parts;
    let position_embedding = &weights.flat[layout.position_embedding.clone()];
    let table =
        |linear: &LinearRange, vectors: &[f32]| ScoreTable::new(weights, linear, vectors, config.n_heads as usize);
    let layers = layout.layers.par_iter().map(|layer| {
        let attributes = attributes.iter().zip(&layer.attributes);
        let attributes =
            attributes.map(|(attribute, linear)| attribute.tabulated.then(|| table(linear, &attribute.vectors)));
        attributes.chain(layer.position.as_ref().map(|linear| Some(table(linear, position_embedding)))).collect()
    });
    layers.collect()
}

impl StepDropout {
    /// `None` drops nothing.
    fn new(config: &ModelConfig, stream: Option<Stream>) -> Self {
        let dropout = |p: f64| stream.and_then(|_| Dropout::new(p));
        Self {
            hidden: dropout(config.hidden_dropout_prob),
            attention: dropout(config.attn_dropout_prob),
            stream: stream.unwrap_or(Stream::new(0)),
        }
    }
}

/// A layer of a step by its index.
#[derive(Debug, Clone, Copy)]
pub struct LayerContext<'a> {
    pub step: &'a StepContext<'a>,
    pub k: usize,
}

/// The dropouts of a layer, numbered as their streams are.
#[derive(Debug, Clone, Copy)]
pub enum DropoutSite {
    Probabilities = 0,
    AttentionOutput = 1,
    FeedForwardOutput = 2,
}

impl<'a> LayerContext<'a> {
    pub fn layout(self) -> &'a LayerLayout {
        &self.step.layout.layers[self.k]
    }

    /// The last layer computes the last item of each sequence alone: nothing else reaches the loss.
    pub fn queries(self) -> Queries {
        if self.k + 1 == self.step.layout.layers.len() { Queries::Last } else { Queries::All }
    }

    pub fn geometry(self, batch: &MicroBatch) -> Geometry {
        let &StepContext { h, heads, length, .. } = self.step;
        Geometry { h, heads, length, queries: self.queries(), n_first: batch.n_first }
    }

    pub fn dropout(self, batch: &MicroBatch, site: DropoutSite) -> RowDropout<'_> {
        let StepDropout { hidden, attention, stream } = self.step.dropout;
        RowDropout {
            dropout: if matches!(site, DropoutSite::Probabilities) { attention } else { hidden },
            stream: stream.substream(1 + 3 * self.k as u64 + site as u64),
            row_numbers: match self.queries() {
                Queries::All => &batch.row_numbers,
                Queries::Last => &batch.last_numbers,
            },
        }
    }
}
