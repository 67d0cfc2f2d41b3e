//! The losses of encoded sequences with their gradients. The softmax over all items goes block by block: no more than
//! some rows of scores exist at a time, whatever the batch and the item_cache.

use std::ops::Range;

use rayon::prelude::*;

use crate::fast::cpu::encoder::input::Tokens;
use crate::fast::cpu::encoder::layer::{Grads, parameters, zeros};
use crate::fast::cpu::encoder::step::StepContext;
use crate::fast::cpu::gemm::{Epilogue, MatRef, Operand, gemm};
use crate::fast::cpu::ops::simd::{LANES, axpy, dot, exp, max, sum};

/// Items of a block: its scores of some rows stay in a core's cache.
const BLOCK: usize = 1024;
/// Most rows whose scores of all items exist at a time, and about the most of such scores, 256 MiB.
const ROWS: usize = 256;
pub const SCORES: usize = 1 << 26;
/// The largest item embedding of which packed copies are kept during a step: in float32 twice 64 MiB.
const PACKED: usize = 1 << 24;

/// The scores of some rows for a block of items.
#[derive(Debug)]
struct Block {
    items: Range<usize>,
    /// `[rows, items]`: after [`Block::score`] exp(score − most).
    scores: Vec<f32>,
    /// The largest score of every row in the block.
    most: Vec<f32>,
    /// Σ exp(score − most) of every row.
    sums: Vec<f32>,
    /// Σ of the scores of targets in the block.
    targets: f64,
}

/// A thread's share of the item_cache.
#[derive(Debug)]
pub struct ItemShard {
    blocks: Vec<Block>,
    /// Its part of the gradient of some rows, `[rows, H]`.
    drows: Vec<f32>,
}

impl ItemShard {
    /// Divides the item_cache among threads.
    pub fn all(n_items: usize, threads: usize) -> Vec<Self> {
        let size = n_items.div_ceil(threads);
        let shards = (0..n_items).step_by(size).map(|start| {
            let end = (start + size).min(n_items);
            let empty = |from: usize| Block {
                items: from..(from + BLOCK).min(end),
                scores: Vec::new(),
                most: Vec::new(),
                sums: Vec::new(),
                targets: 0.0,
            };
            Self { blocks: (start..end).step_by(BLOCK).map(empty).collect(), drows: Vec::new() }
        });
        shards.collect()
    }

    /// Of every block, its part of the item embedding transposed, and as it is: packed where they are taken again and the copy
    /// is not too large.
    fn factors<'a>(&self, step: &StepContext<'a>, again: bool) -> Vec<[Operand<'a>; 2]> {
        let packed = again && step.table.len() <= PACKED;
        let blocks = self.blocks.iter().map(|block| {
            let table = MatRef::new(&step.table[block.items.start * step.h..block.items.end * step.h], step.h);
            [table.t(), table].map(|table| if packed { Operand::new(step.precision, table) } else { table.into() })
        });
        blocks.collect()
    }

    fn items(&self) -> Range<usize> {
        self.blocks[0].items.start..self.blocks[self.blocks.len() - 1].items.end
    }
}

