//! A training step: the losses of a batch and their gradient.
//!
//! The batch is cut into micro-batches. Each thread takes its micro-batches through all layers, then the threads divide
//! the items for the loss, then they take the gradient back through their micro-batches. Who computes what is fixed
//! beforehand and sums are taken in a fixed order, so that a step is repeatable with the same number of threads.

use rayon::prelude::*;

use super::batch::micro_batch::BatchView;
use super::batch::tokens::Tokens;
use super::encoder::Activations;
use super::encoder::step::{EncoderParts, Mode, StepContext};
use super::loss::attribute::Predictor;
use super::loss::bpr::{ItemPairs, bpr};
use super::loss::cross_entropy::{ItemShard, cross_entropy};
use super::ops::dropout::Stream;
use super::params::tensors::integers;
use super::path::{FastPath, MICRO_BATCH, gather};
use super::threads::Worker;
use crate::config::Loss;
use crate::data::Batch;
use crate::model::Losses;

/// Which dropout masks to draw: those of a step of a seeded run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masks {
    /// Of the run.
    pub seed: u64,
    /// Steps taken before it.
    pub step: u64,
}

/// Elements that a thread clears at a time.
const CLEARED: usize = 1 << 16;

impl FastPath {
    /// The losses of a batch, as [`crate::model::Model::losses`] defines them; leaves their gradient for
    /// [`FastPath::gradient`]. `None` drops nothing.
    ///
    /// # Panics
    /// With `loss_type: BPR` and a batch without `neg_items`.
    pub fn losses(&mut self, batch: &Batch, masks: Option<Masks>) -> Losses<f64> {
        let Self { pool, encoder, parameters, labels, padding, flat, micro_batches, workers, .. } = self;
        let Self { n_items, shards, ditem_embedding, .. } = self;
        let items = integers(&batch.item_seq);
        let (len, targets) = (integers(&batch.item_seq_len), integers(&batch.pos_items));
        let negatives = batch.neg_items.as_ref().map(integers);
        let view = BatchView { items: &items, len: &len, padding: *padding, share_first: false };
        let parameters = gather(&encoder.layout, parameters, flat);
        let stream = masks.map(|masks| Stream::new(masks.seed).substream(masks.step));
        micro_batches.resize_with(len.len().div_ceil(MICRO_BATCH), Activations::default);
        pool.install(|| {
            let step = StepContext::new(encoder, parameters, Mode::Train(stream));
            forward(&step, view, micro_batches, workers);
            let encoded: Vec<f32> = micro_batches.iter().flat_map(|micro_batch| &micro_batch.output).copied().collect();
            let mut grad = vec![0.0; encoded.len()];
            ditem_embedding.par_chunks_mut(CLEARED).for_each(|part| part.fill(0.0));
            let (item, attributes) = match (encoder.config.loss_type, &negatives) {
                (Loss::Ce, _) => {
                    let item = cross_entropy(step.items, shards, &encoded, &targets, &mut grad, ditem_embedding);
                    let predictors = predictors(encoder, labels, len.len());
                    (item, predictor_losses(&step, predictors, &encoded, &targets, &mut grad, workers))
                }
                (Loss::Bpr, negatives) => {
                    let negative = negatives.as_ref().expect("BPR batches carry negative items");
                    let pairs = ItemPairs { positive: &targets, negative };
                    (bpr(step.items, &encoded, pairs, &mut grad, ditem_embedding), Vec::new())
                }
            };
            backward(&step, &grad, micro_batches, workers);
            scatter(&step, *n_items, shards, micro_batches, ditem_embedding);
            let lamdas = attributes.iter().zip(&encoder.config.lamdas);
            let weighted = lamdas.map(|(loss, lamda): (&f64, _)| loss * lamda).sum::<f64>();
            Losses { total: item + weighted, item, attributes }
        })
    }
}

