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

/// Of every item in the first layer, `[n_items, H]` each.
#[derive(Debug)]
pub struct ItemCache {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
}

/// Items that a thread computes at a time.
const BLOCK: usize = 512;
/// The most floats of a cache, 256 MiB.
const LIMIT: usize = 1 << 26;

impl ItemCache {
    /// The cache of a model whose first input is the item alone. `None` where the first layer is the last, and where
    /// the cache would cost more than it saves, or too much memory.
    ///
    /// # Shapes
    /// item_embedding `[n_items, H]`
    pub fn new(
        weights: &Weights,
        layers: &[LayerLayout],
        norm: LayerNorm,
        item_embedding: &[f32],
        positions: usize,
    ) -> Option<Self> {
        let h = norm.weight.len();
        let n_items = item_embedding.len() / h;
        let [layer, _, ..] = layers else { return None };
        if positions < 2 * n_items || 3 * item_embedding.len() > LIMIT {
            return None;
        }
        let inputs = item_embedding.par_chunks(BLOCK * h).map(|rows| {
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
        Some(Self { query: all(&layer.query), key: all(&layer.key), value: all(&layer.value) })
    }
}
