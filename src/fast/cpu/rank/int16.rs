//! The int16 prefilter: scores in integers, whose products take half of float32's time, tell almost all items apart
//! from the target. What they leave undecided is scored in float32, so that ranks are those of float32 scores.
//!
//! Sequences and items are scaled and rounded to int16, with norms that keep their products within 32 bits. By Cauchy
//! and Schwarz a score moves by at most ‖δx‖ · ‖e‖ + ‖x‖ · ‖δe‖, where δ is what rounding changes of a vector: at H =
//! 256 by 0.3 % of ‖x‖ · ‖e‖ / √H, which is how much scores of random vectors spread.

use std::ops::Range;

use rayon::prelude::*;

use super::Counts;
use super::blocks::{BLOCK, Block};
use crate::fast::cpu::gemm::{MatRef, Operand, gemm_i16, pack_operand_i16};
use crate::fast::cpu::ops::clip::larger;
use crate::fast::cpu::ops::simd::dot;

/// The largest norm of a scaled vector. Rounding adds at most √H / 2 to it, and (46,240 + √40,000 / 2)² = 46,340² < 2³¹: two
/// of them have a product within 32 bits where H is at most [`WIDEST`].
const NORM: f64 = 46_240.0;
const WIDEST: usize = 40_000;
/// The largest element of a scaled vector.
const LARGEST: f64 = 32_767.0;
/// How much float32 rounds an element as it is scaled, at most: half a unit in the last place, and something to spare.
const SCALING_ERROR: f64 = 2e-3;
/// Products of norms for which scores, and all that matters of their terms, are within float32's range.
const RANGE: Range<f64> = 1e-25..1e38;

/// The item embedding in int16.
#[derive(Debug)]
pub struct Prefilter {
    /// `[H, items]` by block of items.
    blocks: Vec<Operand<'static>>,
    h: usize,
    scale: f64,
    /// The largest norm of an item.
    norm: f64,
    /// The largest ‖δe‖ of a scaled item.
    item_error: f64,
}

/// The target of a sequence: its score in float32, and the integer scores between which float32 must decide.
struct Target {
    score: f32,
    undecided: [i32; 2],
}

/// The largest norm and the largest element of vectors.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub norm: f64,
    pub largest: f32,
}

impl Extent {
    /// Of vectors `[n, H]`.
    pub fn of(vectors: &[f32], h: usize) -> Self {
        let norm = vectors.par_chunks(h).map(norm).reduce(|| 0.0, larger);
        Self { norm, largest: largest(vectors) }
    }

    /// Of these vectors and others. What is no number is the largest norm.
    pub fn and(self, other: Self) -> Self {
        Self { norm: larger(self.norm, other.norm), largest: self.largest.max(other.largest) }
    }
}

impl Prefilter {
    /// `None` where the processor has no integer kernel here, or the embedding is zero or not finite.
    pub fn new(blocks: &[Block], h: usize, Extent { norm, largest }: Extent) -> Option<Self> {
        if !norm.is_finite() || norm == 0.0 || h > WIDEST {
            return None;
        }
        let scale = scale(norm, largest);
        let blocks = blocks.par_iter().map(|Block { rows, .. }| {
            let scaled: Vec<f32> = scaled(rows, scale).collect();
            let error = scaled.chunks_exact(h).map(rounding_error).fold(0.0, f64::max);
            Some((pack_operand_i16(MatRef::new(&scaled, h).t())?, error))
        });
        let (blocks, errors): (_, Vec<f64>) = blocks.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        Some(Self { blocks, h, scale, norm, item_error: errors.into_iter().fold(0.0, f64::max) })
    }

    /// Whether no score of these sequences may leave float32's range.
    pub fn takes(&self, sequences: &[f32]) -> bool {
        sequences.chunks_exact(self.h).all(|sequence| RANGE.contains(&(norm(sequence) * self.norm)))
    }

