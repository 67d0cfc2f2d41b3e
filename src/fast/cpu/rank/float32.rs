//! Ranks from all scores in float32.

use std::ops::Range;

use crate::config::Precision;
use crate::eval::Ranking;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};

/// Items of a product: its scores are counted while they are in a core's cache.
const BLOCK: usize = 1024;

/// As [`super::rank`]. `scores` is memory for the scores.
///
/// # Shapes
/// item_embedding `[n_items, H]`, sequences `[n, H]`, targets `[n]`
pub fn rank(
    item_embedding: &[f32],
    h: usize,
    sequences: &[f32],
    targets: &[i64],
    scores: &mut Vec<f32>,
) -> Option<Ranking> {
    let (n, n_items) = (targets.len(), item_embedding.len() / h);
    scores.resize(n * n_items, 0.0);
    // Blocks lie one after the other, each `[n, items]`.
    let blocks = || (0..n_items).step_by(BLOCK).map(|start| start..(start + BLOCK).min(n_items));
    for items in blocks() {
        let rows = MatRef::new(&item_embedding[items.start * h..items.end * h], h);
        let out = &mut scores[items.start * n..items.end * n];
        gemm(Precision::Float32, MatRef::new(sequences, h), &rows.t().into(), out, Epilogue::Overwrite);
    }
    let row = |items: Range<usize>, i: usize| {
        let width = items.len();
        &scores[items.start * n + i * width..][..width]
    };
    let mut ranking = Ranking { rank: vec![0; n], ties: vec![0; n] };
    for (i, &target) in targets.iter().enumerate() {
        let start = target as usize / BLOCK * BLOCK;
        let score = row(start..(start + BLOCK).min(n_items), i)[target as usize - start];
        for items in blocks() {
            // Item 0 is padding and stands behind all others.
            let first = usize::from(items.start == 0);
            let counts = count(&row(items, i)[first..], score);
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
