//! The fusion of the score maps of one query in one head, forward and backward.
//!
//! A row of scores is padded with zeros to P floats, a multiple of [`LANES`](super::kernels::LANES). Maps come in the
//! order attributes, item, position, as in [`crate::model::FusionLayer`].

use super::kernels::{axpy_padded, combine, dot_padded, exp, padded};

/// The parameters of a layer's fusion, laid out for rows of P floats.
#[derive(Debug)]
pub(super) enum Fusion {
    Sum,
    Concat {
        /// One row for every key of every map, `[maps · L, P]`: the weight transposed.
        weight: Vec<f32>,
        /// `[P]`
        bias: Vec<f32>,
    },
    Gate {
        /// `[L, P]`: by hidden unit, then by key.
        hidden: Vec<f32>,
        /// `[L, P]`: by key, then by hidden unit.
        hidden_t: Vec<f32>,
        /// `[P]`
        hidden_bias: Vec<f32>,
        /// `[P]`
        energy: Vec<f32>,
        energy_bias: f32,
    },
}

/// The gradient of a [`Fusion`], laid out like it.
#[derive(Debug)]
pub(super) enum FusionGrad {
    Sum,
    Concat { weight: Vec<f32>, bias: Vec<f32> },
    Gate { hidden: Vec<f32>, hidden_bias: Vec<f32>, energy: Vec<f32>, energy_bias: f32 },
}

/// The parts of a fusion layer's parameters as libtorch lays them out.
pub(super) type Parts<'a> = [&'a [f32]];

impl Fusion {
    /// `parts`: nothing for `sum`; weight `[L, maps · L]` and bias `[L]` for `concat`; the hidden layer's weight `[L, L]`
    /// and bias `[L]`, then the energy's weight `[1, L]` and bias `[1]` for `gate`.
    pub fn new(parts: &Parts, length: usize) -> Self {
        match *parts {
            [weight, bias] => Self::Concat { weight: pad(&transpose(weight, length), length), bias: pad(bias, length) },
            [hidden, hidden_bias, energy, energy_bias] => Self::Gate {
                hidden: pad(hidden, length),
                hidden_t: pad(&transpose(hidden, length), length),
                hidden_bias: pad(hidden_bias, length),
                energy: pad(energy, length),
                energy_bias: energy_bias[0],
            },
            _ => Self::Sum,
        }
    }

    /// Fuses the maps into `fused`. `weights` keeps the gate's weight of each map for the backward pass.
    ///
    /// # Shapes
    /// maps `[attributes + 1, P]`, position `[P]`, weights `[attributes + 2]`, fused `[P]`, scratch `[P]`
    #[inline(always)]
    pub fn forward(&self, maps: &[f32], position: &[f32], weights: &mut [f32], fused: &mut [f32], scratch: &mut [f32]) {
        let p = fused.len();
        let all = || maps.chunks_exact(p).chain([position]);
        match self {
            Self::Sum => {
                fused.fill(0.0);
                all().for_each(|map| axpy_padded(1.0, map, fused));
            }
            Self::Concat { weight, bias } => {
                fused.copy_from_slice(bias);
                let keys = weight.len() / p / weights.len();
                for (map, weight) in all().zip(weight.chunks_exact(keys * p)) {
                    combine(&map[..keys], weight, fused);
                }
            }
            Self::Gate { hidden_t, hidden_bias, energy, energy_bias, .. } => {
                let length = hidden_t.len() / p;
                for (map, energy_of) in all().zip(&mut *weights) {
                    scratch.copy_from_slice(hidden_bias);
                    combine(&map[..length], hidden_t, scratch);
                    scratch.iter_mut().for_each(|h| *h = h.max(0.0));
                    *energy_of = dot_padded(scratch, energy) + energy_bias;
                }
                softmax(weights);
                fused.fill(0.0);
                all().zip(&*weights).for_each(|(map, &weight)| axpy_padded(weight, map, fused));
            }
        }
    }