    /// As [`super::RankedItems::count`], with the blocks that it was made of, for sequences that it takes.
    pub fn count(&self, blocks: &[Block], sequences: &[f32], scores: &[f32]) -> Vec<Counts> {
        let (h, n) = (self.h, scores.len());
        let mut scaled = Vec::with_capacity(sequences.len());
        let rows = sequences.chunks_exact(h).zip(scores);
        let targets: Vec<Target> = rows.map(|(row, &score)| self.target(row, score, &mut scaled)).collect();
        let mut counts = vec![[0, 0]; n];
        let (mut products, mut undecided) = (vec![0; n * BLOCK], Vec::new());
        for (block, operand) in blocks.iter().zip(&self.blocks) {
            let width = operand.shape()[1];
            let products = &mut products[..n * width];
            gemm_i16(MatRef::new(&scaled, h), operand, products);
            for (i, (row, target)) in products.chunks_exact(width).zip(&targets).enumerate() {
                // Item 0 is padding and stands behind all others.
                let first = usize::from(block.first == 0);
                undecided.clear();
                counts[i][0] += count_better(&row[first..], target.undecided, &mut undecided) as u32;
                for at in &undecided {
                    let score = score(&sequences[i * h..][..h], &block.rows[(first + at) * h..][..h]);
                    counts[i][0] += u32::from(score > target.score);
                    counts[i][1] += u32::from(score == target.score);
                }
            }
        }
        counts
    }

    /// Scales a sequence, behind those in `scaled`, and gives its target, which has this score.
    fn target(&self, sequence: &[f32], score: f32, scaled_sequences: &mut Vec<f32>) -> Target {
        // A term of `dot` is rounded once as a product, and once whenever it is part of a sum.
        let float32 = (self.h as f64 / 16.0 + 24.0) * f64::from(f32::EPSILON) * NORM * NORM;
        let scale = scale(norm(sequence), largest(sequence));
        let start = scaled_sequences.len();
        scaled_sequences.extend(scaled(sequence, scale));
        let error = rounding_error(&scaled_sequences[start..]);
        let margin = error * NORM + (NORM + error) * self.item_error + float32;
        let middle = f64::from(score) * scale * self.scale;
        // Conversions saturate.
        Target { score, undecided: [(middle - margin).ceil() as i32, (middle + margin).floor() as i32] }
    }
}

/// ‖x‖.
fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// The largest |x|.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()))
}

/// The factor that takes vectors of at most this norm and these elements to integers.
fn scale(norm: f64, largest: f32) -> f64 {
    (NORM / norm).min(LARGEST / f64::from(largest))
}

fn scaled(x: &[f32], scale: f64) -> impl Iterator<Item = f32> {
    x.iter().map(move |&x| (f64::from(x) * scale) as f32)
}

/// ‖δx‖ of a scaled vector, at most.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn rounding_error(x: &[f32]) -> f64 {
    let rest: Vec<f32> = x.iter().map(|x| x - x.round_ties_even()).collect();
    f64::from(dot(&rest, &rest)).sqrt() * 1.001 + SCALING_ERROR * (x.len() as f64).sqrt()
}

/// The score of an item in float32.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn score(sequence: &[f32], item: &[f32]) -> f32 {
    dot(sequence, item)
}

