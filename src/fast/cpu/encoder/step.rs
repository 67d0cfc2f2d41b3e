//! The context of a step: all that its micro-batches read and none of them changes.

use std::borrow::Cow;

use rayon::prelude::*;

use super::input::{Input, InputParameters};
use super::item_cache::ItemCache;
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
use crate::fast::cpu::params::layout::{LayerLayout, LayerNormRange, Layout, Linear};
use crate::fast::cpu::params::linear::Weights;
use crate::fast::cpu::params::look_up::{Fetched, LookUp};

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

/// What a step does.
#[derive(Debug, Clone, Copy)]
pub enum Mode {
    /// A training step, with the dropout of this stream or without.
    Train(Option<Stream>),
    /// An evaluation, without dropout.
    Evaluate,
}

/// A step: the weights, and what follows from weights alone.
#[derive(Debug)]
pub struct StepContext<'a> {
    pub layout: &'a Layout,
    pub input: &'a Input,
    pub attributes: &'a [Attribute],
    pub weights: Weights<'a>,
    pub items: ItemEmbedding<'a>,
    /// The vectors of the items in the sequences.
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
    /// In an evaluation, where it is wanted.
    pub item_cache: Option<ItemCache>,
}

/// The dropout of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepDropout {
    pub hidden: Option<Dropout>,
    pub attention: Option<Dropout>,
    stream: Stream,
}

impl<'a> StepContext<'a> {
    /// Of ranks that share the items out, `fetched` are the vectors that this one's sequences need.
    pub fn new(parts: &'a EncoderParts, parameters: Parameters<'a>, fetched: Option<Fetched>, mode: Mode) -> Self {
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
        let stream = match mode {
            Mode::Train(stream) => stream,
            Mode::Evaluate => None,
        };
        let look_up = match fetched {
            Some(fetched) => LookUp::Fetched(fetched),
            None => LookUp::Whole { rows: Cow::Borrowed(items.rows), width: h },
        };
        Self {
            layout,
            input,
            attributes,
            weights,
            items,
            look_up,
            h,
            heads,
            length: *length,
            eps,
            activation: config.hidden_act,
            dropout: StepDropout::new(config, stream),
            fusions,
            score_tables,
            item_cache: None,
        }
    }

    /// `[L, H]`
    pub fn position_embedding(&self) -> &'a [f32] {
        &self.weights.flat[self.layout.position_embedding.clone()]
    }

    /// Whether an evaluation of so many positions takes the first layer's rows from an item cache: where its input is the
    /// item alone, where it is not the last layer too, and where the cache pays.
    pub fn wants_item_cache(&self, positions: usize) -> bool {
        let is_possible = matches!(self.input, Input::Item) && self.layout.layers.len() > 1;
        is_possible && ItemCache::pays(self.items.n_items, self.h, positions)
    }

    /// The rows of an item cache, [`ItemCache::rows`].
    pub fn item_cache_rows(&self, parts: &[&[f32]]) -> [Vec<f32>; 3] {
        ItemCache::rows(&self.weights, &self.layout.layers[0], self.layer_norm(&self.layout.norm), parts)
    }

    /// What the input reads.
    pub fn input_parameters(&self) -> InputParameters<'_> {
        let positions = &self.layout.position_embedding;
        InputParameters { weights: &self.weights, items: &self.look_up, h: self.h, positions }
    }

    /// The parameters of a LayerNorm.
    pub fn layer_norm(&self, range: &LayerNormRange) -> LayerNorm<'a> {
        self.weights.layer_norm(range, self.eps)
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

    /// Reduces the gradients of score tables into the flat gradient.
    pub fn reduce(&self, grads: &mut Grads) {
        let streams: Vec<TabulatedStream> = (0..self.layout.layers.len()).flat_map(|k| self.tabulated(k)).collect();
        let backward =
            |stream: &TabulatedStream| stream.table.backward(&grads.score_tables[stream.layer][stream.index]);
        let dprojections: Vec<Vec<f32>> = streams.par_iter().map(backward).collect();
        for (stream, dprojections) in streams.iter().zip(&dprojections) {
            self.weights.backward_params(stream.linear, stream.vectors, dprojections, &mut grads.flat);
            if stream.trained {
                let dpositions = &mut grads.flat[self.layout.position_embedding.clone()];
                self.weights.backward_input(stream.linear, dprojections, dpositions, Epilogue::Accumulate);
            }
        }
    }

    /// The streams of a layer that have a score table.
    fn tabulated(&self, layer: usize) -> impl Iterator<Item = TabulatedStream<'_>> {
        let LayerLayout { attributes, position, .. } = &self.layout.layers[layer];
        let attributes = self.attributes.iter().zip(attributes);
        let attributes = attributes.map(|(attribute, linear)| (linear, &attribute.vectors[..], false));
        let streams = attributes.chain(position.as_ref().map(|linear| (linear, self.position_embedding(), true)));
        let streams = streams.zip(&self.score_tables[layer]).enumerate();
        streams.filter_map(move |(index, ((linear, vectors, trained), table))| {
            let table = table.as_ref()?;
            Some(TabulatedStream { layer, index, table, linear, vectors, trained })
        })
    }
}

/// The tables of every layer: of the attributes that have few vectors, and of the positions.
fn score_tables(parts: &EncoderParts, weights: &Weights) -> Vec<Vec<Option<ScoreTable>>> {
    let EncoderParts { config, layout, attributes, .. } = parts;
    let position_embedding = &weights.flat[layout.position_embedding.clone()];
    let table = |linear: &Linear, vectors: &[f32]| ScoreTable::new(weights, linear, vectors, config.n_heads as usize);
    let layers = layout.layers.par_iter().map(|layer| {
        let attributes = attributes.iter().zip(&layer.attributes);
        let attributes =
            attributes.map(|(attribute, linear)| attribute.tabulated.then(|| table(linear, &attribute.vectors)));
        attributes.chain(layer.position.as_ref().map(|linear| Some(table(linear, position_embedding)))).collect()
    });
    layers.collect()
}

/// A side stream that has a score table.
struct TabulatedStream<'a> {
    layer: usize,
    /// Its index in the layer.
    index: usize,
    table: &'a ScoreTable,
    /// Its query and key layers.
    linear: &'a Linear,
    /// What enters them, `[n, d]`.
    vectors: &'a [f32],
    /// Whether the vectors are trained: the positions' are.
    trained: bool,
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

    /// The last layer computes the last true item of each sequence alone: nothing else reaches the loss.
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
