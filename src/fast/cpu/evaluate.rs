//! Evaluation: sequences are encoded without dropout, and the ranks of their targets counted.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use tch::Tensor;

use super::batch::micro_batch::BatchView;
use super::encoder::step::{EncoderParts, Mode, StepContext};
use super::loss::cross_entropy::SCORES;
use super::params::tensors::integers;
use super::path::{FastPath, MICRO_BATCH, gather};
use super::rank::{self, int16::Prefilter};
use super::threads::Worker;
use crate::Result;
use crate::data::RowTensors;
use crate::eval::{Ranking, not_finite};

/// The most sequences that a thread encodes and ranks at a time: the scores of some ten thousand items lie in the last
/// cache.
const EVALUATED: usize = 128;
/// The most scores of positions by each other that a thread keeps at a time, 64 MB: at L = 400 eight sequences' of
/// three layers.
const ATTENTION_SCORES: usize = 1 << 24;
/// Micro-batches of each thread between two calls of `progress`.
const PROGRESS: usize = 64;

/// A micro-batch that was encoded.
struct Encoded<'a> {
    step: &'a StepContext<'a>,
    range: Range<usize>,
    /// `[sequences, H]`
    output: &'a [f32],
    /// Memory of the thread.
    scores: &'a mut Vec<f32>,
}

impl FastPath {
    /// The outputs of sequences at their last items, without dropout.
    ///
    /// # Shapes
    /// item_seq `[n, L]`, item_seq_len `[n]` → `[n, H]`
    pub fn encode(&mut self, item_seq: &Tensor, item_seq_len: &Tensor) -> Vec<f32> {
        let (items, len) = (integers(item_seq), integers(item_seq_len));
        let view = BatchView { items: &items, len: &len, padding: self.padding, share_first: true };
        self.evaluate(view, MICRO_BATCH, |_| (), |encoded, ()| encoded.output.to_vec(), |_| Ok(()))
            .expect("nobody stops it")
            .concat()
    }

    /// Ranks the target of every row, as [`crate::eval::rank`] does; `progress` gets the number of rows done now and
    /// then.
    ///
    /// # Errors
    /// A score that is not a finite number, and what `progress` returns.
    pub fn rank(&mut self, rows: &RowTensors, progress: impl FnMut(usize) -> Result<()>) -> Result<Ranking> {
        let rows = rows.all();
        // Sequences that begin alike stand side by side, to share the rows of their first positions.
        let order = rows.item_seq.select(1, 0).argsort(0, false);
        let [items, len, targets] = [&rows.item_seq, &rows.item_seq_len, &rows.pos_items]
            .map(|column| integers(&column.index_select(0, &order)));
        let view = BatchView { items: &items, len: &len, padding: self.padding, share_first: true };
        let size = (SCORES / self.n_items).min(self.encoder.sequences_at_a_time()).clamp(1, EVALUATED);
        let prefilter = |step: &StepContext| Prefilter::new(step.items);
        let rank = |encoded: Encoded, prefilter: &Option<Prefilter>| {
            let Encoded { step, range, output, scores } = encoded;
            rank::rank(step.items, prefilter.as_ref(), output, &targets[range], scores)
        };
        let mut all = Ranking { rank: vec![0; targets.len()], ties: vec![0; targets.len()] };
        let mut row = integers(&order).into_iter();
        for part in self.evaluate(view, size, prefilter, rank, progress)? {
            let Ranking { rank, ties } = part.ok_or_else(not_finite)?;
            for ((rank, ties), row) in rank.into_iter().zip(ties).zip(&mut row) {
                (all.rank[row as usize], all.ties[row as usize]) = (rank, ties);
            }
        }
        Ok(all)
    }

    /// Encodes sequences, `size` at a time, and gives what `each` makes of them, on the thread that encoded them, with
    /// what `prepare` made of the step.
    fn evaluate<P: Send + Sync, T: Send>(
        &mut self,
        view: BatchView,
        size: usize,
        prepare: impl FnOnce(&StepContext) -> P + Send,
        each: impl Fn(Encoded, &P) -> T + Sync,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Vec<T>> {
        let Self { pool, encoder, parameters, flat, workers, .. } = self;
        let (n, positions) = (view.len.len(), view.items.len());
        let parameters = gather(&encoder.layout, parameters, flat);
        let (step, prepared) = pool.install(|| {
            let step = StepContext::new(encoder, parameters, Mode::Evaluate { positions });
            let prepared = prepare(&step);
            (step, prepared)
        });
        let starts: Vec<usize> = (0..n).step_by(size).collect();
        let mut all = Vec::with_capacity(starts.len());
        for starts in starts.chunks(PROGRESS * workers.len()) {
            // Whoever is free takes the next micro-batch, since its result does not depend on the thread.
            let next = AtomicUsize::new(0);
            let take_all = |worker: &mut Worker| {
                let Worker { classes, scratch, activations, scores, .. } = worker;
                let mut done = Vec::new();
                while let Some(&start) = starts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let range = start..(start + size).min(n);
                    activations.batch.fill(view, range.clone(), step.attributes, classes);
                    activations.forward(&step, scratch);
                    let encoded = Encoded { step: &step, range, output: &activations.output, scores };
                    done.push((start, each(encoded, &prepared)));
                }
                done
            };
            let done: Vec<Vec<(usize, T)>> = pool.install(|| workers.par_iter_mut().map(take_all).collect());
            let mut done: Vec<(usize, T)> = done.into_iter().flatten().collect();
            done.sort_unstable_by_key(|(start, _)| *start);
            all.extend(done.into_iter().map(|(_, result)| result));
            progress((all.len() * size).min(n))?;
        }
        Ok(all)
    }
}

impl EncoderParts {
    /// How many sequences keep no more than [`ATTENTION_SCORES`] scores, in every layer and head those of item,
    /// positions and each attribute, and the probabilities.
    fn sequences_at_a_time(&self) -> usize {
        let maps = self.attributes.len() + 3;
        let scores = (self.config.n_heads * self.config.n_layers) as usize * maps * self.length.pow(2);
        ATTENTION_SCORES / scores
    }
}
