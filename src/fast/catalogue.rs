//! What follows from an item alone, computed once for all items where more positions than items are encoded.
//!
//! Without dropout the first layer's input is a function of the item, and with it that layer's query, key and value; and
//! so are the attributes' queries and keys of every layer.

use rayon::prelude::*;

use super::attention::AttributeRows;
use super::dropout::Stream;
use super::frame::Frame;
use super::norm::{self, Drops};
use super::weights::Dense;

/// Rows of all items.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// Of the first layer, `[n_items, H]` each.
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    /// By layer and attribute.
    pub attributes: Vec<Vec<AttributeRows>>,
}

/// Items that a thread computes at a time.
const BLOCK: usize = 512;
/// The most floats of a catalogue, 256 MiB.
const LIMIT: usize = 1 << 26;

impl Catalogue {
    /// `None` where it would cost more than it saves, or too much memory.
    pub fn new(frame: &Frame, vectors: &[(Vec<f32>, usize)], positions: usize) -> Option<Self> {
        let n_items = frame.table.len() / frame.h;
        let sizes = vectors.iter().map(|(_, size)| 2 * size).sum::<usize>();
        let floats = n_items * (3 * frame.h + frame.layout.layers.len() * sizes);
        if positions < 2 * n_items || floats > LIMIT {
            return None;
        }
        let slots = &frame.layout.layers[0];
        let inputs = frame.table.par_chunks(BLOCK * frame.h).map(|table| {
            let rows = table.len() / frame.h;
            let (mut y, mut inverse, mut input) = (table.to_vec(), vec![0.0; rows], vec![0.0; table.len()]);
            let drops = Drops { dropout: None, place: Stream::new(0), rows: &[] };
            norm::embed(frame.norm(&frame.layout.norm), &mut y, drops, &mut inverse, &mut input);
            input
        });
        let inputs: Vec<Vec<f32>> = inputs.collect();
        let all = |dense: &Dense| concat(inputs.par_iter().map(|input| linear(frame, dense, input)));
        let attributes = frame.layout.layers.iter().map(|layer| {
            let attributes = layer.attributes.iter().zip(vectors).map(|(dense, (vectors, size))| {
                let rows = concat(vectors.par_chunks(BLOCK * size).map(|vectors| linear(frame, dense, vectors)));
                AttributeRows { rows, size: *size }
            });
            attributes.collect()
        });
        Some(Self {
            query: all(&slots.query),
            key: all(&slots.key),
            value: all(&slots.value),
            attributes: attributes.collect(),
        })
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
