//! The item embedding, which has a slice of its own.

use std::ops::Range;

use crate::config::Precision;

/// The vectors of the items that are held here: of all, or of those that ranks which share them out have each.
#[derive(Debug, Clone, Copy)]
pub struct ItemEmbedding<'a> {
    /// `[held, H]`
    pub rows: &'a [f32],
    /// The item of the first row.
    pub first: usize,
    /// All items, here and elsewhere.
    pub n_items: usize,
    /// H.
    pub h: usize,
    /// What it is multiplied in.
    pub precision: Precision,
}

impl<'a> ItemEmbedding<'a> {
    /// That of all items, `[n_items, H]`.
    pub fn whole(rows: &'a [f32], h: usize, precision: Precision) -> Self {
        Self { rows, first: 0, n_items: rows.len() / h, h, precision }
    }

    /// The vectors of some items that are held here, `[items, H]`.
    pub fn of(self, items: Range<usize>) -> &'a [f32] {
        &self.rows[(items.start - self.first) * self.h..(items.end - self.first) * self.h]
    }
}
