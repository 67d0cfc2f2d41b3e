//! A training step: the losses of a batch and their gradient.
//!
//! The batch is cut into micro-batches. Each thread takes its micro-batches through all layers, then the threads divide
//! the items for the loss, then they take the gradient back through their micro-batches. Who computes what is fixed
//! beforehand and sums are taken in a fixed order, so that a step is repeatable with the same number of threads,
//! whichever ranks they are in ([`crate::ranks`]).

use std::ops::Range;

use rayon::prelude::*;

use super::batch::micro_batch::BatchView;
use super::batch::tokens::Tokens;
use super::encoder::Activations;
use super::encoder::item_sums::ItemSums;
use super::encoder::step::{EncoderParts, StepContext};
use super::loss::attribute::Predictor;
use super::loss::bpr::{ItemPairs, OwnItems, bpr};
use super::loss::cross_entropy::{Catalogue, Targets};
use super::ops::dropout::Stream;
use super::ops::simd::axpy;
use super::params::look_up::SharedTable;
use super::params::tensors::integers;
use super::path::{FastPath, MICRO_BATCH, PART, gather};
use super::threads::Worker;
use crate::Result;
use crate::config::Loss;
use crate::data::Batch;
use crate::model::{Losses, lead};
use crate::ranks::team::{consecutive, of_elements};
use crate::ranks::{Team, Tree};

/// What the dropout masks of a step follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutSeed {
    /// Of the run.
    pub seed: u64,
    /// Steps taken before it.
    pub step: u64,
}

/// How a batch is divided among the threads of all ranks.
struct Division {
    /// Micro-batches of a thread.
    each: usize,
    /// This rank's micro-batches.
    micro_batches: Range<usize>,
    /// The sequences of each rank's micro-batches.
    sequences: Vec<Range<usize>>,
    /// Sequences of a thread in the attribute losses, which the micro-batches do not bind.
    predicted_each: usize,
    /// Those of each rank.
    predicted: Vec<Range<usize>>,
}

impl Division {
    fn new(team: &Team, batch_size: usize) -> Self {
        let micro_batches = batch_size.div_ceil(MICRO_BATCH);
        let (each, predicted_each) = (micro_batches.div_ceil(team.all()), batch_size.div_ceil(team.all()));
        Self {
            each,
            micro_batches: team.ranges(micro_batches, each)[team.rank()].clone(),
            sequences: team.ranges(batch_size, each * MICRO_BATCH),
            predicted_each,
            predicted: team.ranges(batch_size, predicted_each),
        }
    }

    /// The sequences whose gradients each rank works on, between the first and the last of either kind.
    fn wanted(&self) -> Vec<Range<usize>> {
        let both = self.sequences.iter().zip(&self.predicted);
        let both = both.map(|(a, b)| match (a.is_empty(), b.is_empty()) {
            (_, true) => a.clone(),
            (true, _) => b.clone(),
            _ => a.start.min(b.start)..a.end.max(b.end),
        });
        both.collect()
    }
}