/// Takes every micro-batch through all layers.
fn forward(step: &StepContext, view: BatchView, micro_batches: &mut [Activations], workers: &mut [Worker]) {
    // Of every thread: one that gets no micro-batch still holds the gradient of the last step.
    let sizes = step.score_table_sizes();
    workers.par_iter_mut().for_each(|worker| worker.grads.clear(step.layout, &sizes));
    let per_worker = micro_batches.len().div_ceil(workers.len());
    let parts = micro_batches.par_chunks_mut(per_worker).zip(workers.par_iter_mut()).enumerate();
    parts.for_each(|(part, (micro_batches, worker))| {
        for (i, micro_batch) in micro_batches.iter_mut().enumerate() {
            let start = (part * per_worker + i) * MICRO_BATCH;
            let range = start..(start + MICRO_BATCH).min(view.len.len());
            micro_batch.batch.fill(view, range, step.attributes, &mut worker.classes);
            micro_batch.forward(step, &mut worker.scratch);
        }
    });
}

fn predictors<'a>(
    encoder: &'a EncoderParts,
    labels: &'a [Tokens],
    batch_size: usize,
) -> impl Iterator<Item = Predictor<'a>> {
    let predictors = encoder.layout.predictors.iter().zip(labels).zip(&encoder.config.lamdas);
    predictors.map(move |((linear, labels), &lamda)| Predictor { linear, labels, lamda, batch_size })
}

/// The loss of every predictor, without λ. Adds to the gradients of the sequences and of each thread.
fn predictor_losses<'a>(
    step: &StepContext,
    predictors: impl Iterator<Item = Predictor<'a>>,
    encoded: &[f32],
    targets: &[i64],
    grad: &mut [f32],
    workers: &mut [Worker],
) -> Vec<f64> {
    let part = targets.len().div_ceil(workers.len());
    let losses = predictors.map(|predictor| {
        let rows = encoded.par_chunks(part * step.h).zip(targets.par_chunks(part));
        let rows = rows.zip(grad.par_chunks_mut(part * step.h)).zip(workers.par_iter_mut());
        let losses = rows.map(|(((rows, targets), grad), worker)| {
            predictor.loss(&step.weights, rows, targets, grad, &mut worker.grads)
        });
        losses.collect::<Vec<f64>>().iter().sum()
    });
    losses.collect()
}

/// Takes the gradient of the outputs back through every micro-batch, and reduces the threads' gradients into the
/// first's.
fn backward(step: &StepContext, grad: &[f32], micro_batches: &mut [Activations], workers: &mut [Worker]) {
    let outputs = micro_batches.iter_mut().zip(grad.chunks(MICRO_BATCH * step.h));
    outputs.for_each(|(micro_batch, grad)| micro_batch.output.copy_from_slice(grad));
    let per_worker = micro_batches.len().div_ceil(workers.len());
    micro_batches.par_chunks_mut(per_worker).zip(workers.par_iter_mut()).for_each(|(micro_batches, worker)| {
        let Worker { scratch, grads, .. } = worker;
        micro_batches.iter_mut().for_each(|micro_batch| micro_batch.backward(step, scratch, grads));
    });
    let (first, others) = workers.split_first_mut().expect("there is a thread");
    others.iter().for_each(|other| first.grads.add(&other.grads));
    step.reduce(&mut first.grads);
}

/// Adds the gradients of the items' vectors to that of the item embedding.
fn scatter(
    step: &StepContext,
    n_items: usize,
    shards: &[ItemShard],
    micro_batches: &[Activations],
    ditem_embedding: &mut [f32],
) {
    let (h, size) = (step.h, n_items.div_ceil(shards.len()));
    ditem_embedding.par_chunks_mut(size * h).enumerate().for_each(|(part, ditem_embedding)| {
        let items = part * size..part * size + ditem_embedding.len() / h;
        micro_batches.iter().for_each(|micro_batch| micro_batch.scatter(items.clone(), ditem_embedding));
    });
}