    /// The gradient of every map, position last, from that of the fused row; adds to the parameters' gradient.
    ///
    /// # Shapes
    /// as [`Fusion::forward`]; dfused `[P]`, dmaps `[attributes + 2, P]`
    #[inline(always)]
    pub fn backward(
        &self,
        (maps, position): (&[f32], &[f32]),
        weights: &[f32],
        dfused: &[f32],
        dmaps: &mut [f32],
        parameters: &mut FusionGrad,
        scratch: &mut [f32],
    ) {
        let p = dfused.len();
        let all = || maps.chunks_exact(p).chain([position]);
        match (self, parameters) {
            (Self::Concat { weight, .. }, FusionGrad::Concat { weight: dweight, bias: dbias }) => {
                axpy_padded(1.0, dfused, dbias);
                let keys = weight.len() / p / weights.len();
                let rows = weight.chunks_exact(keys * p).zip(dweight.chunks_exact_mut(keys * p));
                for ((map, dmap), (weight, dweight)) in all().zip(dmaps.chunks_exact_mut(p)).zip(rows) {
                    dmap[keys..].fill(0.0);
                    for (j, (row, drow)) in weight.chunks_exact(p).zip(dweight.chunks_exact_mut(p)).enumerate() {
                        dmap[j] = dot_padded(row, dfused);
                        axpy_padded(map[j], dfused, drow);
                    }
                }
            }
            (
                Self::Gate { hidden, hidden_t, hidden_bias, energy, .. },
                FusionGrad::Gate {
                    hidden: dhidden,
                    hidden_bias: dhidden_bias,
                    energy: denergy,
                    energy_bias: denergy_bias,
                },
            ) => {
                let length = hidden_t.len() / p;
                let mean: f32 = all().zip(weights).map(|(map, weight)| weight * dot_padded(map, dfused)).sum();
                for ((map, dmap), &weight) in all().zip(dmaps.chunks_exact_mut(p)).zip(weights) {
                    let de = weight * (dot_padded(map, dfused) - mean);
                    scratch.copy_from_slice(hidden_bias);
                    combine(&map[..length], hidden_t, scratch);
                    *denergy_bias += de;
                    for i in 0..p {
                        denergy[i] += de * scratch[i].max(0.0);
                        scratch[i] = if scratch[i] > 0.0 { de * energy[i] } else { 0.0 };
                        dhidden_bias[i] += scratch[i];
                        dmap[i] = weight * dfused[i];
                    }
                    combine(&scratch[..length], hidden, dmap);
                    for (&dh, drow) in scratch.iter().zip(dhidden.chunks_exact_mut(p)) {
                        axpy_padded(dh, map, drow);
                    }
                }
            }
            _ => dmaps.chunks_exact_mut(p).for_each(|dmap| dmap.copy_from_slice(dfused)),
        }
    }
}

impl FusionGrad {
    /// Zeros for a fusion.
    pub fn new(fusion: &Fusion) -> Self {
        let zeros = |like: &Vec<f32>| vec![0.0; like.len()];
        match fusion {
            Fusion::Sum => Self::Sum,
            Fusion::Concat { weight, bias } => Self::Concat { weight: zeros(weight), bias: zeros(bias) },
            Fusion::Gate { hidden, hidden_bias, energy, .. } => Self::Gate {
                hidden: zeros(hidden),
                hidden_bias: zeros(hidden_bias),
                energy: zeros(energy),
                energy_bias: 0.0,
            },
        }
    }

    /// The gradients in the order and layout of [`Fusion::new`]'s parts.
    pub fn parts(&self, length: usize) -> Vec<Vec<f32>> {
        match self {
            Self::Sum => Vec::new(),
            Self::Concat { weight, bias } => {
                let weight = cut(weight, length);
                let keys = weight.len() / length;
                vec![transpose(&weight, keys), cut(bias, length)]
            }
            Self::Gate { hidden, hidden_bias, energy, energy_bias } => {
                vec![cut(hidden, length), cut(hidden_bias, length), cut(energy, length), vec![*energy_bias]]
            }
        }
    }
}

/// Softmax in place of a few numbers.
#[inline(always)]
fn softmax(x: &mut [f32]) {
    let most = x.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    x.iter_mut().for_each(|x| *x = exp(*x - most));
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}

/// `[rows, columns]` → `[columns, rows]`.
fn transpose(x: &[f32], rows: usize) -> Vec<f32> {
    let columns = x.len() / rows;
    (0..columns).flat_map(|column| (0..rows).map(move |row| x[row * columns + column])).collect()
}

/// Rows of `length` floats, each padded with zeros.
fn pad(x: &[f32], length: usize) -> Vec<f32> {
    let zeros = padded(length) - length;
    x.chunks_exact(length).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(0.0, zeros))).collect()
}

/// The inverse of [`pad`].
fn cut(x: &[f32], length: usize) -> Vec<f32> {
    x.chunks_exact(padded(length)).flat_map(|row| row[..length].iter().copied()).collect()
}
