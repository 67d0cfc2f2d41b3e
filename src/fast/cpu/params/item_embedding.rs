//! The item embedding, which has a slice of its own.

use crate::config::Precision;

/// The vectors of all items.
#[derive(Debug, Clone, Copy)]
pub struct ItemEmbedding<'a> {
    /// `[n_items, H]`
    pub rows: &'a [f32],
    /// H.
    pub h: usize,
    /// What it is multiplied in.
    pub precision: Precision,
}

impl<'a> ItemEmbedding<'a> {
    pub fn n_items(self) -> usize {
        self.rows.len() / self.h
    }

    /// The vector of an item, `[H]`.
    pub fn row(self, item: usize) -> &'a [f32] {
        &self.rows[item * self.h..][..self.h]
    }
}
