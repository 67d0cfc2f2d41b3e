//! The fusion of score maps, forward and backward, one block of lanes at a time: each lane is a query in a head.
//!
//! With s_m the map m of a query over its keys, in the order attributes, item, positions of
//! [`crate::model::FusionLayer`]:
//!
//! | fusion | fused scores |
//! | --- | --- |
//! | `sum` | Σ_m s_m |
//! | `concat` | W \[s_1; …; s_M\] + b |
//! | `gate` | Σ_m g_m s_m with g = softmax_m(w · ReLU(W s_m + b) + c) |
//!
//! Under `concat` and `gate` a sequence has L keys, or a single one, whose scores are not fused.
//!
//! Loops are written out: a closure that is too large to be inlined would lose the instruction set of its kernel.

use crate::fast::cpu::ops::simd::{LANES, Lanes};
use crate::fast::cpu::ops::softmax::softmax;

/// The fusion of a layer, with its parameters as libtorch lays them out.
#[derive(Debug, Clone, Copy)]
pub enum Fusion<'a> {
    Sum,
    /// weight `[L, maps · L]`, bias `[L]`
    Concat {
        weight: &'a [f32],
        bias: &'a [f32],
    },
    Gate(Gate<'a>),
}

/// The score maps of a sequence, and one block of their lanes.
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
    /// The block of every map: the scores of its keys.
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = impl Iterator<Item = &'a Lanes> + Clone> {
        let all = self.all.chunks_exact(self.keys * self.blocks);
        all.map(move |map| map[self.block..].iter().step_by(self.blocks))
    }
}

impl<'a> Fusion<'a> {
    /// `parts`: nothing for `sum`; weight and bias for `concat`; the weight and bias of the hidden layer, then of the
    /// energy for `gate`.
    pub fn new(parts: &[&'a [f32]]) -> Self {
        match *parts {
            [weight, bias] => Self::Concat { weight, bias },
            [hidden, hidden_bias, energy, energy_bias] => {
                Self::Gate(Gate { hidden, hidden_bias, energy, energy_bias: energy_bias[0] })
            }
            _ => Self::Sum,
        }
    }

    /// Fuses the maps of a block. `gates` keeps the gate's weight of each map for the backward pass.
    ///
    /// # Shapes
    /// gates `[maps]`, fused `[keys]`
    #[inline(always)]
    pub fn forward(self, maps: Maps, gates: &mut [Lanes], fused: &mut [Lanes]) {
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
            Self::Gate(gate) => gate.forward(maps, gates, fused),
        }
    }

    /// The gradient of every map of a block from that of the fused scores; adds to the parameters' gradient.
    ///
    /// # Shapes
    /// gates `[maps]`, dfused `[keys]`, dmaps `[maps, keys]`, dparameters as in [`Fusion::new`], one after the other
    #[inline(always)]
    pub fn backward(
        self,
        maps: Maps,
        gates: &[Lanes],
        dfused: &[Lanes],
        dmaps: &mut [Lanes],
        dparameters: &mut [Lanes],
    ) {
        match self {
            Self::Sum => dmaps.chunks_exact_mut(maps.keys).for_each(|dmap| dmap.copy_from_slice(dfused)),
            Self::Concat { weight, bias } => {
                let (dweight, dbias) = dparameters.split_at_mut(weight.len());
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
            Self::Gate(gate) => {
                let mut into = gate.gradients(dparameters);
                let mean = gate_means(maps, gates, dfused, dmaps);
                let all = maps.iter().zip(gates).zip(dmaps.chunks_exact_mut(maps.keys));
                for ((map, weight), dmap) in all {
                    // `gate_means` left the gradient of the map's gate, Σ score · dfused, in dmap[0]: through the softmax
                    // over the maps it becomes that of the energy, before dmap becomes the map's gradient.
                    let mut denergy = [0.0; LANES];
                    for lane in 0..LANES {
                        denergy[lane] = weight[lane] * (dmap[0][lane] - mean[lane]);
                    }
                    for (dmap, dfused) in dmap.iter_mut().zip(dfused) {
                        for lane in 0..LANES {
                            dmap[lane] = weight[lane] * dfused[lane];
                        }
                    }
                    gate.energy_backward(map, &denergy, dmap, &mut into);
                }
            }
        }
    }
}

/// Leaves Σ score · dfused of every map in its first row of `dmaps`; gives their mean under the gate.
#[inline(always)]
fn gate_means(maps: Maps, gates: &[Lanes], dfused: &[Lanes], dmaps: &mut [Lanes]) -> Lanes {
    let mut mean = [0.0; LANES];
    for ((map, weight), dmap) in maps.iter().zip(gates).zip(dmaps.chunks_exact_mut(maps.keys)) {
        dmap[0] = [0.0; LANES];
        for (score, dfused) in map.zip(dfused) {
            add_product(score, dfused, &mut dmap[0]);
        }
        add_product(weight, &dmap[0], &mut mean);
    }
    mean
}

/// The gate: energy(s) = w · ReLU(W s + b) + c of each map, as libtorch lays its layers out.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// W `[L, L]`
    hidden: &'a [f32],
    /// b `[L]`
    hidden_bias: &'a [f32],
    /// w `[L]`
    energy: &'a [f32],
    /// c
    energy_bias: f32,
}

