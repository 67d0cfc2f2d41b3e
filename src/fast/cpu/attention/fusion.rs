//! The fusion of score maps, forward and backward, one block of lanes at a time: each lane is a query in a head.
//!
//! With s_m the map m of a query over its keys, in the order attributes, item, positions of [`crate::model::FusionLayer`]:
//!
//! | fusion | fused scores |
//! | --- | --- |
//! | `sum` | Σ_m s_m |
//! | `concat` | W \[s_1; …; s_M\] + b |
//! | `gate` | Σ_m g_m s_m with g = softmax_m(w · ReLU(W s_m + b) + c) |
//!
//! A sequence that has fewer than L keys has them all under `sum`, which is the only fusion where padding is left out.
//!
//! Loops are written out: a closure that is too large to be inlined would lose the instruction set of its kernel.

use crate::fast::cpu::ops::simd::{LANES, Lanes};
use crate::fast::cpu::ops::softmax::softmax;

/// The parameters of a layer's fusion, as libtorch lays them out.
#[derive(Debug, Clone, Copy)]
pub enum Fusion<'a> {
    Sum,
    /// weight `[L, maps · L]`, bias `[L]`
    Concat {
        weight: &'a [f32],
        bias: &'a [f32],
    },
    /// hidden `[L, L]`, hidden bias `[L]`, energy `[L]`
    Gate {
        hidden: &'a [f32],
        hidden_bias: &'a [f32],
        energy: &'a [f32],
        energy_bias: f32,
    },
}

/// A sequence's score maps, of which one block of lanes is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Maps<'a> {
    /// `[maps, keys, blocks]`
    pub all: &'a [Lanes],
    pub blocks: usize,
    pub block: usize,
    /// The keys that the sequence has, at most L.
    pub keys: usize,
}

impl<'a> Maps<'a> {
    /// The maps one after the other: of each the scores of the keys.
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = impl Iterator<Item = &'a Lanes> + Clone> {
        let all = self.all.chunks_exact(self.keys * self.blocks);
        all.map(move |map| map[self.block..].iter().step_by(self.blocks))
    }
}

impl<'a> Fusion<'a> {
    /// `parts`: nothing for `sum`; weight and bias for `concat`; the hidden layer's weight and bias, then the energy's for
    /// `gate`.
    pub fn new(parts: &[&'a [f32]]) -> Self {
        match *parts {
            [weight, bias] => Self::Concat { weight, bias },
            [hidden, hidden_bias, energy, energy_bias] => {
                Self::Gate { hidden, hidden_bias, energy, energy_bias: energy_bias[0] }
            }
            _ => Self::Sum,
        }
    }

    /// Fuses the maps. `weights` keeps the gate's weight of each map for the backward pass.
    ///
    /// # Shapes
    /// weights `[maps]`, fused `[keys]`
    #[inline(always)]
    pub fn forward(self, maps: Maps, weights: &mut [Lanes], fused: &mut [Lanes]) {
        match self {
            Self::Sum => {
                fused.fill([0.0; LANES]);
                for map in maps.iter() {
                    for (score, fused) in map.zip(&mut *fused) {
                        add(1.0, score, fused);
                    }
                }
            }
            Self::Concat { weight, bias } => {
                let rows = weight.chunks_exact(weight.len() / bias.len()).zip(bias);
                for (fused, (row, &bias)) in fused.iter_mut().zip(rows) {
                    *fused = [bias; LANES];
                    for (map, row) in maps.iter().zip(row.chunks_exact(maps.keys)) {
                        for (score, &weight) in map.zip(row) {
                            add(weight, score, fused);
                        }
                    }
                }
            }
            Self::Gate { energy, energy_bias, .. } => {
                for (map, energy_of) in maps.iter().zip(&mut *weights) {
                    *energy_of = [energy_bias; LANES];
                    for (unit, &energy) in energy.iter().enumerate() {
                        let hidden = self.hidden(map.clone(), unit);
                        for lane in 0..LANES {
                            // Not `max`, which would hide a NaN.
                            energy_of[lane] += energy * if hidden[lane] < 0.0 { 0.0 } else { hidden[lane] };
                        }
                    }
                }
                softmax(weights);
                fused.fill([0.0; LANES]);
                for (map, weight) in maps.iter().zip(&*weights) {
                    for (score, fused) in map.zip(&mut *fused) {
                        add_product(weight, score, fused);
                    }
                }
            }
        }
    }

    /// A hidden unit of the gate for the scores of a map, before the ReLU.
    #[inline(always)]
    fn hidden<'b>(self, map: impl Iterator<Item = &'b Lanes>, unit: usize) -> Lanes {
        let Self::Gate { hidden, hidden_bias, .. } = self else { return [0.0; LANES] };
        let mut sum = [hidden_bias[unit]; LANES];
        for (score, &weight) in map.zip(&hidden[unit * hidden_bias.len()..]) {
            add(weight, score, &mut sum);
        }
        sum
    }