/// How many scores lie above `high`; adds the indices of those between `low` and `high`, both included.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn count_better(scores: &[i32], [low, high]: [i32; 2], between: &mut Vec<usize>) -> usize {
    /// Scores that are counted before they are looked at one by one.
    const PART: usize = 64;
    let mut better = 0;
    for (part, scores) in scores.chunks(PART).enumerate() {
        let (mut above, mut not_below) = (0_u32, 0_u32);
        for &score in scores {
            above += u32::from(score > high);
            not_below += u32::from(score >= low);
        }
        better += above as usize;
        if above != not_below {
            let indices = scores.iter().enumerate().filter(|(_, score)| (low..=high).contains(score));
            between.extend(indices.map(|(i, _)| part * PART + i));
        }
    }
    better
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Precision;
    use crate::eval::Ranking;
    use crate::fast::cpu::gemm::can_run_i16;
    use crate::fast::cpu::params::item_embedding::ItemEmbedding;
    use crate::fast::cpu::rank::blocks::blocks;
    use crate::fast::cpu::rank::ranking;
    use crate::splitmix;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n).map(|_| (splitmix::next(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    fn blocks_of(rows: &[f32], h: usize) -> Vec<Block<'_>> {
        blocks(ItemEmbedding::whole(rows, h, Precision::Float32), &[])
    }

    fn new(table: &[f32], h: usize) -> Option<Prefilter> {
        Prefilter::new(&blocks_of(table, h), h, Extent::of(table, h))
    }

    /// A prefilter, where the processor has one.
    fn prefilter(table: &[f32], h: usize) -> Option<Prefilter> {
        can_run_i16().then(|| new(table, h).expect("a finite embedding"))
    }

    /// Ranks by all scores in float32.
    fn expected(table: &[f32], h: usize, sequences: &[f32], targets: &[i64]) -> Ranking {
        let mut ranking = Ranking { rank: Vec::new(), ties: Vec::new() };
        for (sequence, &target) in sequences.chunks(h).zip(targets) {
            let scores: Vec<f32> = table.chunks(h).skip(1).map(|item| score(sequence, item)).collect();
            let own = scores[target as usize - 1];
            ranking.rank.push(scores.iter().filter(|&&score| score > own).count());
            ranking.ties.push(scores.iter().filter(|&&score| score == own).count() - 1);
        }
        ranking
    }

    #[test]
    fn ranks_are_those_of_float32_whatever_the_size_of_vectors() {
        for (h, n_items, factor) in
            [(1, 30, 1.0), (7, 1500, 1.0), (64, 3000, 1e-20), (64, 2100, 1e15), (300, 1100, 1e-3)]
        {
            let mut table: Vec<f32> = numbers(n_items * h, 212).iter().map(|x| x * factor).collect();
            let sequences = numbers(40 * h, 5);
            let targets: Vec<i64> = (0..40).map(|i| 1 + i * 25 % (n_items as i64 - 1)).collect();
            // Items that tie, and one that towers over all others.
            table.copy_within(h..2 * h, 9 * h);
            table.copy_within(h..2 * h, 20 * h);
            table[12 * h..13 * h].iter_mut().for_each(|x| *x *= 1e3);
            let Some(prefilter) = prefilter(&table, h) else { return };
            assert!(prefilter.takes(&sequences), "scores are in float32's range");
            let rows = sequences.chunks(h).zip(&targets);
            let scores: Vec<f32> = rows.map(|(row, &at)| score(row, &table[at as usize * h..][..h])).collect();
            let found = ranking(&prefilter.count(&blocks_of(&table, h), &sequences, &scores));
            assert_eq!(found, expected(&table, h, &sequences, &targets), "H = {h}, {n_items} items");
            assert!(h == 1 || found.ties[0] == 2, "{:?}", found.ties);
        }
    }

    #[test]
    fn what_may_leave_float32s_range_is_left_to_float32() {
        let (mut table, sequences) = (vec![1.0; 40], vec![1.0; 4]);
        let Some(prefilter) = prefilter(&table, 4) else { return };
        assert!(!prefilter.takes(&[1.0, f32::NAN, 0.0, 0.0]));
        assert!(!prefilter.takes(&[1.0, f32::INFINITY, 0.0, 0.0]));
        assert!(!prefilter.takes(&[f32::MAX; 4]));
        assert!(!prefilter.takes(&[1e-30; 4]));
        assert!(prefilter.takes(&sequences));
        // The processor's own has its sign set.
        for nan in [f32::NAN, -f32::NAN] {
            assert!(!prefilter.takes(&[1.0, nan, 0.0, 0.0]));
            table[5] = nan;
            assert!(new(&table, 4).is_none());
        }
    }
}
