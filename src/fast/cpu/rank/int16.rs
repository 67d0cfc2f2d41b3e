//! A prefilter before the ranking: scores in whole numbers, whose products take half of float32's time, tell almost all items
//! apart from the target. What they leave undecided is scored in float32, so that ranks are those of float32's scores.
//!
//! Sequences and items are scaled and rounded to 16 bits, with norms that keep their products within 32 bits. By Cauchy and
//! Schwarz a score moves by ‖δx‖ · ‖e‖ + ‖x‖ · ‖δe‖ at most, where δ is what rounding moves a vector by: at H = 256 by 0.3 % of
//! ‖x‖ · ‖e‖ / √H, which is by how much scores of random vectors spread.

use std::ops::Range;

use rayon::prelude::*;

use super::BLOCK;
use crate::eval::Ranking;
use crate::fast::cpu::gemm::{MatRef, Operand, gemm_i16};
use crate::fast::cpu::ops::simd::dot;

/// The norm of a scaled vector, at most: two of them, rounded, have a product within 32 bits where H is at most [`WIDEST`].
const NORM: f64 = 46_240.0;
const WIDEST: usize = 40_000;
/// An element of a scaled vector, at most.
const LARGEST: f64 = 32_767.0;
/// By how much float32 rounds an element as it is scaled, at most: half a unit in the last place, and something to spare.
const SCALED: f64 = 2e-3;
/// Products of norms for which scores, and all that matters of their terms, are within float32's range.
const RANGE: Range<f64> = 1e-25..1e38;

/// The item embedding in whole numbers.
#[derive(Debug)]
pub struct Prefilter {
    /// The table transposed, by blocks of items.
    blocks: Vec<Operand<'static>>,
    h: usize,
    scale: f64,
    /// The largest norm of an item.
    norm: f64,
    /// By how much rounding moves an item, at most.
    moved: f64,
}

impl Prefilter {
    /// `None` where this processor has no such products here, or the embedding is zero or not finite.
    ///
    /// # Shapes
    /// table `[n_items, H]`
    pub fn new(table: &[f32], h: usize) -> Option<Self> {
        let norms = table.par_chunks(h).map(norm);
        let norm = norms.max_by(f64::total_cmp)?;
        if !norm.is_finite() || norm == 0.0 || h > WIDEST {
            return None;
        }
        let scale = scale(table, norm);
        let blocks = table.par_chunks(BLOCK * h).map(|table| {
            let scaled: Vec<f32> = scale_into(table, scale).collect();
            let moved = scaled.chunks_exact(h).map(moved).fold(0.0, f64::max);
            Some((Operand::pack_i16(MatRef::new(&scaled, h).t())?, moved))
        });
        let (blocks, moved): (_, Vec<f64>) = blocks.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        Some(Self { blocks, h, scale, norm, moved: moved.into_iter().fold(0.0, f64::max) })
    }

