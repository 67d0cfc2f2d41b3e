//! The masks of a chunk's sequences: of future keys, and dropout's of probabilities.

use super::Attention;
use super::geometry::{Queries, Sequence};
use crate::fast::cpu::ops::simd::{LANES, Lanes, copy};

/// Added to the scores of padded and future keys, as in the reference.
pub const MASKED: f32 = -10_000.0;

/// What is multiplied with a sequence's probabilities, and added to its scores: maps.
#[derive(Debug)]
pub struct Masks {
    /// Of future keys: 0 or [`MASKED`].
    pub future: Vec<Lanes>,
    /// Dropout's factors.
    pub drops: Vec<Lanes>,
    /// The factors of one query, by key and head.
    row: Vec<f32>,
}

impl Masks {
    #[inline(always)]
    pub fn new(attention: Attention) -> Self {
        Self { future: Vec::new(), drops: Vec::new(), row: vec![0.0; attention.length * attention.heads] }
    }

    /// Dropout's factors of a query's only key, by head.
    #[inline(always)]
    pub fn single(&mut self, attention: Attention, row: usize) -> &[f32] {
        if !attention.drops.mask(row, &mut self.row) {
            self.row.fill(1.0);
        }
        &self.row[..attention.heads]
    }

    /// Draws the factors of a sequence.
    #[inline(always)]
    pub fn draw(&mut self, attention: Attention, number: usize, sequence: Sequence) {
        let (heads, blocks) = (attention.heads, attention.blocks(sequence));
        let width = blocks * LANES;
        // Sequences of one chunk have the same number of keys, unless padding is left out.
        if self.drops.len() != sequence.rows * blocks {
            self.future = vec![[0.0; LANES]; sequence.rows * blocks];
            self.drops = vec![[1.0; LANES]; sequence.rows * blocks];
            if attention.queries == Queries::All {
                let keys = self.future.as_flattened_mut().chunks_exact_mut(width).enumerate();
                let from = attention.from();
                keys.for_each(|(j, future)| future[..j.saturating_sub(from) * heads].fill(MASKED));
            }
        }
        for (q, (row, _)) in attention.queries(number, sequence).enumerate() {
            if attention.drops.mask(row, &mut self.row) {
                let drops = self.drops.as_flattened_mut().chunks_exact_mut(width);
                for (to, drops) in drops.zip(self.row.chunks_exact(heads)) {
                    copy(drops, &mut to[q * heads..]);
                }
            }
        }
    }
}
