//! The fast path: the models' functions on the CPU with explicit gradients, equal to [`crate::model`] within float error.
//!
//! What it does differently, and why the result is the same, is in docs/performance.md. A batch is cut into [`chunk`]s;
//! each thread takes its chunks through all layers, with products and the kernels of this module between them, then the
//! threads share out the item_cache for the [`loss`], then they take the gradient back through their chunks.
//!
//! Sums are taken in a fixed order, so that a run is repeatable with the same number of threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::{Device, Kind, Tensor};

use super::attention::score_table::Attribute;
use super::batch::micro_batch::{Activations, Padding, Sequences, VectorIndex};
use super::encoder::input::Tokens;
use super::encoder::item_cache::ItemCache;
use super::encoder::layer::{Grads, Scratch};
use super::encoder::step::StepContext;
use super::gemm::tensor_mut;
use super::loss::{self, ItemShard};
use super::ops::adam::{Factors, adam};
use super::ops::dropout::Stream;
use super::params::layout::{Layout, floats, floats_mut};
use super::rank::{self, int16::Prefilter};
use crate::config::{Architecture, Fusion, Loss, ModelConfig, Precision};
use crate::data::{Batch, RowTensors};
use crate::eval::{Ranking, not_finite};
use crate::model::{Losses, Model};
use crate::{Error, Result};

/// Sequences of a chunk: the rows of its products are enough for the matrix kernels, and what it keeps of a layer fits
/// in a core's share of the last cache.
const CHUNK: usize = 64;

/// The fast path of a model. It reads the model's trained parameters at every call, so that they may change in between.
#[derive(Debug)]
pub struct FastPath {
    pool: ThreadPool,
    config: ModelConfig,
    precision: Precision,
    n_items: usize,
    /// L.
    length: usize,
    layout: Layout,
    parameters: Vec<(String, Tensor)>,
    attributes: Vec<Attribute>,
    /// Of each predictor's attribute.
    labels: Vec<Tokens>,
    padding: Padding,
    /// The gathered weights.
    flat: Vec<f32>,
    chunks: Vec<Activations>,
    workers: Vec<Worker>,
    shards: Vec<ItemShard>,
    ditem_embedding: Vec<f32>,
}

/// What a thread has to itself.
#[derive(Debug)]
struct Worker {
    index: VectorIndex,
    scratch: Scratch,
    grad: Grads,
    chunk: Activations,
    scores: Vec<f32>,
}

/// Which dropout masks to draw: those of a step of a seeded run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masks {
    pub seed: u64,
    pub step: u64,
}

impl FastPath {
    /// A fast path with as many threads as libtorch has in this process.
    ///
    /// # Errors
    /// The model is not in float32 on the CPU; the system starts no more threads.
    pub fn new(model: &Model, precision: Precision) -> Result<Self> {
        let parameters = model.named_parameters();
        let on_cpu = model.device() == Device::Cpu && parameters.iter().all(|(_, p)| p.kind() == Kind::Float);
        if !on_cpu {
            return Err(Error::new("the fast path expects a model in float32 on the CPU")
                .hint("set `use_gpu: False`, or `compute_path: reference`"));
        }
        let threads = tch::get_num_threads().max(1) as usize;
        let config = model.config().clone();
        let n_items = model.n_items() as usize;
        let layout = Layout::new(model);
        let shards = ItemShard::all(n_items, threads);
        let attributes = attributes_of(model);
        let worker = || Worker {
            index: VectorIndex::new(&attributes),
            scratch: Scratch::default(),
            grad: Grads { flat: vec![0.0; layout.len], ..Grads::default() },
            chunk: Activations::default(),
            scores: Vec::new(),
        };
        Ok(Self {
            pool: pool(threads)?,
            precision,
            // SASRecF has attributes, and no predictor of them.
            labels: layout.ap.iter().zip(model.features()).map(|(_, feature)| Tokens::new(feature)).collect(),
            padding: match (config.model, config.fusion_type) {
                _ if model.outweighs_mask() => Padding::Kept,
                (Architecture::SasRec | Architecture::SasRecF, _) | (_, Fusion::Sum) => Padding::LeftOut,
                (_, Fusion::Concat | Fusion::Gate) => Padding::Unvalued,
            },
            flat: vec![0.0; layout.len],
            chunks: Vec::new(),
            workers: (0..threads).map(|_| worker()).collect(),
            attributes,
            shards,
            ditem_embedding: vec![0.0; n_items * config.hidden_size as usize],
            parameters,
            config,
            n_items,
            length: model.max_len() as usize,
            layout,
        })
    }

