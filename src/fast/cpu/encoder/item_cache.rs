//! What follows from an item alone, computed once for all items where more positions than items are encoded.
//!
//! Without dropout the first layer's input is a function of the item in SASRecD, and with it that layer's query, key and value.

use rayon::prelude::*;

use super::input::Input;
use super::step::StepContext;
use crate::fast::cpu::ops::dropout::Stream;
use crate::fast::cpu::ops::layer_norm::{self, RowDropout};
use crate::fast::cpu::params::layout::Linear;

/// Of all items in the first layer, `[n_items, H]` each.
#[derive(Debug)]
pub struct ItemCache {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
}

/// Items that a thread computes at a time.
const BLOCK: usize = 512;
/// The most floats of a item_cache, 256 MiB.
const LIMIT: usize = 1 << 26;

impl ItemCache {
    /// `None` where the first layer's input is no function of the item, where the first layer is the last, where it would cost
    /// more than it saves, or too much memory.
    pub fn new(step: &StepContext, positions: usize) -> Option<Self> {
        let n_items = step.table.len() / step.h;
        let floats = n_items * 3 * step.h;
        let [slots, _, ..] = &step.layout.layers[..] else { return None };
        if !matches!(step.layout.input, Input::Item) || positions < 2 * n_items || floats > LIMIT {
            return None;
        }
        let inputs = step.table.par_chunks(BLOCK * step.h).map(|table| {
            let rows = table.len() / step.h;
            let (mut y, mut rstd, mut input) = (table.to_vec(), vec![0.0; rows], vec![0.0; table.len()]);
            let drops = RowDropout { dropout: None, place: Stream::new(0), rows: &[] };
            layer_norm::embed(step.norm(&step.layout.norm), &mut y, drops, &mut rstd, &mut input);
            input
        });
        let inputs: Vec<Vec<f32>> = inputs.collect();
        let all = |dense: &Linear| concat(inputs.par_iter().map(|input| linear(step, dense, input)));
        Some(Self { query: all(&slots.query), key: all(&slots.key), value: all(&slots.value) })
    }
}

fn linear(step: &StepContext, dense: &Linear, x: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    step.linear(dense, x, &mut out);
    out
}

fn concat(parts: impl IndexedParallelIterator<Item = Vec<f32>>) -> Vec<f32> {
    parts.collect::<Vec<_>>().concat()
}
