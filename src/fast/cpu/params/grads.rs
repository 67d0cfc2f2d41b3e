//! The gradient that a thread gathers during a step.

use std::ops::Range;

use super::layout::{LayerNormRange, Layout};
use crate::fast::cpu::ops::layer_norm::LayerNormGrads;
use crate::fast::cpu::ops::simd::{Lanes, add_rows, axpy, lane_sum};
use crate::fast::cpu::ops::zero;

/// The gradient of everything but the item embedding.
#[derive(Debug, Default)]
pub struct Grads {
    /// In the layout's ranges. What follows is reduced into it.
    pub flat: Vec<f32>,
    /// Of the fusion's parameters by layer, one after the other, in lanes, which each thread sums into `flat`.
    pub fusion: Vec<Vec<Lanes>>,
    /// Of the score tables by layer and stream, `[n, n, heads]`; empty where a stream has none.
    pub score_tables: Vec<Vec<Vec<f32>>>,
}

impl Grads {
    /// Zeros, in the memory of the last step. `score_tables`: the sizes of the tables by layer and stream.
    pub fn clear(&mut self, layout: &Layout, score_tables: &[Vec<usize>]) {
        zero(&mut self.flat, layout.len);
        self.fusion.resize_with(layout.layers.len(), Vec::new);
        self.score_tables.resize_with(layout.layers.len(), Vec::new);
        for (k, (layer, sizes)) in layout.layers.iter().zip(score_tables).enumerate() {
            zero(&mut self.fusion[k], layer.fusion.iter().map(Range::len).sum());
            self.score_tables[k].resize_with(sizes.len(), Vec::new);
            self.score_tables[k].iter_mut().zip(sizes).for_each(|(grad, &size)| zero(grad, size));
        }
    }

    /// Sums the lanes of the fusion's parameters into `flat`: once a thread is done with its micro-batches.
    pub fn sum_fusion(&mut self, layout: &Layout) {
        for (layer, lanes) in layout.layers.iter().zip(&self.fusion) {
            let ranges = layer.fusion.iter().flat_map(Clone::clone);
            ranges.zip(lanes).for_each(|(at, &lanes)| self.flat[at] = lane_sum(lanes));
        }
    }

    /// Adds another thread's, once both have summed their fusion.
    pub fn add(&mut self, other: &Self) {
        add_rows(&other.flat, &mut self.flat);
        let tables = self.score_tables.iter_mut().flatten().zip(other.score_tables.iter().flatten());
        tables.for_each(|(to, from)| axpy(1.0, from, to));
    }

    /// What [`Grads::add`] adds, one after the other, to travel.
    pub fn pack(&self) -> Vec<f32> {
        self.flat.iter().chain(self.score_tables.iter().flatten().flatten()).copied().collect()
    }

    /// The reverse of [`Grads::pack`], into one of the same shape.
    pub fn unpack(&mut self, mut from: &[f32]) {
        let tables = self.score_tables.iter_mut().flatten().map(|x| &mut x[..]);
        for to in std::iter::once(&mut self.flat[..]).chain(tables) {
            let (values, rest) = from.split_at(to.len());
            to.copy_from_slice(values);
            from = rest;
        }
    }

    /// The gradients of a LayerNorm's parameters.
    pub fn layer_norm(&mut self, range: &LayerNormRange) -> LayerNormGrads<'_> {
        let (weight, bias) = self.flat[range.weight.start..range.bias.end].split_at_mut(range.weight.len());
        LayerNormGrads { weight, bias }
    }
}