    /// Takes the attribute vectors anew from a model whose tables another file's have replaced.
    pub fn reload(&mut self, model: &Model) {
        self.attributes = attributes_of(model);
        self.workers.iter_mut().for_each(|worker| worker.index = VectorIndex::new(&self.attributes));
    }

    /// The losses of a batch; leaves their gradient for [`FastPath::gradient`]. `None` drops nothing.
    ///
    /// # Panics
    /// With `loss_type: BPR` and a batch without `neg_items`.
    pub fn losses(&mut self, batch: &Batch, masks: Option<Masks>) -> Losses<f64> {
        let Self { pool, config, precision, length, layout, parameters, attributes, labels, padding, .. } = self;
        let Self { n_items, flat, chunks, workers, shards, ditem_embedding, .. } = self;
        let items = integers(&batch.item_seq);
        let (len, targets) = (integers(&batch.item_seq_len), integers(&batch.pos_items));
        let negatives = batch.neg_items.as_ref().map(integers);
        let sequences = Sequences { items: &items, len: &len, padding: *padding, share: false };
        layout.gather(parameters, flat);
        let table = table(parameters);
        let stream = masks.map(|masks| Stream::new(masks.seed).part(masks.step));
        let step =
            pool.install(|| StepContext::new(config, layout, (flat, table), attributes, *length, *precision, stream));
        let (h, b) = (step.h, len.len());
        chunks.resize_with(b.div_ceil(CHUNK), Activations::default);
        let per_worker = chunks.len().div_ceil(workers.len());

        pool.install(|| {
            // Of every thread: one that gets no chunk of a small batch still holds the gradient of the last.
            workers.par_iter_mut().for_each(|worker| worker.grad.clear(&step));
            let parts = chunks.par_chunks_mut(per_worker).zip(workers.par_iter_mut()).enumerate();
            parts.for_each(|(part, (chunks, worker))| {
                for (i, chunk) in chunks.iter_mut().enumerate() {
                    let start = (part * per_worker + i) * CHUNK;
                    chunk.rows.fill(sequences, start..(start + CHUNK).min(b), attributes, &mut worker.index);
                    chunk.forward(&step, &mut worker.scratch);
                }
            });
            let encoded: Vec<f32> = chunks.iter().flat_map(|chunk| &chunk.output).copied().collect();
            let mut grad = vec![0.0; b * h];
            ditem_embedding.par_chunks_mut(1 << 16).for_each(|part| part.fill(0.0));
            let (item, predicted) = match (config.loss_type, &negatives) {
                (Loss::Ce, _) => {
                    let item = loss::cross_entropy(&step, shards, &encoded, &targets, &mut grad, ditem_embedding);
                    let part = b.div_ceil(workers.len());
                    let predictors = layout.ap.iter().zip(&*labels).zip(&config.lamdas).enumerate();
                    let predicted = predictors.map(|(i, ((_, labels), &lamda))| {
                        let rows = encoded.par_chunks(part * h).zip(targets.par_chunks(part));
                        let rows = rows.zip(grad.par_chunks_mut(part * h)).zip(workers.par_iter_mut());
                        let losses = rows.map(|((rows, grad), worker)| {
                            loss::predictor(&step, i, labels, rows, grad, (b, lamda), &mut worker.grad)
                        });
                        losses.collect::<Vec<f64>>().iter().sum()
                    });
                    (item, predicted.collect())
                }
                (Loss::Bpr, negatives) => {
                    let negatives = negatives.as_ref().expect("BPR batches carry negative items");
                    (loss::bpr(&step, &encoded, (&targets, negatives), &mut grad, ditem_embedding), Vec::new())
                }
            };
            chunks.iter_mut().zip(grad.chunks(CHUNK * h)).for_each(|(chunk, grad)| chunk.output.copy_from_slice(grad));

            chunks.par_chunks_mut(per_worker).zip(workers.par_iter_mut()).for_each(|(chunks, worker)| {
                chunks.iter_mut().for_each(|chunk| chunk.backward(&step, &mut worker.scratch, &mut worker.grad));
            });
            let (first, others) = workers.split_first_mut().expect("there is a thread");
            others.iter().for_each(|other| first.grad.add(&other.grad));
            step.reduce(&mut first.grad);
            let share = n_items.div_ceil(shards.len());
            ditem_embedding.par_chunks_mut(share * h).enumerate().for_each(|(part, ditem_embedding)| {
                let items = part * share..part * share + ditem_embedding.len() / h;
                chunks.iter().for_each(|chunk| chunk.scatter(items.clone(), ditem_embedding));
            });
            let total = predicted.iter().zip(&config.lamdas).map(|(loss, lamda): (&f64, _)| loss * lamda).sum::<f64>();
            Losses { total: item + total, item, attributes: predicted }
        })
    }

