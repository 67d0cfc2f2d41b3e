//! The losses of encoded sequences with their gradients. The softmax over all items goes block by block: no more than
//! some rows of scores exist at a time, whatever the batch and the catalogue.

use std::ops::Range;

use rayon::prelude::*;

use super::frame::Frame;
use super::kernels::{axpy, dot, exp, max, sum};
use super::layer::{ThreadGrad, parameters, zeros};
use super::product::{Into, Matrix, product};

/// Items of a block: its scores of some rows stay in a core's cache.
const BLOCK: usize = 1024;
/// Most rows whose scores of all items exist at a time, and about the most of such scores, 256 MiB.
const ROWS: usize = 256;
pub(super) const SCORES: usize = 1 << 26;

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
pub(super) struct Share {
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

    fn items(&self) -> Range<usize> {
        self.blocks[0].items.start..self.blocks[self.blocks.len() - 1].items.end
    }
}

/// The mean cross-entropy of the targets over all items, the padding item included (equation 11). Writes the gradient of
/// the sequences and adds that of the item embedding.
///
/// # Shapes
/// sequences, dsequences `[B, H]`, targets `[B]`, dtable `[n_items, H]`
pub(super) fn cross_entropy(
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
    let batch = sequences.chunks(rows * h).zip(targets.chunks(rows)).zip(dsequences.chunks_mut(rows * h));
    for ((sequences, targets), dsequences) in batch {
        shares.par_iter_mut().for_each(|share| {
            share.blocks.iter_mut().for_each(|block| block.score(frame, sequences, targets));
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

        let size = shares[0].items().len() * h;
        shares.par_iter_mut().zip(dtable.par_chunks_mut(size)).for_each(|(share, dtable)| {
            let start = share.items().start;
            zeros(&mut share.drows, sequences.len());
            for block in &mut share.blocks {
                block.differentiate(targets, &most, &sums, weight);
                let items = block.items.start - start..block.items.end - start;
                let scores = Matrix::new(&block.scores, block.items.len());
                let dtable = &mut dtable[items.start * h..items.end * h];
                product(frame.precision, scores.t(), Matrix::new(sequences, h), dtable, Into::Add);
                let table = Matrix::new(&frame.table[block.items.start * h..block.items.end * h], h);
                product(frame.precision, scores, table, &mut share.drows, Into::Add);
            }
        });
        dsequences.copy_from_slice(&shares[0].drows);
        shares[1..].iter().for_each(|share| axpy(1.0, &share.drows, dsequences));
    }
    loss / targets.len() as f64
}

impl Block {
    fn score(&mut self, frame: &Frame, sequences: &[f32], targets: &[i64]) {
        let (h, n) = (frame.h, self.items.len());
        let table = Matrix::new(&frame.table[self.items.start * h..self.items.end * h], h);
        self.scores.resize(targets.len() * n, 0.0);
        product(frame.precision, Matrix::new(sequences, h), table.t(), &mut self.scores, Into::Replace);
        self.targets = self.hits(targets).map(|at| f64::from(self.scores[at])).sum();
        self.most.resize(targets.len(), 0.0);
        self.sums.resize(targets.len(), 0.0);
        exponentials(&mut self.scores, &mut self.most, &mut self.sums);
    }

    /// From exponentials to the gradient of the scores: (softmax − 1 at the target) · weight.
    fn differentiate(&mut self, targets: &[i64], most: &[f32], sums: &[f32], weight: f32) {
        for (i, scores) in self.scores.chunks_exact_mut(self.items.len()).enumerate() {
            let factor = exp(self.most[i] - most[i]) / sums[i] * weight;
            scores.iter_mut().for_each(|score| *score *= factor);
        }
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

/// BPR's loss of positive and negative items. Writes the gradient of the sequences and adds that of the item embedding;
/// look-ups give the padding item none.
///
/// # Shapes
/// as [`cross_entropy`]; negatives `[B]`
pub(super) fn bpr(
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

/// The attributes of every item, as labels.
#[derive(Debug)]
pub(super) struct Labels {
    /// `[n_items, width]`, padded with 0.
    pub ids: Vec<i64>,
    pub width: usize,
}

/// One predictor's loss (equation 12) over some of a batch's rows, times their share; adds its gradients, weighted.
///
/// # Shapes
/// sequences, dsequences `[rows, H]`, targets `[rows]`
pub(super) fn predictor(
    frame: &Frame,
    attribute: usize,
    labels: &Labels,
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
        let tokens = &labels.ids[target as usize * labels.width..][..labels.width];
        let tokens = || tokens.iter().filter(|&&token| token != 0).map(|&token| token as usize);
        loss -= tokens().map(|token| f64::from(logits[token])).sum::<f64>();
        logits[0] = 0.0;
        for x in &mut logits[1..] {
            // log(1 + eˣ) and its derivative, from e^−|x| so that nothing overflows.
            let small = exp(-x.abs());
            loss += f64::from(x.max(0.0) + small.ln_1p());
            *x = if *x >= 0.0 { 1.0 } else { small } / (1.0 + small) * weight;
        }
        tokens().for_each(|token| logits[token] -= weight);
    }
    parameters(frame, slot, sequences, &logits, &mut into.flat);
    frame.transposed(slot, &logits, dsequences, Into::Add);
    loss / count
}
