//! Evaluation: sequences are encoded without dropout, and the ranks of their targets counted.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use tch::Tensor;

use super::batch::micro_batch::{BatchView, Padding};
use super::encoder::step::{EncoderParts, StepContext};
use super::loss::cross_entropy::SCORES;
use super::params::look_up::LookUp;
use super::params::tensors::integers;
use super::path::{FastPath, MICRO_BATCH, gather};
use super::rank::blocks::blocks;
use super::rank::float32::Products;
use super::rank::int16::Extent;
use super::rank::{RankedItems, ranking};
use super::threads::Worker;
use crate::Result;
use crate::data::OrderedRows;
use crate::eval::{Ranking, gather_places, places};

/// The most sequences that a thread encodes and ranks at a time: the scores of some ten thousand items lie in the last
/// cache.
const EVALUATED: usize = 128;
/// The most scores of positions by each other that a thread keeps at a time, 64 MB: at L = 400 with four heads and one
/// attribute two sequences' of three layers.
const ATTENTION_SCORES: usize = 1 << 24;
/// Micro-batches of each thread between two calls of `progress`.
const PROGRESS: usize = 64;

/// A micro-batch that was encoded.
struct Encoded<'a> {
    range: Range<usize>,
    /// `[sequences, H]`
    output: &'a [f32],
    /// The items that it is ranked among, if it is.
    items: Option<&'a RankedItems<'a>>,
    /// Memory of the thread.
    products: &'a mut Products,
}

impl FastPath {
    /// The outputs of sequences at their last items, without dropout.
    ///
    /// # Shapes
    /// item_seq `[n, L]`, item_seq_len `[n]` → `[n, H]`
    ///
    /// # Panics
    /// A model that has a part of the items; sequences of another L than the model's.
    pub fn encode(&mut self, item_seq: &Tensor, item_seq_len: &Tensor) -> Vec<f32> {
        assert!(!self.is_shared, "a model of all items");
        let (items, len) = (integers(item_seq), integers(item_seq_len));
        let view = self.encoder.view(&items, &len, self.padding, true);
        // At every rank.
        let all = vec![0..len.len().div_ceil(MICRO_BATCH); self.team.ranks()];
        let outputs = self.evaluate(view, MICRO_BATCH, &all, false, |encoded| encoded.output.to_vec(), |_| Ok(()));
        outputs.expect("nobody stops it").concat()
    }

    /// Ranks the target of every row, as [`crate::eval::rank`] does. Of several processes each takes a part of the rows, and
    /// all return the ranking of all rows. `progress` gets the number of rows done now and then, equally often at each
    /// process.
    ///
    /// # Errors
    /// A score that is not a finite number; a lost rank; what `progress` returns.
    ///
    /// # Panics
    /// Sequences of another L than the model's.
    pub fn rank(&mut self, rows: &OrderedRows, mut progress: impl FnMut(usize) -> Result<()>) -> Result<Ranking> {
        let rows = rows.all();
        // Sequences that begin alike stand side by side, to share the rows of their first positions.
        let order = rows.item_seq.select(1, 0).argsort(0, false);
        let [items, len, targets] = [&rows.item_seq, &rows.item_seq_len, &rows.pos_items]
            .map(|column| integers(&column.index_select(0, &order)));
        let view = self.encoder.view(&items, &len, self.padding, true);
        let size = (SCORES / self.n_items).min(self.encoder.sequences_at_a_time()).clamp(1, EVALUATED);
        let (n, team) = (targets.len(), self.team.clone());
        if self.is_shared {
            let counts = self.count_among_shares(view, &targets, size, progress)?;
            return Ok(in_order(ranking(&counts), &order));
        }
        let micro_batches = team.even(n.div_ceil(size));
        let rank = |Encoded { range, output, items, products }: Encoded| {
            let items = items.expect("sequences are ranked");
            let scores = items.target_scores(output, &targets[range], products);
            places(items.count(output, &scores, products).map(|counts| ranking(&counts)), scores.len())
        };
        let rows =
            |micro_batches: &Range<usize>| (micro_batches.start * size).min(n)..(micro_batches.end * size).min(n);
        // Of all ranks, each of which has done so many micro-batches, or all that it has.
        let progress = |done: usize| {
            progress(
                micro_batches.iter().map(|part| rows(&(part.start..(part.start + done).min(part.end))).len()).sum(),
            )
        };
        let own = self.evaluate(view, size, &micro_batches, true, rank, progress)?.concat();
        let parts: Vec<Range<usize>> = micro_batches.iter().map(rows).collect();
        Ok(in_order(gather_places(&team, own, &parts)?, &order))
    }

