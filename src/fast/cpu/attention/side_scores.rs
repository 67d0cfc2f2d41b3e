//! The scores of the streams that are not the item's, looked up or computed for two rows of a chunk.

use std::ops::Range;

use crate::fast::cpu::ops::simd::{axpy, copy, dot_heads};

/// What a stream's scores follow from, with the vector of every row.
#[derive(Debug, Clone, Copy)]
pub enum SideScores<'a> {
    /// The scores between n vectors, by query and key: `[n, n, heads]`.
    Scores { scores: &'a [f32], n: usize, rows: &'a [u32] },
    /// Queries, then keys of the vectors: `[n, 2 d]`.
    Sides { sides: &'a [f32], d: usize, rows: &'a [u32] },
}

impl SideScores<'_> {
    /// The scores of two rows in every head.
    #[inline(always)]
    pub fn score(self, query: usize, key: usize, to: &mut [f32]) {
        match self {
            Self::Scores { scores, n, rows } => copy(&scores[cell(rows, n, to.len(), query, key)], to),
            Self::Sides { sides, d, rows } => {
                let (query, key) = (side(rows, d, query, 0), side(rows, d, key, 1));
                dot_heads(&sides[query..][..d], &sides[key..][..d], to);
            }
        }
    }

    /// Adds to the table's gradient what follows from that of two rows' scores.
    #[inline(always)]
    pub fn differentiate(self, query: usize, key: usize, dscores: &[f32], into: &mut [f32]) {
        match self {
            Self::Scores { n, rows, .. } => {
                let to = &mut into[cell(rows, n, dscores.len(), query, key)];
                for (to, from) in to.iter_mut().zip(dscores) {
                    *to += from;
                }
            }
            Self::Sides { sides, d, rows } => {
                let part = d / dscores.len();
                let (query, key) = (side(rows, d, query, 0), side(rows, d, key, 1));
                for (head, &dscore) in dscores.iter().enumerate() {
                    let [query, key] = [query, key].map(|side| side + head * part);
                    axpy(dscore, &sides[key..][..part], &mut into[query..][..part]);
                    axpy(dscore, &sides[query..][..part], &mut into[key..][..part]);
                }
            }
        }
    }
}

/// Where the scores of two rows stand.
#[inline(always)]
fn cell(rows: &[u32], n: usize, heads: usize, query: usize, key: usize) -> Range<usize> {
    let start = (rows[query] as usize * n + rows[key] as usize) * heads;
    start..start + heads
}

/// Where the query (0) or the key (1) of a row begins.
#[inline(always)]
fn side(rows: &[u32], d: usize, row: usize, which: usize) -> usize {
    (2 * rows[row] as usize + which) * d
}
