//! Counts from all scores in float32.

use super::Counts;
use super::blocks::Block;
use crate::config::Precision;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};

/// The scores of some sequences for some blocks.
#[derive(Debug, Default)]
pub struct Products {
    /// The indices of the blocks that hold targets, whose scores are kept.
    kept: Vec<usize>,
    /// Those of a block after the other, `[n, items]` each, and memory for one more.
    scores: Vec<f32>,
}

impl Products {
    /// As [`super::RankedItems::target_scores`].
    pub fn target_scores(&mut self, blocks: &[Block], h: usize, sequences: &[f32], targets: &[i64]) -> Vec<f32> {
        let place = |target: i64| {
            let at = blocks.partition_point(|block| block.first <= target as usize).checked_sub(1)?;
            let column = target as usize - blocks[at].first;
            (column < blocks[at].rows.len() / h).then_some((at, column))
        };
        let places: Vec<Option<(usize, usize)>> = targets.iter().map(|&target| place(target)).collect();
        self.kept = places.iter().flatten().map(|(at, _)| *at).collect();
        self.kept.sort_unstable();
        self.kept.dedup();
        let sizes = self.kept.iter().map(|&at| blocks[at].rows.len() / h * targets.len());
        let starts: Vec<usize> = sizes.scan(0, |end, size| Some(std::mem::replace(end, *end + size))).collect();
        for (&at, &start) in self.kept.iter().zip(&starts) {
            product(&blocks[at], h, sequences, start, &mut self.scores);
        }
        let scores = places.into_iter().enumerate().filter_map(|(row, place)| {
            let (at, column) = place?;
            let start = starts[self.kept.binary_search(&at).expect("its block is kept")];
            Some(self.scores[start + row * (blocks[at].rows.len() / h) + column])
        });
        scores.collect()
    }

    /// As [`super::RankedItems::count`], behind a call of [`Products::target_scores`] with the same sequences.
    pub fn count(&mut self, blocks: &[Block], h: usize, sequences: &[f32], scores: &[f32]) -> Option<Vec<Counts>> {
        let (n, Self { kept, scores: memory }) = (scores.len(), self);
        let end: usize = kept.iter().map(|&at| blocks[at].rows.len() / h * n).sum();
        let (mut counts, mut next, mut kept) = (vec![[0, 0]; n], 0, kept.iter().peekable());
        for (at, block) in blocks.iter().enumerate() {
            let width = block.rows.len() / h;
            let start = match kept.next_if_eq(&&at) {
                Some(_) => {
                    next += width * n;
                    next - width * n
                }
                None => {
                    product(block, h, sequences, end, memory);
                    end
                }
            };
            // Item 0 is padding and stands behind all others.
            let first = usize::from(block.first == 0);
            for ((row, score), counts) in memory[start..][..n * width].chunks_exact(width).zip(scores).zip(&mut counts)
            {
                let found = count(&row[first..], *score);
                if !found.finite {
                    return None;
                }
                counts[0] += found.better;
                counts[1] += found.equal;
            }
        }
        Some(counts)
    }
}

/// Writes the scores of a block to `out[start..]`.
fn product(block: &Block, h: usize, sequences: &[f32], start: usize, out: &mut Vec<f32>) {
    let len = block.rows.len() / h * (sequences.len() / h);
    if out.len() < start + len {
        out.resize(start + len, 0.0);
    }
    let (rows, out) = (MatRef::new(&block.rows[..], h), &mut out[start..][..len]);
    gemm(Precision::Float32, MatRef::new(sequences, h), &rows.t().into(), out, Epilogue::Overwrite);
}

/// How many scores are higher than another, how many equal it, and whether all are finite.
struct Found {
    better: u32,
    equal: u32,
    finite: bool,
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn count(scores: &[f32], score: f32) -> Found {
    let (mut better, mut equal, mut infinite) = (0, 0, 0);
    for &x in scores {
        better += u32::from(x > score);
        equal += u32::from(x == score);
        infinite += u32::from(x.to_bits() & 0x7f80_0000 == 0x7f80_0000);
    }
    Found { better, equal, finite: infinite == 0 }
}
