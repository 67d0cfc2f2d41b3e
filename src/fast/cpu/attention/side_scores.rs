//! The scores of attributes and positions, for two rows of a micro-batch.

use std::ops::Range;

use crate::fast::cpu::ops::simd::{axpy, copy, dot_heads};

/// The scores of one stream: of an attribute, or of the positions.
#[derive(Debug, Clone, Copy)]
pub enum SideScores<'a> {
    /// Looked up among the scores between n vectors (`score_table.rs`).
    Table {
        /// By query and key, `[n, n, heads]`.
        scores: &'a [f32],
        n: usize,
        /// The index of every row's vector, `[rows]`.
        vector_index: &'a [u32],
    },
    /// Computed from the projections of the vectors.
    Projected {
        /// Query, then key of every vector, `[n, 2, d]`.
        projections: &'a [f32],
        d: usize,
        /// The index of every row's vector, `[rows]`.
        vector_index: &'a [u32],
    },
}

impl SideScores<'_> {
    /// Writes the scores of the row `query` for the row `key`.
    ///
    /// # Shapes
    /// out `[heads]`
    #[inline(always)]
    pub fn forward(self, query: usize, key: usize, out: &mut [f32]) {
        match self {
            Self::Table { scores, n, vector_index } => copy(&scores[cell(vector_index, n, out.len(), query, key)], out),
            Self::Projected { projections, d, vector_index } => {
                let (query, key) = (projection(vector_index, d, query, 0), projection(vector_index, d, key, 1));
                dot_heads(&projections[query..][..d], &projections[key..][..d], out);
            }
        }
    }

    /// Adds what follows from the gradient of two rows' scores to that of the table or of the projections.
    ///
    /// # Shapes
    /// dscores `[heads]`, into as the table or the projections
    #[inline(always)]
    pub fn backward(self, query: usize, key: usize, dscores: &[f32], into: &mut [f32]) {
        match self {
            Self::Table { n, vector_index, .. } => {
                let to = &mut into[cell(vector_index, n, dscores.len(), query, key)];
                for (to, from) in to.iter_mut().zip(dscores) {
                    *to += from;
                }
            }
            Self::Projected { projections, d, vector_index } => {
                let width = d / dscores.len();
                let (query, key) = (projection(vector_index, d, query, 0), projection(vector_index, d, key, 1));
                for (head, &dscore) in dscores.iter().enumerate() {
                    let [query, key] = [query, key].map(|start| start + head * width);
                    axpy(dscore, &projections[key..][..width], &mut into[query..][..width]);
                    axpy(dscore, &projections[query..][..width], &mut into[key..][..width]);
                }
            }
        }
    }
}

/// The range of the scores of two rows.
#[inline(always)]
fn cell(vector_index: &[u32], n: usize, heads: usize, query: usize, key: usize) -> Range<usize> {
    let start = (vector_index[query] as usize * n + vector_index[key] as usize) * heads;
    start..start + heads
}

/// Where the query (0) or the key (1) of a row begins.
#[inline(always)]
fn projection(vector_index: &[u32], d: usize, row: usize, which: usize) -> usize {
    (2 * vector_index[row] as usize + which) * d
}
