//! The items that a process ranks among, in blocks.

use std::ops::{Deref, Range};

use crate::fast::cpu::params::item_embedding::ItemEmbedding;

/// Items of a product: its scores are counted while they are in a core's cache.
pub const BLOCK: usize = 1024;

/// Some items, of which the first is a multiple of [`BLOCK`].
#[derive(Debug)]
pub struct Block<'a> {
    pub first: usize,
    /// `[items, H]`, at most [`BLOCK`] of them.
    pub rows: Rows<'a>,
}

/// Rows of a table.
#[derive(Debug)]
pub enum Rows<'a> {
    Here(&'a [f32]),
    /// From two places, behind what aligns them as a whole table is: by that libtorch's products round.
    Joined {
        memory: Vec<f32>,
        start: usize,
    },
}

impl Rows<'_> {
    fn joined(parts: [&[f32]; 2]) -> Self {
        let n = parts.iter().map(|part| part.len()).sum::<usize>();
        let mut memory: Vec<f32> = Vec::with_capacity(n + ALIGNED / size_of::<f32>());
        let start = memory.as_ptr().align_offset(ALIGNED);
        memory.resize(start, 0.0);
        parts.iter().for_each(|part| memory.extend_from_slice(part));
        Self::Joined { memory, start }
    }
}

impl Deref for Rows<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Here(rows) => rows,
            Self::Joined { memory, start } => &memory[*start..],
        }
    }
}

/// Bytes at which libtorch begins a tensor.
const ALIGNED: usize = 64;

/// The items of the blocks that begin in a part of all items. Of processes that share items out each ranks among its own
/// blocks, so that products are those of one process.
pub fn items_of_blocks(part: &Range<usize>, n_items: usize) -> Range<usize> {
    let edge = |item: usize| item.next_multiple_of(BLOCK).min(n_items);
    edge(part.start)..edge(part.end)
}

/// The blocks that begin among the items that are here. `rest` are the rows of the last block that lie elsewhere.
pub fn blocks<'a>(items: ItemEmbedding<'a>, rest: &[f32]) -> Vec<Block<'a>> {
    let held = items.first..items.first + items.rows.len() / items.h;
    let all = items_of_blocks(&held, items.n_items);
    let block = |first: usize| {
        let end = (first + BLOCK).min(all.end);
        let rows = items.of(first..end.min(held.end));
        Block { first, rows: if end <= held.end { Rows::Here(rows) } else { Rows::joined([rows, rest]) } }
    };
    all.clone().step_by(BLOCK).map(block).collect()
}
