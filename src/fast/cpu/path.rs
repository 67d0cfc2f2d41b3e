//! The fast path of a model: what it keeps between steps, and the gradient of the last one.

use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::batch::attribute::Attribute;
use super::batch::micro_batch::{ClassIndex, Padding};
use super::batch::tokens::Tokens;
use super::encoder::Activations;
use super::encoder::input::Input;
use super::encoder::step::{EncoderParts, Parameters};
use super::loss::cross_entropy::Catalogue;
use super::ops::adam::{AdamFactors, adam};
use super::ops::clip::{power_sum, scale};
use super::params::item_embedding::ItemEmbedding;
use super::params::layout::Layout;
use super::params::tensors::{floats, floats_mut};
use super::threads::{Worker, pool};
use crate::config::{Architecture, ClipGradNorm, Fusion, Loss, Precision};
use crate::model::{Model, lead, names};
use crate::ranks::{Ranks, Team};
use crate::{Error, Result};

/// Sequences of a micro-batch: its rows are enough for the matrix kernels, and what it keeps of a layer fits in a
/// core's part of the last cache.
pub const MICRO_BATCH: usize = 64;
/// Elements of a gradient that a thread takes at a time where it clears or scales it.
pub const PART: usize = 1 << 16;

/// The fast path of a model. It reads the model's trained parameters at every call, so that they may change in between.
#[derive(Debug)]
pub struct FastPath {
    pub(super) pool: ThreadPool,
    /// The threads of all ranks.
    pub(super) team: Team,
    pub(super) encoder: EncoderParts,
    pub(super) n_items: usize,
    /// The items whose vectors are here: all, or this rank's where ranks share them out.
    pub(super) held: Range<usize>,
    /// Whether this rank has only its own rows of the item embedding; else it has all, also over several ranks.
    pub(super) is_shared: bool,
    pub(super) parameters: Vec<(String, Tensor)>,
    /// The tokens of each predictor's attribute.
    pub(super) labels: Vec<Tokens>,
    pub(super) padding: Padding,
    /// The gathered parameters, in the layout's ranges.
    pub(super) flat: Vec<f32>,
    /// This rank's of a training step.
    pub(super) micro_batches: Vec<Activations>,
    pub(super) workers: Vec<Worker>,
    pub(super) catalogue: Catalogue,
    /// The gradient of the vectors that are here, `[held, H]`, behind [`lead`]; empty before the first step.
    pub(super) ditem_embedding: Vec<f32>,
}

impl FastPath {
    /// A fast path with as many threads as libtorch has in this process.
    ///
    /// # Errors
    /// The model is not in float32 on the CPU; the system starts no more threads.
    pub fn new(model: &Model, precision: Precision) -> Result<Self> {
        Self::over(model, precision, Ranks::alone())
    }

    /// The same over ranks, each of which has as many threads as libtorch has in its process. All must make the same calls
    /// in the same order.
    ///
    /// # Errors
    /// As [`FastPath::new`]; a model that holds other items than this rank has.
    pub fn over(model: &Model, precision: Precision, ranks: Ranks) -> Result<Self> {
        let parameters = model.named_parameters();
        let on_cpu = model.device() == Device::Cpu && parameters.iter().all(|(_, p)| p.kind() == Kind::Float);
        if !on_cpu {
            return Err(Error::new("the fast path expects a model in float32 on the CPU")
                .hint("take `LeanProgram` for another one, or `Fast` for that of the model's device"));
        }
        let threads = tch::get_num_threads().max(1) as usize;
        let config = model.config().clone();
        let n_items = model.n_items() as usize;
        let (layout, attributes) = (Layout::new(model), attributes_of(model));
        let team = Team::new(ranks, threads);
        let held = model.held_items().map(|held| held.start as usize..held.end as usize);
        let own = team.shares(n_items)[team.rank()].clone();
        if let Some(held) = held.as_ref().filter(|held| **held != own) {
            return Err(Error::new(format!("expected the items {own:?} of {n_items}, found a model of {held:?}"))
                .hint("make the model for this number of ranks and threads"));
        }
        Ok(Self {
            pool: pool(threads)?,
            n_items,
            is_shared: held.is_some(),
            held: held.unwrap_or(0..n_items),
            // SASRecF has attributes, and no predictor of them.
            labels: layout.predictors.iter().zip(model.features()).map(|(_, feature)| Tokens::new(feature)).collect(),
            padding: padding_of(model),
            flat: vec![0.0; layout.len],
            micro_batches: Vec::new(),
            workers: (0..threads).map(|_| Worker::new(&attributes, layout.len)).collect(),
            catalogue: Catalogue::new(n_items, &team),
            team,
            ditem_embedding: Vec::new(),
            parameters,
            encoder: EncoderParts {
                precision,
                length: model.max_len() as usize,
                input: Input::new(model, &layout),
                attributes,
                layout,
                config,
            },
        })
    }

