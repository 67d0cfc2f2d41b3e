//! Inverted dropout with masks that do not depend on the processor's maker.
//!
//! ```text
//! y = x ⊙ mask / (1 − p),   mask ~ Bernoulli(1 − p)
//! ```

use tch::{Kind, Tensor};

use super::Tree;
use crate::python::float;

/// Zeroes each element with probability `p` in training and scales the rest by 1 / (1 − p).
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// The probability.
    pub p: f64,
}

impl Dropout {
    /// The input itself in evaluation or with p = 0, without a draw.
    ///
    /// DIFFERENCE: PyTorch draws the mask with `bernoulli_`, which takes its bits from MKL on Intel processors and from
    /// libtorch's generator elsewhere. `rand(float64) < 1 − p` is what the latter computes, bit for bit, everywhere.
    ///
    /// # Shapes
    /// `[…]` → `[…]`
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        if !train || self.p == 0.0 {
            return x.shallow_clone();
        }
        let keep = 1.0 - self.p;
        let mask = Tensor::rand(x.size(), (Kind::Double, x.device())).lt(keep).to_kind(x.kind());
        x * (mask / keep)
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::inert(format!("Dropout(p={}, inplace=False)", float(self.p)))
    }
}
