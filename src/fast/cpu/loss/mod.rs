//! The losses of encoded sequences with their gradients. The softmax over all items goes block by block: no more than
//! some rows of scores exist at a time, whatever the batch and the catalogue.

use std::ops::Range;

use rayon::prelude::*;

use crate::fast::cpu::encoder::input::Tokens;
use crate::fast::cpu::encoder::layer::{ThreadGrad, parameters, zeros};
use crate::fast::cpu::encoder::step::Frame;
use crate::fast::cpu::gemm::{Factor, Matrix, To, product};
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

/// A thread's share of the catalogue.
#[derive(Debug)]
pub struct Share {
    blocks: Vec<Block>,
    /// Its part of the gradient of some rows, `[rows, H]`.
    drows: Vec<f32>,
}

impl Share {
    /// Divides the catalogue among threads.
    pub fn all(n_items: usize, threads: usize) -> Vec<Self> {
        let size = n_items.div_ceil(threads);
        let shares = (0..n_items).step_by(size).map(|start| {
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
        shares.collect()
    }

    /// Of every block, its part of the item embedding transposed, and as it is: packed where they are taken again and the copy
    /// is not too large.
    fn factors<'a>(&self, frame: &Frame<'a>, again: bool) -> Vec<[Factor<'a>; 2]> {
        let packed = again && frame.table.len() <= PACKED;
        let blocks = self.blocks.iter().map(|block| {
            let table = Matrix::new(&frame.table[block.items.start * frame.h..block.items.end * frame.h], frame.h);
            [table.t(), table].map(|table| if packed { Factor::new(frame.precision, table) } else { table.into() })
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
/// sequences, dsequences `[B, H]`, targets `[B]`, dtable `[n_items, H]`
pub fn cross_entropy(
    frame: &Frame,
    shares: &mut [Share],
    sequences: &[f32],
    targets: &[i64],
    dsequences: &mut [f32],
    dtable: &mut [f32],
) -> f64 {
    let (h, n_items) = (frame.h, frame.table.len() / frame.h);
    let rows = (SCORES / n_items).clamp(16, ROWS);
    let weight = 1.0 / targets.len() as f32;
    let mut loss = 0.0;
    let factors: Vec<Vec<[Factor; 2]>> =
        shares.par_iter().map(|share| share.factors(frame, targets.len() > rows)).collect();
    let batch = sequences.chunks(rows * h).zip(targets.chunks(rows)).zip(dsequences.chunks_mut(rows * h));
    for ((sequences, targets), dsequences) in batch {
        shares.par_iter_mut().zip(&factors).for_each(|(share, factors)| {
            let blocks = share.blocks.iter_mut().zip(factors);
            blocks.for_each(|(block, [table_t, _])| block.score(frame, table_t, sequences, targets));
        });
        let blocks = || shares.iter().flat_map(|share| &share.blocks);
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

        let rows = Factor::new(frame.precision, Matrix::new(sequences, h));
        let size = shares[0].items().len() * h;
        shares.par_iter_mut().zip(&factors).zip(dtable.par_chunks_mut(size)).for_each(|((share, factors), dtable)| {
            let start = share.items().start;
            zeros(&mut share.drows, sequences.len());
            for (block, [_, table]) in share.blocks.iter_mut().zip(factors) {
                block.differentiate(targets, &most, &sums, weight);
                let items = block.items.start - start..block.items.end - start;
                let scores = Matrix::new(&block.scores, block.items.len());
                let dtable = &mut dtable[items.start * h..items.end * h];
                product(frame.precision, scores.t(), &rows, dtable, To::Old);
                product(frame.precision, scores, table, &mut share.drows, To::Old);
            }
        });
        dsequences.copy_from_slice(&shares[0].drows);
        shares[1..].iter().for_each(|share| axpy(1.0, &share.drows, dsequences));
    }
    loss / targets.len() as f64
}

impl Block {
    fn score(&mut self, frame: &Frame, table_t: &Factor, sequences: &[f32], targets: &[i64]) {
        self.scores.resize(targets.len() * self.items.len(), 0.0);
        product(frame.precision, Matrix::new(sequences, frame.h), table_t, &mut self.scores, To::Nothing);
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
    frame: &Frame,
    sequences: &[f32],
    (targets, negatives): (&[i64], &[i64]),
    dsequences: &mut [f32],
    dtable: &mut [f32],
) -> f64 {
    let h = frame.h;
    let row = |item: i64| &frame.table[item as usize * h..][..h];
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
                axpy(sign, sequence, &mut dtable[item as usize * h..][..h]);
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
    frame: &Frame,
    attribute: usize,
    labels: &Tokens,
    (sequences, targets): (&[f32], &[i64]),
    dsequences: &mut [f32],
    (batch, lamda): (usize, f64),
    into: &mut ThreadGrad,
) -> f64 {
    let slot = &frame.layout.ap[attribute];
    let vocabulary = slot.bias.len();
    // The mean runs over the batch and the vocabulary without the padding token.
    let count = (batch * (vocabulary - 1)) as f64;
    let weight = (lamda / count) as f32;
    let mut logits = Vec::new();
    frame.linear(slot, sequences, &mut logits);
    let mut loss = 0.0;
    for (logits, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
        let tokens = || labels.true_of(target as usize);
        loss -= tokens().map(|token| f64::from(logits[token])).sum::<f64>();
        logits[0] = 0.0;
        loss += logistic(&mut logits[1..], weight);
        tokens().for_each(|token| logits[token] -= weight);
    }
    parameters(frame, slot, sequences, &logits, &mut into.flat);
    frame.transposed(slot, &logits, dsequences, To::Old);
    loss / count
}
