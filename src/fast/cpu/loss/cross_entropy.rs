//! Cross-entropy over all items (equation 11), block by block: no more than some rows of scores exist at a time,
//! whatever the batch and the number of items.
//!
//! With scores s = x Eᵀ of a sequence x, the loss is log Σⱼ eˢʲ − s_target. Items are divided among the threads of all
//! ranks ([`Catalogue`]) and into blocks, each of which keeps exp(s − m_b) with its own maximum m_b, and the sum of these.
//! From the blocks of a thread follow its maximum m = max m_b and sum Σ_b sum_b · exp(m_b − m), from those of all threads
//! likewise the row's. With f = exp(m_b − m) / (sum · B) of a row, the gradient of its scores in a block is
//! f · exp(s − m_b), less 1 / B at the target, where 1 / (f B) is taken off the exponential. f goes to the sequences of
//! one product with the exponentials, and to the sums of the other.

use std::ops::Range;

use rayon::prelude::*;

use crate::Result;
use crate::fast::cpu::gemm::{
    BothOperands, Epilogue, MatRef, Operand, OperandBuffer, gemm, gemm_by_rows, pack_operand,
};
use crate::fast::cpu::ops::simd::{axpy, exp, max, scale_into, sum};
use crate::fast::cpu::ops::zero;
use crate::fast::cpu::params::item_embedding::ItemEmbedding;
use crate::ranks::team::of_elements;
use crate::ranks::{Team, Tree};

/// Items of a block: its scores of some rows stay in a core's cache.
const BLOCK: usize = 512;
/// The most rows whose scores of all items exist at a time.
const ROWS: usize = 256;
/// About the most scores that exist at a time, 256 MiB.
pub const SCORES: usize = 1 << 26;
/// The largest item embedding of which packed copies are kept during a step: in float32 twice 64 MiB.
const PACKED_LIMIT: usize = 1 << 24;

/// Factors below this part of 1 / B: nothing is left of the softmax in the block.
const VANISHED: f32 = 1e-20;

/// A block of items, and the exponentials of some rows' scores for it.
#[derive(Debug, Default)]
struct ItemBlock {
    items: Range<usize>,
    /// exp(score − row_max), `[rows, items]`.
    exps: OperandBuffer,
    /// The largest score of every row in the block, `[rows]`.
    row_max: Vec<f32>,
    /// Σ exp(score − row_max) of every row, `[rows]`.
    row_sum: Vec<f32>,
    /// The sum of the scores of the targets in the block.
    target_scores: f64,
    /// Of every target in the block, by row: its exponential.
    target_exps: Vec<f32>,
}

/// The items that a thread computes.
#[derive(Debug, Default)]
struct ItemShard {
    blocks: Vec<ItemBlock>,
    /// Its part of the gradient of some rows, `[rows, H]`.
    drows: Vec<f32>,
    /// The sequences of some rows, each with its factor, `[rows, H]`.
    scaled: OperandBuffer,
}

/// Of every row over all items: the maximum, and Σ exp(score − maximum).
struct RowStatistics {
    max: Vec<f32>,
    sum: Vec<f32>,
}

/// What the gradients of some rows follow from.
#[derive(Clone, Copy)]
struct RowGradients<'a> {
    /// `[rows, H]`
    sequences: &'a [f32],
    /// `[rows]`
    targets: &'a [i64],
    statistics: &'a RowStatistics,
    /// 1 / B.
    weight: f32,
}

/// The sequences of a batch with the items that follow them.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// `[B, H]`
    pub sequences: &'a [f32],
    /// `[B]`
    pub targets: &'a [i64],
    /// The sequences whose gradient each rank gets; one process gets all.
    pub wanted: &'a [Range<usize>],
}

/// The items as the threads of all ranks share them out, with the shards of this rank.
#[derive(Debug)]
pub struct Catalogue {
    shards: Vec<ItemShard>,
    /// Items of a shard, of which the last may have fewer.
    size: usize,
    /// The order in which shards' gradients of the sequences are added.
    tree: Tree,
    /// The items of each rank.
    items: Vec<Range<usize>>,
}

