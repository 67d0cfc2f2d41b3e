//! Cross-entropy over all items (equation 11), block by block: no more than some rows of scores exist at a time,
//! whatever the batch and the number of items.
//!
//! With scores s = x Eᵀ of a sequence x, the loss is log Σⱼ eˢʲ − s_target. Items are divided among the threads of all
//! ranks ([`Catalogue`]) and into blocks, each of which keeps exp(s − m_b) with its own maximum m_b, and the sum of these.
//! From the blocks of a thread follow its maximum m = max m_b and sum Σ_b sum_b · exp(m_b − m), from those of all threads
//! likewise the row's, and from these the gradient of a block's scores, (softmax − \[target\]) / B, in place.

use std::ops::Range;

use rayon::prelude::*;

use crate::Result;
use crate::fast::cpu::gemm::{BothOperands, Epilogue, MatRef, Operand, gemm, pack_operand};
use crate::fast::cpu::ops::simd::{axpy, exp, max, sum};
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

/// A block of items, and the scores of some rows for it.
#[derive(Debug, Default)]
struct ItemBlock {
    items: Range<usize>,
    /// Scores, then exp(score − row_max), then their gradient, `[rows, items]`.
    scores: Vec<f32>,
    /// The largest score of every row in the block, `[rows]`.
    row_max: Vec<f32>,
    /// Σ exp(score − row_max) of every row, `[rows]`.
    row_sum: Vec<f32>,
    /// The sum of the scores of the targets in the block.
    target_scores: f64,
}

/// The items that a thread computes.
#[derive(Debug)]
struct ItemShard {
    blocks: Vec<ItemBlock>,
    /// Its part of the gradient of some rows, `[rows, H]`.
    drows: Vec<f32>,
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
    sequences: &'a Operand<'a>,
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
            ItemShard { blocks: (start..end).step_by(BLOCK).map(block).collect(), drows: Vec::new() }
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
        for ((sequences, targets), dsequences) in batch {
            self.shards.par_iter_mut().zip(&operands).for_each(|(shard, operands)| {
                let blocks = shard.blocks.iter_mut().zip(operands);
                blocks.for_each(|(block, operands)| block.score(items, &operands.transposed, sequences, targets));
            });
            let statistics = self.statistics(team, targets.len())?;
            let rows = statistics.sum.iter().zip(&statistics.max);
            log_sum_exps.push(rows.map(|(sum, max)| f64::from(sum.ln()) + f64::from(*max)).sum::<f64>());
            let of_shard = |shard: &ItemShard| shard.blocks.iter().map(|block| block.target_scores).sum::<f64>();
            target_scores.extend(self.shards.iter().map(of_shard));

            let packed = pack_operand(items.precision, MatRef::new(sequences, h));
            let weight = 1.0 / batch_size as f32;
            let gradients = RowGradients { sequences: &packed, targets, statistics: &statistics, weight };
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
        let (ItemEmbedding { h, precision, .. }, start) = (items, self.blocks[0].items.start);
        for (block, operands) in self.blocks.iter_mut().zip(operands) {
            block.backward(rows);
            let items = block.items.start - start..block.items.end - start;
            let dscores = MatRef::new(&block.scores, block.items.len());
            let ditems = &mut ditem_embedding[items.start * h..items.end * h];
            gemm(precision, dscores.t(), rows.sequences, ditems, Epilogue::Accumulate);
            gemm(precision, dscores, &operands.plain, &mut self.drows, Epilogue::Accumulate);
        }
    }
}

impl ItemBlock {
    /// Leaves exp(score − row_max) in the place of the scores.
    fn score(&mut self, items: ItemEmbedding, items_t: &Operand, sequences: &[f32], targets: &[i64]) {
        self.scores.resize(targets.len() * self.items.len(), 0.0);
        let sequences = MatRef::new(sequences, items.h);
        gemm(items.precision, sequences, items_t, &mut self.scores, Epilogue::Overwrite);
        self.target_scores = self.target_indices(targets).map(|at| f64::from(self.scores[at])).sum();
        self.row_max.resize(targets.len(), 0.0);
        self.row_sum.resize(targets.len(), 0.0);
        exp_minus_max(&mut self.scores, &mut self.row_max, &mut self.row_sum);
    }

    /// From exponentials to the gradient of the scores: (softmax − 1 at the target) · weight.
    fn backward(&mut self, rows: RowGradients) {
        let RowGradients { targets, statistics: RowStatistics { max, sum }, weight, .. } = rows;
        let factor = |i: usize| exp(self.row_max[i] - max[i]) / sum[i] * weight;
        let factors: Vec<f32> = (0..targets.len()).map(factor).collect();
        scale_rows(&mut self.scores, &factors);
        let targets: Vec<usize> = self.target_indices(targets).collect();
        targets.into_iter().for_each(|at| self.scores[at] -= weight);
    }

    /// Where the targets stand among the scores.
    fn target_indices(&self, targets: &[i64]) -> impl Iterator<Item = usize> {
        let (items, n, start) = (self.items.clone(), self.items.len(), self.items.start);
        let targets = targets.iter().map(|&target| target as usize).enumerate();
        targets.filter(move |(_, target)| items.contains(target)).map(move |(row, target)| row * n + target - start)
    }
}

/// Replaces every row by exp(x − its maximum), and writes the maximum and the sum.
///
/// # Shapes
/// scores `[n, items]`, row_max, row_sum `[n]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn exp_minus_max(scores: &mut [f32], row_max: &mut [f32], row_sum: &mut [f32]) {
    let n = scores.len() / row_max.len();
    for ((row, row_max), row_sum) in scores.chunks_exact_mut(n).zip(row_max).zip(row_sum) {
        *row_max = max(row);
        row.iter_mut().for_each(|x| *x = exp(*x - *row_max));
        *row_sum = sum(row);
    }
}

/// Multiplies every row by its factor.
///
/// # Shapes
/// scores `[n, items]`, factors `[n]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn scale_rows(scores: &mut [f32], factors: &[f32]) {
    for (row, &factor) in scores.chunks_exact_mut(scores.len() / factors.len()).zip(factors) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}