    /// Takes the attribute vectors anew from a model whose tables another file's have replaced.
    pub fn reload(&mut self, model: &Model) {
        self.encoder.attributes = attributes_of(model);
        self.workers.iter_mut().for_each(|worker| worker.classes = ClassIndex::new(&self.encoder.attributes));
    }

    /// The gradient of a parameter that the last call of [`FastPath::losses`] left, row-major; of the item embedding that of
    /// the rows that the model holds.
    ///
    /// # Panics
    /// With a name that is not one of the model's.
    pub fn gradient(&self, name: &str) -> &[f32] {
        match self.encoder.layout.range(name) {
            Some(range) => &self.workers[0].grads.flat[range],
            None if name == names::weight(names::ITEM_EMBEDDING) => {
                self.ditem_embedding.get(self.lead()..).unwrap_or(&[])
            }
            None => panic!("expected the name of a parameter, found {name}"),
        }
    }

    fn lead(&self) -> usize {
        lead(self.held.start, self.encoder.config.hidden_size as usize)
    }

    /// The items of each rank, where ranks share the item embedding out.
    pub fn shares(&self) -> Option<Vec<Range<usize>>> {
        self.is_shared.then(|| self.catalogue.owners().to_vec())
    }

    /// The threads of all ranks.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Whether the loss reaches a parameter: BPR is a loss without predictors.
    pub fn trains(&self, name: &str) -> bool {
        self.encoder.config.loss_type == Loss::Ce || !names::is_of_predictor(name)
    }

    /// Scales all gradients by one factor so that their norm is at most `max_norm`, as PyTorch's `clip_grad_norm_`.
    ///
    /// # Errors
    /// A lost rank.
    pub(crate) fn clip_gradients(&mut self, clip: ClipGradNorm) -> Result<()> {
        let Self { pool, team, catalogue, workers, ditem_embedding, held, encoder, .. } = self;
        let (h, own) = (encoder.config.hidden_size as usize, catalogue.owners()[team.rank()].clone());
        let flat = &mut workers[0].grads.flat;
        let ditem_embedding = &mut ditem_embedding[lead(held.start, h)..];
        pool.install(|| {
            let own_items = &ditem_embedding[(own.start - held.start) * h..(own.end - held.start) * h];
            let shards = own_items.par_chunks(catalogue.shard_size() * h);
            let shards: Vec<f64> = shards.map(|shard| power_sum(shard, clip.norm_type)).collect();
            let shards = team.gather(shards, &catalogue.shards_by_rank())?;
            let of_flat: Vec<f64> = flat.par_chunks(PART).map(|part| power_sum(part, clip.norm_type)).collect();
            let all = shards.into_iter().chain(of_flat);
            if let Some(scale) = scale(all, clip) {
                for gradient in [&mut flat[..], ditem_embedding] {
                    gradient.par_chunks_mut(PART).for_each(|part| part.iter_mut().for_each(|x| *x *= scale));
                }
            }
            Ok(())
        })
    }

    /// Moves parameters and moments along the gradients: `[parameter, first moment, second moment]` by name.
    pub(crate) fn adam<'a>(&self, updates: impl Iterator<Item = (AdamFactors, &'a String, [&'a mut Tensor; 3])>) {
        let updates: Vec<_> =
            updates.map(|(factors, name, tensors)| (factors, tensors.map(floats_mut), self.gradient(name))).collect();
        self.pool.install(|| {
            for (factors, [parameter, first, second], gradient) in updates {
                adam(factors, parameter, first, second, gradient);
            }
        });
    }
}

/// The parameters as they are now, in the memory that was lent for the flat ones; `first` is the first item whose vector
/// is here.
pub fn gather<'a>(
    encoder: &EncoderParts,
    parameters: &'a [(String, Tensor)],
    (first, n_items): (usize, usize),
    flat: &'a mut [f32],
) -> Parameters<'a> {
    let EncoderParts { layout, config, precision, .. } = encoder;
    layout.gather(parameters, flat);
    let rows = parameters.iter().find(|(name, _)| *name == names::weight(names::ITEM_EMBEDDING));
    let rows = floats(&rows.expect("a model has an item embedding").1);
    let h = config.hidden_size as usize;
    Parameters { flat, items: ItemEmbedding { rows, first, n_items, h, precision: *precision } }
}

fn attributes_of(model: &Model) -> Vec<Attribute> {
    let config = model.config();
    let attributes = model.attribute_vectors().zip(&config.attribute_hidden_size).map(|(vectors, &size)| {
        let vectors = vectors.map(|vectors| floats(&vectors).to_vec());
        Attribute::new(vectors, size as usize, config.n_heads as usize)
    });
    attributes.collect()
}

fn padding_of(model: &Model) -> Padding {
    let config = model.config();
    match (config.model, config.fusion_type) {
        _ if model.outweighs_mask() => Padding::Kept,
        (Architecture::SasRec | Architecture::SasRecF, _) | (_, Fusion::Sum) => Padding::LeftOut,
        (_, Fusion::Concat | Fusion::Gate) => Padding::Masked,
    }
}