/// The mean cross-entropy of the targets over all items, the padding item included (equation 11). Writes the gradient of
/// the sequences and adds that of the item embedding.
///
/// # Shapes
/// sequences, dsequences `[B, H]`, targets `[B]`, ditem_embedding `[n_items, H]`
pub fn cross_entropy(
    step: &StepContext,
    shards: &mut [ItemShard],
    sequences: &[f32],
    targets: &[i64],
    dsequences: &mut [f32],
    ditem_embedding: &mut [f32],
) -> f64 {
    let (h, n_items) = (step.h, step.table.len() / step.h);
    let rows = (SCORES / n_items).clamp(16, ROWS);
    let weight = 1.0 / targets.len() as f32;
    let mut loss = 0.0;
    let factors: Vec<Vec<[Operand; 2]>> =
        shards.par_iter().map(|shard| shard.factors(step, targets.len() > rows)).collect();
    let batch = sequences.chunks(rows * h).zip(targets.chunks(rows)).zip(dsequences.chunks_mut(rows * h));
    for ((sequences, targets), dsequences) in batch {
        shards.par_iter_mut().zip(&factors).for_each(|(shard, factors)| {
            let blocks = shard.blocks.iter_mut().zip(factors);
            blocks.for_each(|(block, [table_t, _])| block.score(step, table_t, sequences, targets));
        });
        let blocks = || shards.iter().flat_map(|shard| &shard.blocks);
        let mut most = vec![f32::NEG_INFINITY; targets.len()];
        for block in blocks() {
            most.iter_mut().zip(&block.most).for_each(|(most, &other)| *most = most.max(other));
        }
        let mut sums = vec![0.0_f32; targets.len()];
        for block in blocks() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += block.sums[i] * exp(block.most[i] - most[i]);
            }
        }
        loss += sums.iter().zip(&most).map(|(sum, most)| f64::from(sum.ln()) + f64::from(*most)).sum::<f64>();
        loss -= blocks().map(|block| block.targets).sum::<f64>();

        let rows = Operand::new(step.precision, MatRef::new(sequences, h));
        let size = shards[0].items().len() * h;
        shards.par_iter_mut().zip(&factors).zip(ditem_embedding.par_chunks_mut(size)).for_each(
            |((shard, factors), ditem_embedding)| {
                let start = shard.items().start;
                zeros(&mut shard.drows, sequences.len());
                for (block, [_, table]) in shard.blocks.iter_mut().zip(factors) {
                    block.differentiate(targets, &most, &sums, weight);
                    let items = block.items.start - start..block.items.end - start;
                    let scores = MatRef::new(&block.scores, block.items.len());
                    let ditem_embedding = &mut ditem_embedding[items.start * h..items.end * h];
                    gemm(step.precision, scores.t(), &rows, ditem_embedding, Epilogue::Accumulate);
                    gemm(step.precision, scores, table, &mut shard.drows, Epilogue::Accumulate);
                }
            },
        );
        dsequences.copy_from_slice(&shards[0].drows);
        shards[1..].iter().for_each(|shard| axpy(1.0, &shard.drows, dsequences));
    }
    loss / targets.len() as f64
}

impl Block {
    fn score(&mut self, step: &StepContext, table_t: &Operand, sequences: &[f32], targets: &[i64]) {
        self.scores.resize(targets.len() * self.items.len(), 0.0);
        gemm(step.precision, MatRef::new(sequences, step.h), table_t, &mut self.scores, Epilogue::Overwrite);
        self.targets = self.hits(targets).map(|at| f64::from(self.scores[at])).sum();
        self.most.resize(targets.len(), 0.0);
        self.sums.resize(targets.len(), 0.0);
        exponentials(&mut self.scores, &mut self.most, &mut self.sums);
    }

    /// From exponentials to the gradient of the scores: (softmax − 1 at the target) · weight.
    fn differentiate(&mut self, targets: &[i64], most: &[f32], sums: &[f32], weight: f32) {
        let factors: Vec<f32> = (0..most.len()).map(|i| exp(self.most[i] - most[i]) / sums[i] * weight).collect();
        scale(&mut self.scores, &factors);
        let hits: Vec<usize> = self.hits(targets).collect();
        hits.into_iter().for_each(|at| self.scores[at] -= weight);
    }

    /// Where the targets stand among the scores.
    fn hits(&self, targets: &[i64]) -> impl Iterator<Item = usize> {
        let (items, n, start) = (self.items.clone(), self.items.len(), self.items.start);
        let targets = targets.iter().map(|&target| target as usize).enumerate();
        targets.filter(move |(_, target)| items.contains(target)).map(move |(row, target)| row * n + target - start)
    }
}

/// Replaces every row by exp(x − its largest), and gives the largest and the sum.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn exponentials(scores: &mut [f32], most: &mut [f32], sums: &mut [f32]) {
    let n = scores.len() / most.len();
    for ((row, most), total) in scores.chunks_exact_mut(n).zip(most).zip(sums) {
        *most = max(row);
        row.iter_mut().for_each(|x| *x = exp(*x - *most));
        *total = sum(row);
    }
}

