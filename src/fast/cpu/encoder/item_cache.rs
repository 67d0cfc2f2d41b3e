//! The item cache: query, key and value of every item in the first layer, for an evaluation of more positions than
//! items.
//!
//! Without dropout the first layer's input is a function of the item in SASRecD, and with it that layer's query, key
//! and value.

use rayon::prelude::*;

use crate::fast::cpu::ops::dropout::{RowDropout, Stream};
use crate::fast::cpu::ops::layer_norm::{LayerNorm, Normalized, norm_dropout};
use crate::fast::cpu::params::layout::{LayerLayout, Linear};
use crate::fast::cpu::params::linear::Weights;
use crate::fast::cpu::params::look_up::LookUp;

/// Of items in the first layer, `[H]` each.
#[derive(Debug)]
pub struct ItemCache {
    pub query: LookUp<'static>,
    pub key: LookUp<'static>,
    pub value: LookUp<'static>,
}

/// Items that a thread computes at a time.
pub const BLOCK: usize = 512;
/// The most floats of a cache, 256 MiB.
const LIMIT: usize = 1 << 26;

impl ItemCache {
    /// Whether a cache of so many items, for an evaluation of so many positions, saves more than it costs, and takes not too
    /// much memory.
    pub fn pays(n_items: usize, h: usize, positions: usize) -> bool {
        positions >= 2 * n_items && 3 * n_items * h <= LIMIT
    }

    /// Query, key and value of some items in this layer. All parts but the last have a number of rows that [`BLOCK`] divides.
    ///
    /// # Shapes
    /// parts `[items, H]` → `[items, H]` each
    pub fn rows(weights: &Weights, layer: &LayerLayout, norm: LayerNorm, parts: &[&[f32]]) -> [Vec<f32>; 3] {
        let h = norm.weight.len();
        let inputs = parts.par_iter().flat_map(|part| part.par_chunks(BLOCK * h)).map(|rows| {
            let mut saved = Normalized { rows: rows.to_vec(), rstd: Vec::new() };
            let mut input = vec![0.0; rows.len()];
            let dropout = RowDropout { dropout: None, stream: Stream::new(0), row_numbers: &[] };
            norm_dropout(norm, dropout, &mut saved, &mut input);
            input
        });
        let inputs: Vec<Vec<f32>> = inputs.collect();
        let all = |linear: &Linear| {
            let parts = inputs.par_iter().map(|input| {
                let mut out = Vec::new();
                weights.forward(linear, input, &mut out);
                out
            });
            parts.collect::<Vec<_>>().concat()
        };
        [all(&layer.query), all(&layer.key), all(&layer.value)]
    }
}
