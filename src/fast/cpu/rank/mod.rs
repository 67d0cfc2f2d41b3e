//! Ranks of targets among all items: a gemm, and a count of better items instead of a sort.

pub mod int16;

use self::int16::Prefilter;
use crate::config::Precision;
use crate::eval::Ranking;
use crate::fast::cpu::encoder::step::StepContext;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};

/// Items of one product: its scores are counted while they are in a core's cache.
pub const BLOCK: usize = 1024;

/// Where the targets of encoded sequences stand; `None` if a score is not a finite number.
///
/// Scores are float32 whatever the precision of training: in bfloat16 items would tie that are not equal.
///
/// # Shapes
/// sequences `[n, H]`, targets `[n]`
pub fn rank(
    step: &StepContext,
    prefilter: Option<&Prefilter>,
    sequences: &[f32],
    targets: &[i64],
    scores: &mut Vec<f32>,
) -> Option<Ranking> {
    if let Some(ranking) = prefilter.and_then(|prefilter| prefilter.rank(step.table, sequences, targets)) {
        return Some(ranking);
    }
    let (h, n) = (step.h, targets.len());
    let n_items = step.table.len() / h;
    scores.resize(n * n_items, 0.0);
    // Blocks lie one after the other, each `[n, items]`.
    let blocks = || (0..n_items).step_by(BLOCK).map(|start| start..(start + BLOCK).min(n_items));
    for items in blocks() {
        let table = MatRef::new(&step.table[items.start * h..items.end * h], h);
        let out = &mut scores[items.start * n..items.end * n];
        gemm(Precision::Float32, MatRef::new(sequences, h), &table.t().into(), out, Epilogue::Overwrite);
    }
    let row = |items: std::ops::Range<usize>, i: usize| {
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
            let (better, equal, finite) = count(&row(items, i)[first..], score);
            if !finite {
                return None;
            }
            ranking.rank[i] += better as usize;
            ranking.ties[i] += equal as usize;
        }
        ranking.ties[i] -= 1; // the target itself
    }
    Some(ranking)
}

/// How many scores are higher than `score`, how many are equal, and whether all are finite.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn count(scores: &[f32], score: f32) -> (u32, u32, bool) {
    let (mut better, mut equal, mut infinite) = (0, 0, 0);
    for &x in scores {
        better += u32::from(x > score);
        equal += u32::from(x == score);
        infinite += u32::from(x.to_bits() & 0x7f80_0000 == 0x7f80_0000);
    }
    (better, equal, infinite == 0)
}
