//! The gradient that a thread gathers during a step.

use std::ops::Range;

use super::layout::{LayerNormRange, Layout};
use crate::fast::cpu::ops::layer_norm::LayerNormGrads;
use crate::fast::cpu::ops::rows::zero;
use crate::fast::cpu::ops::simd::{Lanes, add_rows, axpy};

/// The gradient of everything but the item embedding.
#[derive(Debug, Default)]
pub struct Grads {
    /// In the layout's ranges. What follows is reduced into it at the end of a step.
    pub flat: Vec<f32>,
    /// Of the fusion's parameters by layer, one after the other, in lanes that are still to be summed.
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

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        add_rows(&other.flat, &mut self.flat);
        let fusion =
            self.fusion.iter_mut().map(|x| x.as_flattened_mut()).zip(other.fusion.iter().map(|x| x.as_flattened()));
        let tables = self.score_tables.iter_mut().flatten().zip(other.score_tables.iter().flatten());
        let tables = tables.map(|(to, from)| (&mut to[..], &from[..]));
        fusion.chain(tables).for_each(|(to, from)| axpy(1.0, from, to));
    }

    /// All of it, one after the other, to travel.
    pub fn pack(&self) -> Vec<f32> {
        let fusion = self.fusion.iter().flat_map(|x| x.as_flattened());
        self.flat.iter().chain(fusion).chain(self.score_tables.iter().flatten().flatten()).copied().collect()
    }

    /// The reverse of [`Grads::pack`], into one of the same shape.
    pub fn unpack(&mut self, mut from: &[f32]) {
        let fusion = self.fusion.iter_mut().map(|x| x.as_flattened_mut());
        let tables = self.score_tables.iter_mut().flatten().map(|x| &mut x[..]);
        for to in std::iter::once(&mut self.flat[..]).chain(fusion).chain(tables) {
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
