//! Ranks from all scores in float32.

use std::ops::Range;

use crate::config::Precision;
use crate::eval::Ranking;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::fast::cpu::params::item_embedding::ItemEmbedding;

/// Items of a product: its scores are counted while they are in a core's cache.
const BLOCK: usize = 1024;

/// As [`super::rank`]. `scores` is memory for the scores.
///
/// # Shapes
/// sequences `[n, H]`, targets `[n]`
pub fn rank(items: ItemEmbedding, sequences: &[f32], targets: &[i64], scores: &mut Vec<f32>) -> Option<Ranking> {
    let (n, n_items, h) = (targets.len(), items.n_items(), items.h);
    scores.resize(n * n_items, 0.0);
    // Blocks lie one after the other, each `[n, items]`.
    let blocks = || (0..n_items).step_by(BLOCK).map(|start| start..(start + BLOCK).min(n_items));
    for block in blocks() {
        let rows = MatRef::new(&items.rows[block.start * h..block.end * h], h);
        let out = &mut scores[block.start * n..block.end * n];
        gemm(Precision::Float32, MatRef::new(sequences, h), &rows.t().into(), out, Epilogue::Overwrite);
    }
    let row = |block: Range<usize>, i: usize| {
        let width = block.len();
        &scores[block.start * n + i * width..][..width]
    };
    let mut ranking = Ranking { rank: vec![0; n], ties: vec![0; n] };
    for (i, &target) in targets.iter().enumerate() {
        let start = target as usize / BLOCK * BLOCK;
        let score = row(start..(start + BLOCK).min(n_items), i)[target as usize - start];
        for block in blocks() {
            // Item 0 is padding and stands behind all others.
            let first = usize::from(block.start == 0);
            let counts = count(&row(block, i)[first..], score);
            if !counts.finite {
                return None;
            }
            ranking.rank[i] += counts.better as usize;
            ranking.ties[i] += counts.equal as usize;
        }
        ranking.ties[i] -= 1; // the target itself
    }
    Some(ranking)
}

/// How many scores are higher than another, how many equal it, and whether all are finite.
struct Counts {
    better: u32,
    equal: u32,
    finite: bool,
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn count(scores: &[f32], score: f32) -> Counts {
    let (mut better, mut equal, mut infinite) = (0, 0, 0);
    for &x in scores {
        better += u32::from(x > score);
        equal += u32::from(x == score);
        infinite += u32::from(x.to_bits() & 0x7f80_0000 == 0x7f80_0000);
    }
    Counts { better, equal, finite: infinite == 0 }
}
