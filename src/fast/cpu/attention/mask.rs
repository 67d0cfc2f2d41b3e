//! The masks of a sequence: of keys at later positions than the query (causal), and dropout's of the probabilities.

use super::geometry::{Geometry, Queries, SequenceLanes};
use crate::fast::cpu::ops::dropout::RowDropout;
use crate::fast::cpu::ops::simd::{LANES, Lanes, copy};

/// Added to the scores of padded and future keys, as in the reference.
pub const MASKED: f32 = -10_000.0;

/// The masks of one sequence after the other, as score maps `[keys, blocks]`.
#[derive(Debug)]
pub struct ScoreMasks<'a> {
    geometry: Geometry,
    dropout: RowDropout<'a>,
    /// Added to scores: 0, or [`MASKED`] for a key at a later position than the query. All 0 for the one query of the last
    /// layer.
    pub causal: Vec<Lanes>,
    /// Multiplied with probabilities: 0 or the dropout's scale.
    pub dropout_mask: Vec<Lanes>,
    /// The factors of one query, `[keys, heads]`.
    row: Vec<f32>,
}

impl<'a> ScoreMasks<'a> {
    #[inline(always)]
    pub fn new(geometry: Geometry, dropout: RowDropout<'a>) -> Self {
        let row = vec![0.0; geometry.length * geometry.heads];
        Self { geometry, dropout, causal: Vec::new(), dropout_mask: Vec::new(), row }
    }

    /// The dropout's factors of a query's only key, `[heads]`.
    #[inline(always)]
    pub fn single_key(&mut self, row: usize) -> &[f32] {
        if !self.dropout.mask(row, &mut self.row) {
            self.row.fill(1.0);
        }
        &self.row[..self.geometry.heads]
    }

    /// Draws the masks of a sequence.
    #[inline(always)]
    pub fn draw(&mut self, lanes: SequenceLanes) {
        let (heads, width) = (self.geometry.heads, lanes.width());
        // Sequences of one micro-batch have the same number of keys, unless padding is left out.
        if self.dropout_mask.len() != lanes.map_len() {
            self.causal = vec![[0.0; LANES]; lanes.map_len()];
            self.dropout_mask = vec![[1.0; LANES]; lanes.map_len()];
            if self.geometry.queries == Queries::All {
                let keys = self.causal.as_flattened_mut().chunks_exact_mut(width).enumerate();
                let first = self.geometry.first_query();
                keys.for_each(|(j, causal)| causal[..j.saturating_sub(first) * heads].fill(MASKED));
            }
        }
        for (q, query) in self.geometry.queries(lanes).enumerate() {
            if self.dropout.mask(query.row, &mut self.row) {
                let keys = self.dropout_mask.as_flattened_mut().chunks_exact_mut(width);
                for (key, factors) in keys.zip(self.row.chunks_exact(heads)) {
                    copy(factors, &mut key[q * heads..]);
                }
            }
        }
    }
}
