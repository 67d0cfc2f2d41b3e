//! What follows from an item alone, computed once for all items where more positions than items are encoded.
//!
//! Without dropout the first layer's input is a function of the item in SASRecD, and with it that layer's query, key and value.

use rayon::prelude::*;

use super::input::Input;
use super::step::Frame;
use crate::fast::cpu::ops::dropout::Stream;
use crate::fast::cpu::ops::layer_norm::{self, Drops};
use crate::fast::cpu::params::layout::Dense;

/// Of all items in the first layer, `[n_items, H]` each.
#[derive(Debug)]
pub struct Catalogue {
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
}

/// Items that a thread computes at a time.
const BLOCK: usize = 512;
/// The most floats of a catalogue, 256 MiB.
const LIMIT: usize = 1 << 26;

impl Catalogue {
    /// `None` where the first layer's input is no function of the item, where the first layer is the last, where it would cost
    /// more than it saves, or too much memory.
    pub fn new(frame: &Frame, positions: usize) -> Option<Self> {
        let n_items = frame.table.len() / frame.h;
        let floats = n_items * 3 * frame.h;
        let [slots, _, ..] = &frame.layout.layers[..] else { return None };
        if !matches!(frame.layout.input, Input::Item) || positions < 2 * n_items || floats > LIMIT {
            return None;
        }
        let inputs = frame.table.par_chunks(BLOCK * frame.h).map(|table| {
            let rows = table.len() / frame.h;
            let (mut y, mut inverse, mut input) = (table.to_vec(), vec![0.0; rows], vec![0.0; table.len()]);
            let drops = Drops { dropout: None, place: Stream::new(0), rows: &[] };
            layer_norm::embed(frame.norm(&frame.layout.norm), &mut y, drops, &mut inverse, &mut input);
            input
        });
        let inputs: Vec<Vec<f32>> = inputs.collect();
        let all = |dense: &Dense| concat(inputs.par_iter().map(|input| linear(frame, dense, input)));
        Some(Self { query: all(&slots.query), key: all(&slots.key), value: all(&slots.value) })
    }
}

fn linear(frame: &Frame, dense: &Dense, x: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    frame.linear(dense, x, &mut out);
    out
}

fn concat(parts: impl IndexedParallelIterator<Item = Vec<f32>>) -> Vec<f32> {
    parts.collect::<Vec<_>>().concat()
}