impl Catalogue {
    pub fn new(n_items: usize, team: &Team) -> Self {
        let (size, items) = (team.share(n_items), team.shares(n_items));
        let own = items[team.rank()].clone();
        let shards = own.clone().step_by(size).map(|start| {
            let end = (start + size).min(own.end);
            let block = |from: usize| ItemBlock { items: from..(from + BLOCK).min(end), ..ItemBlock::default() };
            ItemShard { blocks: (start..end).step_by(BLOCK).map(block).collect(), ..ItemShard::default() }
        });
        Self { shards: shards.collect(), size, tree: Tree::new(team.ranges(n_items.div_ceil(size), 1)), items }
    }

    /// Items of a shard.
    pub fn shard_size(&self) -> usize {
        self.size
    }

    /// The shards of each rank.
    pub fn shards_by_rank(&self) -> Vec<Range<usize>> {
        self.items.iter().map(|items| items.start.div_ceil(self.size)..items.end.div_ceil(self.size)).collect()
    }

    /// The items of each rank.
    pub fn owners(&self) -> &[Range<usize>] {
        &self.items
    }

    /// The mean loss over the batch, the padding item being an item like others. Writes the gradient of the sequences, over
    /// ranks of those that are wanted here, and adds that of the items that this rank has.
    ///
    /// # Shapes
    /// dsequences `[B, H]`, ditem_embedding `[own items, H]`
    ///
    /// # Errors
    /// A lost rank.
    pub fn cross_entropy(
        &mut self,
        team: &Team,
        items: ItemEmbedding,
        batch: Targets,
        dsequences: &mut [f32],
        ditem_embedding: &mut [f32],
    ) -> Result<f64> {
        let Targets { sequences, targets, wanted } = batch;
        let (h, batch_size) = (items.h, targets.len());
        let n_rows = (SCORES / items.n_items).clamp(16, ROWS);
        let operands = |shard: &ItemShard| shard.operands(items, batch_size > n_rows);
        let operands: Vec<Vec<BothOperands>> = self.shards.par_iter().map(operands).collect();
        let left = self.tree.branches(team.rank());
        let mut branches = vec![Vec::new(); left.len()];
        let (mut log_sum_exps, mut target_scores) = (Vec::new(), Vec::new());
        let batch = sequences.chunks(n_rows * h).zip(targets.chunks(n_rows)).zip(dsequences.chunks_mut(n_rows * h));
        let mut rounded = OperandBuffer::default();
        for ((sequences, targets), dsequences) in batch {
            rounded.resize(items.precision, sequences.len());
            rounded.store(0, sequences);
            self.shards.par_iter_mut().zip(&operands).for_each(|(shard, operands)| {
                let blocks = shard.blocks.iter_mut().zip(operands);
                blocks.for_each(|(block, operands)| block.score(items, &operands.transposed, &rounded, targets));
            });
            let statistics = self.statistics(team, targets.len())?;
            let rows = statistics.sum.iter().zip(&statistics.max);
            log_sum_exps.push(rows.map(|(sum, max)| f64::from(sum.ln()) + f64::from(*max)).sum::<f64>());
            let of_shard = |shard: &ItemShard| shard.blocks.iter().map(|block| block.target_scores).sum::<f64>();
            target_scores.extend(self.shards.iter().map(of_shard));

            let weight = 1.0 / batch_size as f32;
            let gradients = RowGradients { sequences, targets, statistics: &statistics, weight };
            let parts = ditem_embedding.par_chunks_mut(self.size * h);
            self.shards.par_iter_mut().zip(&operands).zip(parts).for_each(|((shard, operands), ditem_embedding)| {
                zero(&mut shard.drows, sequences.len());
                shard.backward(items, operands, gradients, ditem_embedding);
            });
            self.tree.add_own(team.rank(), &mut self.shards, |to, from| axpy(1.0, &from.drows, &mut to.drows));
            if team.is_alone() {
                dsequences.copy_from_slice(&self.shards[0].drows);
            } else {
                let left = left.iter().zip(&mut branches);
                left.for_each(|(&left, branch)| branch.extend_from_slice(&self.shards[left].drows));
            }
        }
        if !team.is_alone() {
            let branches: Vec<&[f32]> = branches.iter().map(|branch| &branch[..]).collect();
            let wanted = of_elements(wanted, h);
            let sum = team.sum_parts(&self.tree, &branches, &wanted)?;
            dsequences[wanted[team.rank()].clone()].copy_from_slice(&sum);
        }
        Ok(self.loss(team, &log_sum_exps, target_scores)? / batch_size as f64)
    }