/// The gradients of the gate's parameters, which are added to.
struct GateGrads<'a> {
    hidden: &'a mut [Lanes],
    hidden_bias: &'a mut [Lanes],
    energy: &'a mut [Lanes],
    energy_bias: &'a mut Lanes,
}

impl Gate<'_> {
    #[inline(always)]
    fn forward(self, maps: Maps, gates: &mut [Lanes], fused: &mut [Lanes]) {
        for (map, energy_of) in maps.iter().zip(&mut *gates) {
            *energy_of = [self.energy_bias; LANES];
            for (unit, &energy) in self.energy.iter().enumerate() {
                let hidden = self.hidden(map.clone(), unit);
                for lane in 0..LANES {
                    // Not `max`, which would hide a NaN.
                    energy_of[lane] += energy * if hidden[lane] < 0.0 { 0.0 } else { hidden[lane] };
                }
            }
        }
        softmax(gates);
        fused.fill([0.0; LANES]);
        for (map, weight) in maps.iter().zip(&*gates) {
            for (score, fused) in map.zip(&mut *fused) {
                add_product(weight, score, fused);
            }
        }
    }

    /// A hidden unit for the scores of a map, before the ReLU.
    #[inline(always)]
    fn hidden<'b>(self, map: impl Iterator<Item = &'b Lanes>, unit: usize) -> Lanes {
        let mut sum = [self.hidden_bias[unit]; LANES];
        for (score, &weight) in map.zip(&self.hidden[unit * self.hidden_bias.len()..]) {
            add(weight, score, &mut sum);
        }
        sum
    }

    /// Adds what follows from the gradient of a map's energy to that of the map and of the parameters.
    #[inline(always)]
    fn energy_backward<'b>(
        self,
        map: impl Iterator<Item = &'b Lanes> + Clone,
        denergy: &Lanes,
        dmap: &mut [Lanes],
        into: &mut GateGrads,
    ) {
        let keys = dmap.len();
        add(1.0, denergy, into.energy_bias);
        let units = self.hidden.chunks_exact(keys).zip(into.hidden.chunks_exact_mut(keys));
        for (unit, (row, drow)) in units.enumerate() {
            let hidden = self.hidden(map.clone(), unit);
            // The gradient of the energy's weight is `dhidden` · hidden, that of the unit is `dhidden` · weight.
            let mut dhidden = [0.0; LANES];
            for lane in 0..LANES {
                dhidden[lane] = if hidden[lane] > 0.0 { denergy[lane] } else { 0.0 };
            }
            add_product(&dhidden, &hidden, &mut into.energy[unit]);
            for dhidden in &mut dhidden {
                *dhidden *= self.energy[unit];
            }
            add(1.0, &dhidden, &mut into.hidden_bias[unit]);
            for (score, ((&weight, dweight), dmap)) in map.clone().zip(row.iter().zip(drow).zip(&mut *dmap)) {
                add(weight, &dhidden, dmap);
                add_product(score, &dhidden, dweight);
            }
        }
    }

    /// The parts of the parameters' gradient.
    #[inline(always)]
    fn gradients(self, all: &mut [Lanes]) -> GateGrads<'_> {
        let (hidden, rest) = all.split_at_mut(self.hidden.len());
        let (hidden_bias, rest) = rest.split_at_mut(self.hidden_bias.len());
        let (energy, rest) = rest.split_at_mut(self.energy.len());
        GateGrads { hidden, hidden_bias, energy, energy_bias: &mut rest[0] }
    }
}

/// y += a x.
#[inline(always)]
fn add(a: f32, &x: &Lanes, y: &mut Lanes) {
    add_product(&[a; LANES], &x, y);
}

/// z += x y. On copies, since the compiler may not know that references do not overlap.
#[inline(always)]
fn add_product(&x: &Lanes, &y: &Lanes, z: &mut Lanes) {
    let mut sums = *z;
    for lane in 0..LANES {
        sums[lane] += x[lane] * y[lane];
    }
    *z = sums;
}