    /// As [`super::rank`], with the table that it was made of; `None` if scores may leave float32's range.
    pub fn rank(&self, table: &[f32], sequences: &[f32], targets: &[i64]) -> Option<Ranking> {
        let (h, n) = (self.h, targets.len());
        let item = |item: usize| &table[item * h..][..h];
        // A term of `dot` is rounded once as a gemm, and once whenever it is part of a sum.
        let float32 = (h as f64 / 16.0 + 24.0) * f64::from(f32::EPSILON) * NORM * NORM;
        let (mut whole, mut bounds) = (Vec::with_capacity(sequences.len()), Vec::with_capacity(n));
        for (sequence, &target) in sequences.chunks_exact(h).zip(targets) {
            let norm = norm(sequence);
            if !RANGE.contains(&(norm * self.norm)) {
                return None;
            }
            let scale = scale(sequence, norm);
            let start = whole.len();
            whole.extend(scale_into(sequence, scale));
            let moved = moved(&whole[start..]);
            let margin = moved * NORM + (NORM + moved) * self.moved + float32;
            let score = score(sequence, item(target as usize));
            let middle = f64::from(score) * scale * self.scale;
            // Conversions saturate.
            bounds.push((score, [(middle - margin).ceil() as i32, (middle + margin).floor() as i32]));
        }
        let mut ranking = Ranking { rank: vec![0; n], ties: vec![0; n] };
        let (mut scores, mut undecided) = (vec![0; n * BLOCK], Vec::new());
        for (block, factor) in self.blocks.iter().enumerate() {
            let items = factor.shape()[1];
            let scores = &mut scores[..n * items];
            gemm_i16(MatRef::new(&whole, h), factor, scores);
            for (i, (row, &(score_of_target, bounds))) in scores.chunks_exact(items).zip(&bounds).enumerate() {
                // Item 0 is padding and stands behind all others.
                let first = usize::from(block == 0);
                undecided.clear();
                ranking.rank[i] += better(&row[first..], bounds, &mut undecided);
                for at in &undecided {
                    let score = score(&sequences[i * h..][..h], item(block * BLOCK + first + at));
                    ranking.rank[i] += usize::from(score > score_of_target);
                    ranking.ties[i] += usize::from(score == score_of_target);
                }
            }
        }
        ranking.ties.iter_mut().for_each(|ties| *ties -= 1); // the target itself
        Some(ranking)
    }
}

/// ‖x‖.
fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// What takes vectors of this norm at most to whole numbers.
fn scale(vectors: &[f32], norm: f64) -> f64 {
    let largest = vectors.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    (NORM / norm).min(LARGEST / f64::from(largest))
}

fn scale_into(x: &[f32], scale: f64) -> impl Iterator<Item = f32> {
    x.iter().map(move |&x| (f64::from(x) * scale) as f32)
}

/// By how much rounding moves a scaled vector, at most.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn moved(x: &[f32]) -> f64 {
    let rest: Vec<f32> = x.iter().map(|x| x - x.round_ties_even()).collect();
    f64::from(dot(&rest, &rest)).sqrt() * 1.001 + SCALED * (x.len() as f64).sqrt()
}

/// The score of an item in float32.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn score(sequence: &[f32], item: &[f32]) -> f32 {
    dot(sequence, item)
}

/// How many scores lie above the bounds; adds the places of those between them, bounds included.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn better(scores: &[i32], [low, high]: [i32; 2], between: &mut Vec<usize>) -> usize {
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
            let places = scores.iter().enumerate().filter(|(_, score)| (low..=high).contains(score));
            between.extend(places.map(|(i, _)| part * PART + i));
        }
    }
    better
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n).map(|_| (splitmix::next(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
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
            let Some(prefilter) = Prefilter::new(&table, h) else {
                return println!("left out: this processor has no such products");
            };
            let found = prefilter.rank(&table, &sequences, &targets).expect("scores are in float32's range");
            assert_eq!(found, expected(&table, h, &sequences, &targets), "H = {h}, {n_items} items");
            assert!(h == 1 || found.ties[0] == 2, "{:?}", found.ties);
        }
    }

    #[test]
    fn what_may_leave_float32s_range_is_left_to_float32() {
        let (mut table, sequences) = (vec![1.0; 40], vec![1.0; 4]);
        let Some(prefilter) = Prefilter::new(&table, 4) else {
            return println!("left out: this processor has no such products");
        };
        assert!(prefilter.rank(&table, &[1.0, f32::NAN, 0.0, 0.0], &[1]).is_none());
        assert!(prefilter.rank(&table, &[1.0, f32::INFINITY, 0.0, 0.0], &[1]).is_none());
        assert!(prefilter.rank(&table, &[f32::MAX; 4], &[1]).is_none());
        assert!(prefilter.rank(&table, &[1e-30; 4], &[1]).is_none());
        assert!(prefilter.rank(&table, &sequences, &[1]).is_some());
        table[5] = f32::NAN;
        assert!(Prefilter::new(&table, 4).is_none());
    }
}
