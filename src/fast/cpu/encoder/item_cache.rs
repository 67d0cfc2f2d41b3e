//! The item cache: query, key and value of every item in the first layer, for an evaluation of more positions than
//! items.
//!
//! Without dropout the first layer's input is a function of the item in SASRecD, and with it that layer's query, key
//! and value.

use rayon::prelude::*;

use super::input::Input;
use super::step::StepContext;
use crate::fast::cpu::ops::dropout::{RowDropout, Stream};
use crate::fast::cpu::ops::layer_norm::{Normalized, norm_dropout};
use crate::fast::cpu::params::layout::QkvRange;

/// Items that a thread computes at a time.
pub const BLOCK: usize = 512;
/// The most floats of a cache, 256 MiB.
const LIMIT: usize = 1 << 26;

impl StepContext<'_> {
    /// Whether an evaluation of so many positions takes the first layer's rows from an item cache: where its input is the
    /// item alone, where it is not the last layer too, and where a cache saves more than it costs, and takes not too much
    /// memory.
    pub fn wants_item_cache(&self, positions: usize) -> bool {
        let (n_items, h) = (self.items.n_items, self.h);
        let is_possible = matches!(self.input, Input::Item) && self.layout.layers.len() > 1;
        is_possible && positions >= 2 * n_items && 3 * n_items * h <= LIMIT
    }

    /// The cache's rows of some items. All parts but the last have a number of rows that [`BLOCK`] divides.
    ///
    /// # Shapes
    /// parts `[items, H]` → `[items, 3 H]`
    pub fn item_cache_rows(&self, parts: &[&[f32]]) -> Vec<f32> {
        let (h, norm) = (self.h, self.layer_norm(&self.layout.norm));
        let QkvRange::Joint(linear) = &self.layout.layers[0].qkv else { unreachable!("not the last layer") };
        let rows = parts.par_iter().flat_map(|part| part.par_chunks(BLOCK * h)).map(|rows| {
            let (mut input, mut saved, mut out) = (rows.to_vec(), Normalized::default(), Vec::new());
            saved.resize(None, rows.len() / h, h);
            let dropout = RowDropout { dropout: None, stream: Stream::new(0), row_numbers: &[] };
            norm_dropout(norm, dropout, &mut input, &mut saved);
            self.weights.forward(linear, &input, &mut out);
            out
        });
        rows.collect::<Vec<_>>().concat()
    }
}
