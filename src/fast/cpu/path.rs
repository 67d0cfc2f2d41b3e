//! The fast path of a model: what it keeps between steps, and the gradient of the last one.

use rayon::ThreadPool;
use tch::{Device, Kind, Tensor};

use super::batch::attribute::Attribute;
use super::batch::micro_batch::{ClassIndex, Padding};
use super::batch::tokens::Tokens;
use super::encoder::Activations;
use super::encoder::input::Input;
use super::encoder::step::{EncoderParts, Parameters};
use super::gemm::tensor_mut;
use super::loss::cross_entropy::Catalogue;
use super::ops::adam::{AdamFactors, adam};
use super::params::layout::Layout;
use super::params::tensors::{floats, floats_mut};
use super::threads::{Worker, pool};
use crate::config::{Architecture, Fusion, Loss, Precision};
use crate::model::{Model, names};
use crate::ranks::{Ranks, Team};
use crate::{Error, Result};

/// Sequences of a micro-batch: its rows are enough for the matrix kernels, and what it keeps of a layer fits in a
/// core's part of the last cache.
pub const MICRO_BATCH: usize = 64;

/// The fast path of a model. It reads the model's trained parameters at every call, so that they may change in between.
#[derive(Debug)]
pub struct FastPath {
    pub(super) pool: ThreadPool,
    /// The threads of all ranks.
    pub(super) team: Team,
    pub(super) encoder: EncoderParts,
    pub(super) n_items: usize,
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
    /// The gradient of the item embedding, `[n_items, H]`.
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
    /// As [`FastPath::new`].
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
        Ok(Self {
            pool: pool(threads)?,
            n_items,
            // SASRecF has attributes, and no predictor of them.
            labels: layout.predictors.iter().zip(model.features()).map(|(_, feature)| Tokens::new(feature)).collect(),
            padding: padding_of(model),
            flat: vec![0.0; layout.len],
            micro_batches: Vec::new(),
            workers: (0..threads).map(|_| Worker::new(&attributes, layout.len)).collect(),
            catalogue: Catalogue::new(n_items, &team),
            team,
            ditem_embedding: vec![0.0; n_items * config.hidden_size as usize],
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

    /// The gradient of a parameter that the last call of [`FastPath::losses`] left, row-major.
    ///
    /// # Panics
    /// With a name that is not one of the model's.
    pub fn gradient(&self, name: &str) -> &[f32] {
        match self.encoder.layout.range(name) {
            Some(range) => &self.workers[0].grads.flat[range],
            None if name == names::weight(names::ITEM_EMBEDDING) => &self.ditem_embedding,
            None => panic!("expected the name of a parameter, found {name}"),
        }
    }

    /// The threads of all ranks.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Whether the loss reaches a parameter: BPR is a loss without predictors.
    pub fn trains(&self, name: &str) -> bool {
        self.encoder.config.loss_type == Loss::Ce || !names::is_of_predictor(name)
    }

    /// All gradients, in two views for libtorch that must not outlive the next call of [`FastPath::losses`].
    pub(crate) fn gradients(&mut self) -> [Tensor; 2] {
        [&mut self.workers[0].grads.flat, &mut self.ditem_embedding].map(|grad| tensor_mut(grad, 1))
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

/// The parameters as they are now, in the memory that was lent for the flat ones.
pub fn gather<'a>(layout: &Layout, parameters: &'a [(String, Tensor)], flat: &'a mut [f32]) -> Parameters<'a> {
    layout.gather(parameters, flat);
    let item_embedding = parameters.iter().find(|(name, _)| *name == names::weight(names::ITEM_EMBEDDING));
    Parameters { flat, item_embedding: floats(&item_embedding.expect("a model has an item embedding").1) }
}

fn attributes_of(model: &Model) -> Vec<Attribute> {
    let config = model.config();
    (model.attribute_vectors().into_iter().zip(&config.attribute_hidden_size))
        .map(|(vectors, &size)| Attribute::new(floats(&vectors), size as usize, config.n_heads as usize))
        .collect()
}

fn padding_of(model: &Model) -> Padding {
    let config = model.config();
    match (config.model, config.fusion_type) {
        _ if model.outweighs_mask() => Padding::Kept,
        (Architecture::SasRec | Architecture::SasRecF, _) | (_, Fusion::Sum) => Padding::LeftOut,
        (_, Fusion::Concat | Fusion::Gate) => Padding::Masked,
    }
}