/// Multiplies every row by its factor.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn scale(scores: &mut [f32], factors: &[f32]) {
    for (row, &factor) in scores.chunks_exact_mut(scores.len() / factors.len()).zip(factors) {
        row.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Σ log(1 + eˣ); puts its derivative, weighted, in the place of x.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn logistic(logits: &mut [f32], weight: f32) -> f64 {
    // log(1 + eˣ) = max(x, 0) + log(1 + e^−|x|), so that nothing overflows. Logarithms are taken of products, whose factors
    // are at most 2: a thousand of them stay below 2¹⁰²⁴.
    let mut loss = 0.0;
    for logits in logits.chunks_mut(1000) {
        let (parts, rest) = logits.as_chunks_mut::<LANES>();
        let (mut positive, mut products) = ([0.0_f64; LANES], [1.0_f64; LANES]);
        let mut take = |logits: &mut [f32]| {
            for ((x, positive), product) in logits.iter_mut().zip(&mut positive).zip(&mut products) {
                let small = exp(-x.abs());
                *positive += f64::from(x.max(0.0));
                *product *= 1.0 + f64::from(small);
                *x = if *x >= 0.0 { 1.0 } else { small } / (1.0 + small) * weight;
            }
        };
        for part in parts {
            take(part);
        }
        take(rest);
        loss += positive.iter().sum::<f64>() + products.iter().product::<f64>().ln();
    }
    loss
}

/// BPR's loss of positive and negative items. Writes the gradient of the sequences and adds that of the item embedding;
/// look-ups give the padding item none.
///
/// # Shapes
/// as [`cross_entropy`]; negatives `[B]`
pub fn bpr(
    step: &StepContext,
    sequences: &[f32],
    (targets, negatives): (&[i64], &[i64]),
    dsequences: &mut [f32],
    ditem_embedding: &mut [f32],
) -> f64 {
    let h = step.h;
    let row = |item: i64| &step.table[item as usize * h..][..h];
    let mut loss = 0.0;
    let pairs = targets.iter().zip(negatives).zip(sequences.chunks_exact(h)).zip(dsequences.chunks_exact_mut(h));
    for (((&target, &negative), sequence), dsequence) in pairs {
        let margin = dot(sequence, row(target)) - dot(sequence, row(negative));
        let sigmoid = 1.0 / (1.0 + (-margin).exp());
        loss -= f64::from((sigmoid + 1e-10).ln());
        let dmargin = -sigmoid * (1.0 - sigmoid) / (sigmoid + 1e-10) / targets.len() as f32;
        dsequence.fill(0.0);
        for (item, sign) in [(target, dmargin), (negative, -dmargin)] {
            axpy(sign, row(item), dsequence);
            if item != 0 {
                axpy(sign, sequence, &mut ditem_embedding[item as usize * h..][..h]);
            }
        }
    }
    loss / targets.len() as f64
}

/// One predictor's loss (equation 12) over some of a batch's rows, times their share; adds its gradients, weighted.
///
/// # Shapes
/// sequences, dsequences `[rows, H]`, targets `[rows]`
pub fn predictor(
    step: &StepContext,
    attribute: usize,
    labels: &Tokens,
    (sequences, targets): (&[f32], &[i64]),
    dsequences: &mut [f32],
    (batch, lamda): (usize, f64),
    into: &mut Grads,
) -> f64 {
    let slot = &step.layout.ap[attribute];
    let vocabulary = slot.bias.len();
    // The mean runs over the batch and the vocabulary without the padding token.
    let count = (batch * (vocabulary - 1)) as f64;
    let weight = (lamda / count) as f32;
    let mut logits = Vec::new();
    step.linear(slot, sequences, &mut logits);
    let mut loss = 0.0;
    for (logits, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
        let tokens = || labels.true_of(target as usize);
        loss -= tokens().map(|token| f64::from(logits[token])).sum::<f64>();
        logits[0] = 0.0;
        loss += logistic(&mut logits[1..], weight);
        tokens().for_each(|token| logits[token] -= weight);
    }
    parameters(step, slot, sequences, &logits, &mut into.flat);
    step.transposed(slot, &logits, dsequences, Epilogue::Accumulate);
    loss / count
}
