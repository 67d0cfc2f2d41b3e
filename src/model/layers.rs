//! PyTorch's layers of which the model is made, on their own tensors.
//!
//! ```text
//! Linear:     y = x·Wᵀ + b
//! Embedding:  y = W[id]
//! LayerNorm:  y = w ⊙ (x − mean(x)) / √(var(x) + eps) + b    over the last dimension
//! ```
//!
//! tch's own layers name their parameters in a `VarStore`; here the [`Tree`] names them, in RecBole's order.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::Tree;
use super::tree::Leaf;
use crate::python::float;

/// A linear layer with a bias.
#[derive(Debug)]
pub struct Linear {
    /// W, `[output, input]`.
    pub weight: Tensor,
    /// b, `[output]`.
    pub bias: Tensor,
}

impl Linear {
    /// A layer of zeros on the CPU: [`Model::initialize`](super::Model::initialize) alone draws, so that the order of draws is
    /// stated in one place.
    pub fn new(input: i64, output: i64, kind: Kind) -> Self {
        Self { weight: parameter(&[output, input], 0.0, kind), bias: parameter(&[output], 0.0, kind) }
    }

    /// # Shapes
    /// x `[…, input]` → `[…, output]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }

    pub(super) fn tree(&self) -> Tree {
        let (output, input) = self.weight.size2().expect("a linear weight is a matrix");
        let leaf = Leaf::Linear { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() };
        Tree::leaf(format!("Linear(in_features={input}, out_features={output}, bias=True)"), leaf)
    }
}

/// A table of vectors.
#[derive(Debug)]
pub struct Embedding {
    /// W, `[rows, size]`, or those of its rows that are held here.
    pub weight: Tensor,
    /// Rows of the whole table.
    pub(super) rows: i64,
    /// Which rows are held here, where ranks share them out.
    pub(super) held: Option<Range<i64>>,
    /// The row that gets no gradient from look-ups.
    padding_idx: Option<i64>,
}

impl Embedding {
    /// A table of zeros on the CPU.
    pub fn new(rows: i64, size: i64, padding_idx: Option<i64>, kind: Kind) -> Self {
        Self { weight: parameter(&[rows, size], 0.0, kind), rows, held: None, padding_idx }
    }

    /// The same of which these rows alone are held here.
    pub fn part(rows: i64, held: Range<i64>, size: i64, padding_idx: Option<i64>, kind: Kind) -> Self {
        let (lead, n) = (lead(held.start as usize, size as usize) as i64, (held.end - held.start) * size);
        let line = Tensor::zeros([lead + n], (kind, Device::Cpu));
        let weight = line.narrow(0, lead, n).view([held.end - held.start, size]).set_requires_grad(true);
        Self { weight, rows, held: Some(held), padding_idx }
    }

    /// # Shapes
    /// ids `[…]`, int64, of rows that are held here → `[…, size]`
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, self.padding_idx.unwrap_or(-1), false, false)
    }

    pub(super) fn tree(&self) -> Tree {
        let (rows, (_, size)) = (self.rows, self.weight.size2().expect("an embedding is a matrix"));
        let padding = self.padding_idx.map_or(String::new(), |i| format!(", padding_idx={i}"));
        let held = self.held.clone().unwrap_or(0..rows);
        let leaf = Leaf::Embedding { weight: self.weight.shallow_clone(), held, rows };
        Tree::leaf(format!("Embedding({rows}, {size}{padding})"), leaf)
    }
}

/// Layer normalisation over the last dimension (Ba, Kiros, Hinton, 2016).
#[derive(Debug)]
pub struct LayerNorm {
    /// w, `[size]`.
    pub weight: Tensor,
    /// b, `[size]`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// A layer of ones and zeros on the CPU.
    pub fn new(size: i64, eps: f64, kind: Kind) -> Self {
        Self { weight: parameter(&[size], 1.0, kind), bias: parameter(&[size], 0.0, kind), eps }
    }

    /// # Shapes
    /// x `[…, size]` → `[…, size]`
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }

    pub(super) fn tree(&self) -> Tree {
        // Python prints a one-element tuple with a comma and a two-digit exponent.
        let (size, eps) = (self.weight.numel(), float(self.eps));
        let leaf = Leaf::LayerNorm { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() };
        Tree::leaf(format!("LayerNorm(({size},), eps={eps}, elementwise_affine=True)"), leaf)
    }
}

/// How many elements to leave free before the rows of a table from `first` on, so that they lie in memory as in the whole
/// table: libtorch's products round by how their matrices are aligned.
pub(crate) fn lead(first: usize, width: usize) -> usize {
    /// Floats of a cache line.
    const LINE: usize = 16;
    first * width % LINE
}

fn parameter(shape: &[i64], value: f64, kind: Kind) -> Tensor {
    Tensor::full(shape, value, (kind, Device::Cpu)).set_requires_grad(true)
}

/// Splits the last dimension into heads (RecBole's `transpose_for_scores`).
///
/// # Shapes
/// `[B, L, heads · d]` → `[B, heads, L, d]`
pub(super) fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let (b, l, size) = x.size3().expect("a stream is [B, L, size]");
    x.view([b, l, heads, size / heads]).permute([0, 2, 1, 3])
}