    /// The sum of the losses: for each part of the batch the log-sum-exp of its rows, less the targets' scores.
    /// `target_scores` come by part, then by shard of this rank.
    fn loss(&self, team: &Team, log_sum_exps: &[f64], target_scores: Vec<f64>) -> Result<f64> {
        let shards = self.shards_by_rank();
        let parts = of_elements(&shards, log_sum_exps.len());
        let target_scores = team.gather(target_scores, &parts)?;
        let mut loss = 0.0;
        for (part, log_sum_exps) in log_sum_exps.iter().enumerate() {
            loss += log_sum_exps;
            let of_part = shards.iter().zip(&parts).flat_map(|(shards, all)| {
                target_scores[all.clone()].iter().skip(part * shards.len()).take(shards.len())
            });
            loss -= of_part.sum::<f64>();
        }
        Ok(loss)
    }

    /// The statistics of some rows from those of all shards of all ranks, which are those of their blocks.
    fn statistics(&self, team: &Team, n_rows: usize) -> Result<RowStatistics> {
        let of_shard = |shard: &ItemShard| {
            let blocks = || shard.blocks.iter().map(|block| (&block.row_max[..], &block.row_sum[..]));
            RowStatistics::reduce(n_rows, blocks)
        };
        let own: Vec<RowStatistics> = self.shards.par_iter().map(of_shard).collect();
        if team.is_alone() {
            return Ok(RowStatistics::reduce(n_rows, || own.iter().map(|shard| (&shard.max[..], &shard.sum[..]))));
        }
        let values = own.into_iter().flat_map(|shard| shard.max.into_iter().chain(shard.sum)).collect();
        let all = team.gather(values, &of_elements(&self.shards_by_rank(), 2 * n_rows))?;
        Ok(RowStatistics::reduce(n_rows, || all.chunks_exact(2 * n_rows).map(|shard| shard.split_at(n_rows))))
    }
}

impl RowStatistics {
    /// From the maxima and sums of all blocks of a shard, or of all shards.
    fn reduce<'a, Blocks: Iterator<Item = (&'a [f32], &'a [f32])>>(n_rows: usize, blocks: impl Fn() -> Blocks) -> Self {
        let mut max = vec![f32::NEG_INFINITY; n_rows];
        for (row_max, _) in blocks() {
            max.iter_mut().zip(row_max).for_each(|(max, &other)| *max = max.max(other));
        }
        let mut sum = vec![0.0_f32; n_rows];
        for (row_max, row_sum) in blocks() {
            for (i, sum) in sum.iter_mut().enumerate() {
                *sum += row_sum[i] * exp(row_max[i] - max[i]);
            }
        }
        Self { max, sum }
    }
}

impl ItemShard {
    /// The operands of every block: packed where they are taken `again` and the copy is not too large.
    fn operands<'a>(&self, embedding: ItemEmbedding<'a>, again: bool) -> Vec<BothOperands<'a>> {
        let ItemEmbedding { n_items, h, precision, .. } = embedding;
        let packed = again && n_items * h <= PACKED_LIMIT;
        let operand = |matrix: MatRef<'a>| match packed {
            true => pack_operand(precision, matrix),
            false => matrix.into(),
        };
        let blocks = self.blocks.iter().map(|ItemBlock { items, .. }| {
            let rows = MatRef::new(embedding.of(items.clone()), h);
            BothOperands { transposed: operand(rows.t()), plain: operand(rows) }
        });
        blocks.collect()
    }

    /// Adds to the gradients of the rows and of the shard's part of the item embedding: with ds the gradient of the
    /// scores, dx += ds E and dE += dsᵀ x.
    fn backward(
        &mut self,
        items: ItemEmbedding,
        operands: &[BothOperands],
        rows: RowGradients,
        ditem_embedding: &mut [f32],
    ) {
        let RowGradients { sequences, targets, weight, .. } = rows;
        let (ItemEmbedding { h, precision, .. }, start) = (items, self.blocks[0].items.start);
        let Self { blocks, drows, scaled } = self;
        scaled.resize(precision, sequences.len());
        for (block, operands) in blocks.iter_mut().zip(operands) {
            let factors = block.factors(rows);
            scale_rows(&factors, sequences, scaled);
            let own = block.items.start - start..block.items.end - start;
            let ditems = &mut ditem_embedding[own.start * h..own.end * h];
            for ((i, target), exp) in block.targets(targets).zip(&block.target_exps) {
                if factors[i] > VANISHED * weight {
                    block.exps.store(i * block.items.len() + target, &[exp - weight / factors[i]]);
                } else {
                    let item = block.items.start + target;
                    axpy(-weight, items.of(item..item + 1), &mut drows[i * h..][..h]);
                    axpy(-weight, &sequences[i * h..][..h], &mut ditems[target * h..][..h]);
                }
            }
            let exps = MatRef::new(&block.exps, block.items.len());
            gemm(precision, exps.t(), &MatRef::new(&*scaled, h).into(), ditems, Epilogue::Accumulate);
            gemm_by_rows(precision, exps, &operands.plain, None, |first, sums| {
                add_scaled_rows(&factors[first..first + sums.len() / h], sums, &mut drows[first * h..]);
            });
        }
    }
}