    /// The gradient of a parameter that the last call of [`FastPath::losses`] left, row-major.
    ///
    /// # Panics
    /// With a name that is not one of the model's.
    pub fn gradient(&self, name: &str) -> &[f32] {
        match self.layout.of(name) {
            Some(place) => &self.workers[0].grad.flat[place],
            None if name == TABLE => &self.ditem_embedding,
            None => panic!("expected the name of a parameter, found {name}"),
        }
    }

    /// Whether the loss reaches a parameter: BPR is a loss without predictors.
    pub fn trains(&self, name: &str) -> bool {
        self.config.loss_type == Loss::Ce || !name.starts_with("ap.")
    }

    /// All gradients, in two views for libtorch that must not outlive the next call of [`FastPath::losses`].
    pub(crate) fn gradients(&mut self) -> [Tensor; 2] {
        [&mut self.workers[0].grad.flat, &mut self.ditem_embedding].map(|grad| tensor_mut(grad, 1))
    }

    /// Moves parameters and moments along the gradients: `[parameter, first moment, second moment]` by name.
    pub(crate) fn adam<'a>(&self, updates: impl Iterator<Item = (Factors, &'a String, [&'a mut Tensor; 3])>) {
        let updates: Vec<_> =
            updates.map(|(factors, name, tensors)| (factors, tensors.map(floats_mut), self.gradient(name))).collect();
        self.pool.install(|| {
            for (factors, [parameter, first, second], gradient) in updates {
                adam(factors, parameter, first, second, gradient);
            }
        });
    }

    /// The outputs of sequences at their last items, without dropout.
    ///
    /// # Shapes
    /// item_seq `[n, L]`, item_seq_len `[n]` → `[n, H]`
    pub fn encode(&mut self, item_seq: &Tensor, item_seq_len: &Tensor) -> Vec<f32> {
        self.evaluate(item_seq, item_seq_len, CHUNK, |_| (), |_, _, _, encoded, _| encoded.to_vec(), |_| Ok(()))
            .expect("nobody stops it")
            .concat()
    }

    /// Ranks the target of every row, as [`crate::eval::rank`] does; `progress` is told the rows done now and then.
    ///
    /// # Errors
    /// A score that is not a finite number, and what `progress` returns.
    pub fn rank(&mut self, rows: &RowTensors, progress: impl FnMut(usize) -> Result<()>) -> Result<Ranking> {
        let rows = rows.all();
        // Sequences that begin alike stand side by side, to share what follows from their beginning.
        let order = rows.item_seq.select(1, 0).argsort(0, false);
        let [item_seq, len, targets] =
            [&rows.item_seq, &rows.item_seq_len, &rows.pos_items].map(|column| column.index_select(0, &order));
        let targets = integers(&targets);
        let rank = |step: &StepContext,
                    prefilter: &Option<Prefilter>,
                    range: Range<usize>,
                    encoded: &[f32],
                    scores: &mut Vec<f32>| {
            rank::rank(step, prefilter.as_ref(), encoded, &targets[range], scores)
        };
        let prefilter = |step: &StepContext| Prefilter::new(step.table, step.h);
        let mut all = Ranking { rank: vec![0; targets.len()], ties: vec![0; targets.len()] };
        let mut places = integers(&order).into_iter();
        let ModelConfig { n_heads, n_layers, .. } = self.config;
        // Of one sequence: every layer's scores of one position by another, of item, position and attributes apart, and fused.
        let apart = (n_heads * n_layers) as usize * (self.attributes.len() + 3) * self.length.pow(2);
        let size = (loss::SCORES / self.n_items).min(PAIRS / apart).clamp(1, RANKED);
        for part in self.evaluate(&item_seq, &len, size, prefilter, rank, progress)? {
            let Ranking { rank, ties } = part.ok_or_else(not_finite)?;
            for ((rank, ties), place) in rank.into_iter().zip(ties).zip(&mut places) {
                (all.rank[place as usize], all.ties[place as usize]) = (rank, ties);
            }
        }
        Ok(all)
    }