    /// The gradient of every map, position last, from that of the fused scores; adds to the parameters' gradient.
    ///
    /// # Shapes
    /// weights `[maps]`, dfused `[keys]`, dmaps `[maps, keys]`, parameters as in [`Fusion::new`], one after the other
    #[inline(always)]
    pub fn backward(
        self,
        maps: Maps,
        weights: &[Lanes],
        dfused: &[Lanes],
        dmaps: &mut [Lanes],
        parameters: &mut [Lanes],
    ) {
        let keys = maps.keys;
        match self {
            Self::Sum => {
                for dmap in dmaps.chunks_exact_mut(keys) {
                    dmap.copy_from_slice(dfused);
                }
            }
            Self::Concat { weight, bias } => {
                let (dweight, dbias) = parameters.split_at_mut(weight.len());
                dmaps.fill([0.0; LANES]);
                let rows = weight.chunks_exact(dmaps.len()).zip(dweight.chunks_exact_mut(dmaps.len()));
                for ((dfused, dbias), (row, drow)) in dfused.iter().zip(&mut dbias[..bias.len()]).zip(rows) {
                    add(1.0, dfused, dbias);
                    let rows = row.iter().zip(drow).zip(&mut *dmaps);
                    for (score, ((&weight, dweight), dmap)) in maps.iter().flatten().zip(rows) {
                        add(weight, dfused, dmap);
                        add_product(score, dfused, dweight);
                    }
                }
            }
            Self::Gate { hidden, hidden_bias, energy, .. } => {
                let (dhidden, rest) = parameters.split_at_mut(hidden.len());
                let (dhidden_bias, rest) = rest.split_at_mut(hidden_bias.len());
                let (denergy, denergy_bias) = rest.split_at_mut(energy.len());
                // Of every map Σ score · gradient in its first row, and their mean under the gate.
                let mut mean = [0.0; LANES];
                for ((map, weight), dmap) in maps.iter().zip(weights).zip(dmaps.chunks_exact_mut(keys)) {
                    dmap[0] = [0.0; LANES];
                    for (score, dfused) in map.zip(dfused) {
                        add_product(score, dfused, &mut dmap[0]);
                    }
                    add_product(weight, &dmap[0], &mut mean);
                }
                for ((map, weight), dmap) in maps.iter().zip(weights).zip(dmaps.chunks_exact_mut(keys)) {
                    let mut de = [0.0; LANES];
                    for lane in 0..LANES {
                        de[lane] = weight[lane] * (dmap[0][lane] - mean[lane]);
                    }
                    add(1.0, &de, &mut denergy_bias[0]);
                    for (dmap, dfused) in dmap.iter_mut().zip(dfused) {
                        for lane in 0..LANES {
                            dmap[lane] = weight[lane] * dfused[lane];
                        }
                    }
                    let units = hidden.chunks_exact(keys).zip(dhidden.chunks_exact_mut(keys));
                    for (unit, (row, drow)) in units.enumerate() {
                        let hidden = self.hidden(map.clone(), unit);
                        // The gradient of the energy's weight is `dh` · hidden, that of the unit is `dh` · weight.
                        let mut dh = [0.0; LANES];
                        for lane in 0..LANES {
                            dh[lane] = if hidden[lane] > 0.0 { de[lane] } else { 0.0 };
                        }
                        add_product(&dh, &hidden, &mut denergy[unit]);
                        for dh in &mut dh {
                            *dh *= energy[unit];
                        }
                        add(1.0, &dh, &mut dhidden_bias[unit]);
                        for (score, ((&weight, dweight), dmap)) in map.clone().zip(row.iter().zip(drow).zip(&mut *dmap))
                        {
                            add(weight, &dh, dmap);
                            add_product(score, &dh, dweight);
                        }
                    }
                }
            }
        }
    }
}

/// y += a x.
#[inline(always)]
fn add(a: f32, &x: &Lanes, y: &mut Lanes) {
    add_product(&[a; LANES], &x, y);
}

/// z += x y. On copies: of references the compiler may not know any more that they are apart.
#[inline(always)]
fn add_product(&x: &Lanes, &y: &Lanes, z: &mut Lanes) {
    let mut sums = *z;
    for lane in 0..LANES {
        sums[lane] += x[lane] * y[lane];
    }
    *z = sums;
}