impl FastPath {
    /// The losses of a batch, as [`crate::model::Model::losses`] defines them; leaves their gradient for
    /// [`FastPath::gradient`]. Without `dropout` no element is dropped.
    ///
    /// # Panics
    /// As [`FastPath::try_losses`], and over ranks if another one is lost.
    pub fn losses(&mut self, batch: &Batch, dropout: Option<DropoutSeed>) -> Losses<f64> {
        self.try_losses(batch, dropout).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same of a run over ranks, who all have the same whole batch and end with the same gradient.
    ///
    /// # Errors
    /// A lost rank.
    ///
    /// # Panics
    /// A batch without sequences, with sequences of another L than the model's, or with `loss_type: BPR` without
    /// `neg_items`.
    pub fn try_losses(&mut self, batch: &Batch, dropout: Option<DropoutSeed>) -> Result<Losses<f64>> {
        let Self { pool, team, encoder, parameters, labels, padding, flat, micro_batches, workers, .. } = self;
        let Self { catalogue, ditem_embedding, held, n_items, is_shared, .. } = self;
        let (team, h) = (&*team, encoder.config.hidden_size as usize);
        let items = integers(&batch.item_seq);
        let (len, targets) = (integers(&batch.item_seq_len), integers(&batch.pos_items));
        let negatives = batch.neg_items.as_ref().map(integers);
        assert!(!len.is_empty(), "a batch has sequences");
        let view = encoder.view(&items, &len, *padding, false);
        let parameters = gather(encoder, parameters, (held.start, *n_items), flat);
        let stream = dropout.map(|of| Stream::new(of.seed).substream(of.step));
        let division = Division::new(team, len.len());
        micro_batches.resize_with(division.micro_batches.len(), Activations::default);
        let lead = lead(held.start, h);
        ditem_embedding.resize(lead + held.len() * h, 0.0);
        let ditem_embedding = &mut ditem_embedding[lead..];
        pool.install(|| {
            let pairs = negatives.as_ref().map(|negatives| [&targets[..], negatives]);
            let mut step = StepContext::new(encoder, parameters, stream);
            step.saved = Some(encoder.precision);
            if *is_shared {
                let wanted = wanted(team, catalogue.owners(), view, &division.sequences, pairs);
                let table = SharedTable { owners: catalogue.owners(), rows: step.items.rows, width: h };
                step.look_up = table.fetch(team, wanted)?;
            }
            forward(&step, view, &division, micro_batches, workers);
            let encoded: Vec<f32> = micro_batches.iter().flat_map(|micro_batch| &micro_batch.output).copied().collect();
            let encoded = team.gather(encoded, &of_elements(&division.sequences, h))?;
            let mut grad = vec![0.0; encoded.len()];
            ditem_embedding.par_chunks_mut(PART).for_each(|part| part.fill(0.0));
            let own = catalogue.owners()[team.rank()].clone();
            let own_grad = &mut ditem_embedding[(own.start - held.start) * h..(own.end - held.start) * h];
            let (item, attributes) = match (encoder.config.loss_type, pairs) {
                (Loss::Ce, _) => {
                    let batch = Targets { sequences: &encoded, targets: &targets, wanted: &division.wanted() };
                    let item = catalogue.cross_entropy(team, step.items, batch, &mut grad, own_grad)?;
                    let losses = PredictorLosses { step: &step, team, division: &division, encoded: &encoded };
                    let predictors = predictors(encoder, labels, len.len());
                    (item, losses.of(predictors, &targets, &mut grad, workers)?)
                }
                (Loss::Bpr, pairs) => {
                    let [positive, negative] = pairs.expect("BPR batches carry negative items");
                    let pairs = ItemPairs { sequences: &encoded, positive, negative, wanted: &division.sequences };
                    let own = OwnItems { items: own, grad: own_grad };
                    (bpr(team, &step.look_up, pairs, &mut grad, own)?, Vec::new())
                }
            };
            let sequences = of_elements(&division.sequences, h)[team.rank()].clone();
            backward(&step, &grad[sequences], &division, micro_batches, workers);
            reduce(&step, team, workers)?;
            let sums: Vec<ItemSums> = micro_batches.par_chunks(division.each).map(|own| ItemSums::of(own, h)).collect();
            scatter(h, team, catalogue, &sums, own_grad)?;
            if !*is_shared {
                gather_items(h, team, catalogue, ditem_embedding)?;
            }
            let lamdas = attributes.iter().zip(&encoder.config.lamdas);
            let weighted = lamdas.map(|(loss, lamda): (&f64, _)| loss * lamda).sum::<f64>();
            Ok(Losses { total: item + weighted, item, attributes })
        })
    }
}

/// The distinct items, ascending, in each rank's sequences and in its pairs; of other ranks those that lie here.
pub(super) fn wanted(
    team: &Team,
    owners: &[Range<usize>],
    view: BatchView,
    sequences: &[Range<usize>],
    pairs: Option<[&[i64]; 2]>,
) -> Vec<Vec<u32>> {
    let (length, own) = (view.items.len() / view.len.len(), &owners[team.rank()]);
    let of_rank = |(rank, sequences): (usize, &Range<usize>)| {
        let histories = &view.items[sequences.start * length..sequences.end * length];
        let pairs = pairs.iter().flatten().flat_map(|items| &items[sequences.clone()]);
        let all = histories.iter().chain(pairs).map(|&item| item as u32);
        let mut items: Vec<u32> = all.filter(|&item| rank == team.rank() || own.contains(&(item as usize))).collect();
        items.sort_unstable();
        items.dedup();
        items
    };
    sequences.par_iter().enumerate().map(of_rank).collect()
}

/// Takes every micro-batch of this rank through all layers.
fn forward(
    step: &StepContext,
    view: BatchView,
    division: &Division,
    micro_batches: &mut [Activations],
    workers: &mut [Worker],
) {
    // Of every thread: one that gets no micro-batch still holds the gradient of the last step.
    let sizes = step.score_table_sizes();
    workers.par_iter_mut().for_each(|worker| worker.grads.clear(step.layout, &sizes));
    let parts = micro_batches.par_chunks_mut(division.each).zip(workers.par_iter_mut()).enumerate();
    parts.for_each(|(part, (micro_batches, worker))| {
        for (i, micro_batch) in micro_batches.iter_mut().enumerate() {
            let start = (division.micro_batches.start + part * division.each + i) * MICRO_BATCH;
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

/// What the attribute losses of a step read.
struct PredictorLosses<'a> {
    step: &'a StepContext<'a>,
    team: &'a Team,
    division: &'a Division,
    /// `[B, H]`
    encoded: &'a [f32],
}

impl PredictorLosses<'_> {
    /// The loss of every predictor, without λ. Adds to the gradients of the sequences and of each thread.
    fn of<'a>(
        &self,
        predictors: impl Iterator<Item = Predictor<'a>>,
        targets: &[i64],
        grad: &mut [f32],
        workers: &mut [Worker],
    ) -> Result<Vec<f64>> {
        let Self { step, team, division, encoded } = self;
        let (h, part, own) = (step.h, division.predicted_each, division.predicted[team.rank()].clone());
        let (encoded, targets) = (&encoded[own.start * h..own.end * h], &targets[own.clone()]);
        let losses = predictors.map(|predictor| {
            let rows = encoded.par_chunks(part * h).zip(targets.par_chunks(part));
            let grad = grad[own.start * h..own.end * h].par_chunks_mut(part * h);
            let losses = rows.zip(grad).zip(workers.par_iter_mut()).map(|(((rows, targets), grad), worker)| {
                predictor.loss(&step.weights, rows, targets, grad, &mut worker.grads)
            });
            losses.collect()
        });
        let losses: Vec<Vec<f64>> = losses.collect();
        self.hand_over(grad, losses.len())?;
        // A loss of every predictor and thread that has sequences, rank by rank.
        let places = consecutive(division.predicted.iter().map(|rows| rows.len().div_ceil(part)));
        losses.into_iter().map(|own| Ok(team.gather(own, &places)?.iter().sum::<f64>())).collect()
    }

    /// Hands gradients of sequences over to the ranks whose micro-batches they are in, where these are others than those
    /// whose predictors have added to them.
    fn hand_over(&self, grad: &mut [f32], predictors: usize) -> Result<()> {
        let Self { step, team, division: Division { sequences, predicted, .. }, .. } = self;
        if predictors == 0 || sequences == predicted {
            return Ok(());
        }
        let rank = team.rank();
        let common = |from: usize, to: usize| {
            let (from, to) = (&predicted[from], &sequences[to]);
            let (start, end) = (from.start.max(to.start), from.end.min(to.end));
            start * step.h..end.max(start) * step.h
        };
        let to: Vec<Vec<f32>> = (0..sequences.len()).map(|other| grad[common(rank, other)].to_vec()).collect();
        let received: Vec<Range<usize>> = (0..sequences.len()).map(|other| common(other, rank)).collect();
        let mut rest = &team.exchange(&to, &received.iter().map(Range::len).collect::<Vec<_>>())?[..];
        for part in received {
            let (values, others) = rest.split_at(part.len());
            grad[part].copy_from_slice(values);
            rest = others;
        }
        Ok(())
    }
}

/// Takes the gradient of the outputs back through every micro-batch of this rank.
fn backward(
    step: &StepContext,
    grad: &[f32],
    division: &Division,
    micro_batches: &mut [Activations],
    workers: &mut [Worker],
) {
    let outputs = micro_batches.iter_mut().zip(grad.chunks(MICRO_BATCH * step.h));
    outputs.for_each(|(micro_batch, grad)| micro_batch.output.copy_from_slice(grad));
    micro_batches.par_chunks_mut(division.each).zip(workers.par_iter_mut()).for_each(|(micro_batches, worker)| {
        let Worker { scratch, grads, .. } = worker;
        micro_batches.iter_mut().for_each(|micro_batch| micro_batch.backward(step, scratch, grads));
        grads.sum_fusion(step.layout);
    });
}

/// Reduces the gradients of all threads of all ranks into the first thread's.
fn reduce(step: &StepContext, team: &Team, workers: &mut [Worker]) -> Result<()> {
    let tree = Tree::new(team.ranges(team.all(), 1));
    tree.add_own(team.rank(), workers, |to, from| to.grads.add(&from.grads));
    if !team.is_alone() {
        let branches: Vec<Vec<f32>> =
            tree.branches(team.rank()).into_iter().map(|branch| workers[branch].grads.pack()).collect();
        let branches: Vec<&[f32]> = branches.iter().map(|branch| &branch[..]).collect();
        workers[0].grads.unpack(&team.sum(&tree, &branches)?);
    }
    step.backward_score_tables(&mut workers[0].grads);
    Ok(())
}

/// Adds the gradients of the items' vectors in the sequences to that of the item embedding, summed by item and thread,
/// thread by thread; each rank for the items that it has.
///
/// # Shapes
/// ditem_embedding `[own items, H]`
fn scatter(h: usize, team: &Team, catalogue: &Catalogue, sums: &[ItemSums], ditem_embedding: &mut [f32]) -> Result<()> {
    let (size, own) = (catalogue.shard_size(), catalogue.owners()[team.rank()].clone());
    let shards = ditem_embedding.par_chunks_mut(size * h).enumerate();
    let items = |part: usize, ditems: &[f32]| {
        let start = own.start + part * size;
        start..start + ditems.len() / h
    };
    if team.is_alone() {
        shards.for_each(|(part, ditems)| {
            let items = items(part, ditems);
            for (item, grad) in sums.iter().flat_map(|sums| sums.among(&items)) {
                axpy(1.0, grad, &mut ditems[(item as usize - items.start) * h..][..h]);
            }
        });
        return Ok(());
    }
    // The item and the bits of every sum, for the rank that has the item.
    let to = catalogue.owners().iter().map(|owner| {
        let sums = sums.iter().flat_map(|sums| sums.among(owner));
        sums.flat_map(|(item, grad)| std::iter::once(item).chain(grad.iter().map(|x| x.to_bits()))).collect()
    });
    let rows = team.exchange_unknown(&to.collect::<Vec<Vec<u32>>>())?;
    shards.for_each(|(part, ditems)| {
        let items = items(part, ditems);
        let mut grad = vec![0.0; h];
        for row in rows.chunks_exact(1 + h).filter(|row| items.contains(&(row[0] as usize))) {
            grad.iter_mut().zip(&row[1..]).for_each(|(x, &bits)| *x = f32::from_bits(bits));
            axpy(1.0, &grad, &mut ditems[(row[0] as usize - items.start) * h..][..h]);
        }
    });
    Ok(())
}

/// Gives all ranks the gradient of the whole item embedding.
fn gather_items(h: usize, team: &Team, catalogue: &Catalogue, ditem_embedding: &mut [f32]) -> Result<()> {
    if team.is_alone() {
        return Ok(());
    }
    let all = of_elements(catalogue.owners(), h);
    let whole = team.gather(ditem_embedding[all[team.rank()].clone()].to_vec(), &all)?;
    ditem_embedding.copy_from_slice(&whole);
    Ok(())
}