    /// Encodes this process's micro-batches of `size` sequences, calls `each` on the thread that encoded one, and returns
    /// the results in order. `micro_batches` has the part of every process. After each round `progress` gets how many
    /// micro-batches a process has done, which may be more than it has.
    fn evaluate<T: Send>(
        &mut self,
        view: BatchView,
        size: usize,
        micro_batches: &[Range<usize>],
        is_ranked: bool,
        each: impl Fn(Encoded) -> T + Sync,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Vec<T>> {
        let Self { pool, team, encoder, parameters, flat, workers, n_items, .. } = self;
        let (n, each_round) = (view.len.len(), PROGRESS * workers.len());
        let rounds = micro_batches.iter().map(|part| part.len().div_ceil(each_round)).max().unwrap_or(0);
        let parameters = gather(encoder, parameters, (0, *n_items), flat);
        let (step, ranked) = pool.install(|| {
            let (items, h) = (parameters.items, parameters.items.h);
            let mut step = StepContext::new(encoder, parameters, None);
            if step.wants_item_cache(view.items.len()) {
                let rows = Cow::Owned(step.item_cache_rows(&[items.rows]));
                step.item_cache = Some(LookUp { rows, width: 3 * h, ids: None });
            }
            let ranked = || RankedItems::new(blocks(items, &[]), h, Extent::of(items.rows, h));
            (step, is_ranked.then(ranked))
        });
        let starts: Vec<usize> = micro_batches[team.rank()].clone().map(|micro_batch| micro_batch * size).collect();
        let mut all = Vec::with_capacity(starts.len());
        let mut rest = &starts[..];
        for round in 1..=rounds {
            let (starts, others) = rest.split_at(rest.len().min(each_round));
            rest = others;
            // Whoever is free takes the next micro-batch, since its result does not depend on the thread.
            let next = AtomicUsize::new(0);
            let take_all = |worker: &mut Worker| {
                let Worker { classes, scratch, activations, products, .. } = worker;
                let mut done = Vec::new();
                while let Some(&start) = starts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let range = start..(start + size).min(n);
                    activations.batch.fill(view, range.clone(), step.attributes, classes);
                    activations.forward(&step, scratch);
                    let items = ranked.as_ref();
                    done.push((start, each(Encoded { range, output: &activations.output, items, products })));
                }
                done
            };
            let done: Vec<Vec<(usize, T)>> = pool.install(|| workers.par_iter_mut().map(take_all).collect());
            let mut done: Vec<(usize, T)> = done.into_iter().flatten().collect();
            done.sort_unstable_by_key(|(start, _)| *start);
            all.extend(done.into_iter().map(|(_, result)| result));
            progress(round * each_round)?;
        }
        Ok(all)
    }
}

/// The places of rows in their own order, given in that of `order`.
fn in_order(places: Ranking, order: &Tensor) -> Ranking {
    let n = places.rank.len();
    let mut all = Ranking { rank: vec![0; n], ties: vec![0; n] };
    for ((rank, ties), row) in places.rank.into_iter().zip(places.ties).zip(integers(order)) {
        (all.rank[row as usize], all.ties[row as usize]) = (rank, ties);
    }
    all
}

impl EncoderParts {
    /// Sequences as slices: `items` `[n, L]`, `len` `[n]`.
    ///
    /// # Panics
    /// Another L than the model's.
    pub(super) fn view<'a>(
        &self,
        items: &'a [i64],
        len: &'a [i64],
        padding: Padding,
        share_first: bool,
    ) -> BatchView<'a> {
        let (n, length) = (len.len(), self.length);
        assert_eq!(items.len(), n * length, "a model of L = {length} takes {n} sequences of as many items");
        BatchView { items, len, padding, share_first }
    }

    /// How many sequences keep no more than [`ATTENTION_SCORES`] scores, in every layer and head those of item,
    /// positions and each attribute, and the probabilities.
    fn sequences_at_a_time(&self) -> usize {
        let maps = self.attributes.len() + 3;
        let scores = (self.config.n_heads * self.config.n_layers) as usize * maps * self.length.pow(2);
        ATTENTION_SCORES / scores
    }
}