impl ItemBlock {
    /// Leaves exp(score − row_max).
    fn score(&mut self, embedding: ItemEmbedding, items_t: &Operand, sequences: &OperandBuffer, targets: &[i64]) {
        let ItemEmbedding { h, precision, .. } = embedding;
        let of_targets: Vec<(usize, usize)> = self.targets(targets).collect();
        let n = self.items.len();
        let Self { exps, row_max, row_sum, target_scores, target_exps, .. } = self;
        target_exps.clear();
        exps.resize(precision, targets.len() * n);
        [&mut *row_max, &mut *row_sum].into_iter().for_each(|values| values.resize(targets.len(), 0.0));
        *target_scores = 0.0;
        gemm_by_rows(precision, MatRef::new(sequences, h), items_t, None, |first, scores| {
            let end = first + scores.len() / n;
            let own = of_targets.iter().filter(|(row, _)| (first..end).contains(row));
            let own = own.map(|(row, target)| (row - first) * n + target);
            *target_scores += own.clone().map(|at| f64::from(scores[at])).sum::<f64>();
            exp_minus_max(scores, &mut row_max[first..end], &mut row_sum[first..end], exps, first * n);
            target_exps.extend(own.map(|at| scores[at]));
        });
    }

    /// exp(row_max − max) / sum · weight of every row.
    fn factors(&self, rows: RowGradients) -> Vec<f32> {
        let RowGradients { statistics: RowStatistics { max, sum }, weight, .. } = rows;
        (0..max.len()).map(|i| exp(self.row_max[i] - max[i]) / sum[i] * weight).collect()
    }

    /// The rows whose targets are here, each with its target's index in the block.
    fn targets<'t>(&self, targets: &'t [i64]) -> impl Iterator<Item = (usize, usize)> + use<'t> {
        let items = self.items.clone();
        let targets = targets.iter().map(|&target| target as usize).enumerate();
        targets.filter(move |(_, target)| items.contains(target)).map({
            let start = self.items.start;
            move |(row, target)| (row, target - start)
        })
    }
}

/// Replaces every row by exp(x − its maximum), stores that in `exps` from index `start` on, and writes the maximum and the
/// sum.
///
/// # Shapes
/// scores `[n, items]`, row_max, row_sum `[n]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn exp_minus_max(scores: &mut [f32], row_max: &mut [f32], row_sum: &mut [f32], exps: &mut OperandBuffer, start: usize) {
    let n = scores.len() / row_max.len();
    let rows = scores.chunks_exact_mut(n).zip(row_max).zip(row_sum);
    for (((row, row_max), row_sum), at) in rows.zip((start..).step_by(n)) {
        *row_max = max(row);
        row.iter_mut().for_each(|x| *x = exp(*x - *row_max));
        *row_sum = sum(row);
        exps.store(at, row);
    }
}

/// `out` = every row times its factor.
///
/// # Shapes
/// factors `[n]`, rows, out `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn scale_rows(factors: &[f32], rows: &[f32], out: &mut OperandBuffer) {
    let mut scaled = vec![0.0; rows.len() / factors.len()];
    for (i, (&factor, row)) in factors.iter().zip(rows.chunks_exact(scaled.len())).enumerate() {
        scale_into(factor, row, &mut scaled);
        out.store(i * row.len(), &scaled);
    }
}

/// Adds every row, times its factor, to `out`.
///
/// # Shapes
/// factors `[n]`, rows, out `[n, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn add_scaled_rows(factors: &[f32], rows: &[f32], out: &mut [f32]) {
    let h = rows.len() / factors.len();
    let rows = rows.chunks_exact(h).zip(out.chunks_exact_mut(h)).zip(factors);
    rows.for_each(|((row, out), &factor)| axpy(factor, row, out));
}