    /// Encodes sequences, so many at a time, and does something with each part on the thread that encoded it, and with what
    /// was prepared once.
    fn evaluate<P: Send + Sync, T: Send>(
        &mut self,
        item_seq: &Tensor,
        item_seq_len: &Tensor,
        size: usize,
        prepare: impl FnOnce(&StepContext) -> P + Send,
        then: impl Fn(&StepContext, &P, Range<usize>, &[f32], &mut Vec<f32>) -> T + Sync,
        mut told: impl FnMut(usize) -> Result<()>,
    ) -> Result<Vec<T>> {
        let Self { pool, config, precision, length, layout, parameters, attributes, padding, flat, workers, .. } = self;
        let (items, len) = (integers(item_seq), integers(item_seq_len));
        let sequences = Sequences { items: &items, len: &len, padding: *padding, share: true };
        layout.gather(parameters, flat);
        let weights = (&**flat, table(parameters));
        let (step, prepared) = pool.install(|| {
            let mut step = StepContext::new(config, layout, weights, attributes, *length, *precision, None);
            step.item_cache = ItemCache::new(&step, items.len());
            let prepared = prepare(&step);
            (step, prepared)
        });
        let parts: Vec<usize> = (0..len.len()).step_by(size).collect();
        let mut all = Vec::with_capacity(parts.len());
        for parts in parts.chunks(TOLD * workers.len()) {
            // Whoever is free takes the next part, since nothing that is left of one depends on who took it.
            let next = AtomicUsize::new(0);
            let done = pool.install(|| {
                let workers = workers.par_iter_mut().map(|Worker { index, scratch, chunk, scores, .. }| {
                    let mut done = Vec::new();
                    while let Some(&start) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let range = start..(start + size).min(len.len());
                        chunk.rows.fill(sequences, range.clone(), attributes, index);
                        chunk.forward(&step, scratch);
                        done.push((start, then(&step, &prepared, range, &chunk.output, scores)));
                    }
                    done
                });
                workers.collect::<Vec<_>>()
            });
            let mut done: Vec<(usize, T)> = done.into_iter().flatten().collect();
            done.sort_unstable_by_key(|(start, _)| *start);
            all.extend(done.into_iter().map(|(_, done)| done));
            told((all.len() * size).min(len.len()))?;
        }
        Ok(all)
    }
}

/// Most sequences that a thread encodes and ranks at a time: the scores of some ten thousand items lie in the last cache.
const RANKED: usize = 128;
/// Scores of positions by each other that a thread keeps at a time in an evaluation, 64 MB: at L = 400 eight sequences' of
/// three layers.
const PAIRS: usize = 1 << 24;
/// Parts that threads take between two words about progress, by the number of threads.
const TOLD: usize = 64;

/// The item embedding's name.
const TABLE: &str = "item_embedding.weight";

fn attributes_of(model: &Model) -> Vec<Attribute> {
    let config = model.config();
    (model.attribute_vectors().into_iter().zip(&config.attribute_hidden_size))
        .map(|(vectors, &size)| Attribute::new(floats(&vectors), size as usize, config.n_heads as usize))
        .collect()
}

fn table(parameters: &[(String, Tensor)]) -> &[f32] {
    let found = parameters.iter().find(|(name, _)| name == TABLE);
    floats(&found.expect("a model has an item embedding").1)
}

fn integers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.flatten(0, -1)).expect("ids are int64")
}

/// Threads that each compute alone: libtorch's own threads would only be in the way.
fn pool(threads: usize) -> Result<ThreadPool> {
    let own = tch::get_num_threads();
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .start_handler(|_| {
            tch::set_num_threads(1);
            // Libtorch sets a thread up when it is first asked, and would then undo the line above.
            tch::get_num_threads();
        })
        .build()
        .map_err(|e| Error::new(format!("could not start {threads} threads ({e})")).hint("set `threads` lower"))?;
    // The number is also the process's default.
    pool.broadcast(|_| ());
    tch::set_num_threads(own);
    Ok(pool)
}
