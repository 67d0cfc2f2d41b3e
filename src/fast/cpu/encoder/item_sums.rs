//! The gradients of the items' vectors in a thread's sequences, summed by item: an item that many sequences have travels
//! once, and is added once to the item embedding's gradient.

use std::ops::Range;

use super::Activations;
use crate::fast::cpu::ops::simd::axpy;

/// Sums by item.
#[derive(Debug)]
pub struct ItemSums {
    /// Ascending; look-ups give the padding item no gradient.
    pub items: Vec<u32>,
    /// `[items, H]`
    pub grads: Vec<f32>,
}

impl ItemSums {
    /// Of micro-batches behind their backward pass, in the order of their rows.
    pub fn of(micro_batches: &[Activations], h: usize) -> Self {
        let rows = micro_batches.iter().flat_map(|micro_batch| micro_batch.item_gradients());
        let mut rows: Vec<(u32, &[f32])> = rows.filter(|(item, _)| *item != 0).collect();
        // It keeps the order of equal items.
        rows.sort_by_key(|(item, _)| *item);
        let by_item = || rows.chunk_by(|(a, _), (b, _)| a == b);
        let n = by_item().count();
        let mut sums = Self { items: Vec::with_capacity(n), grads: Vec::with_capacity(n * h) };
        for rows in by_item() {
            let start = sums.grads.len();
            sums.items.push(rows[0].0);
            sums.grads.extend_from_slice(rows[0].1);
            rows[1..].iter().for_each(|(_, grad)| axpy(1.0, grad, &mut sums.grads[start..]));
        }
        sums
    }

    /// Those of some items.
    pub fn among(&self, items: &Range<usize>) -> impl Iterator<Item = (u32, &[f32])> {
        let h = self.grads.len() / self.items.len().max(1);
        let edge = |end: usize| self.items.partition_point(|&item| (item as usize) < end);
        let places = edge(items.start)..edge(items.end);
        places.map(move |at| (self.items[at], &self.grads[at * h..][..h]))
    }
}
