//! The activation between the two products of the feed-forward network.
//!
//! ```text
//! gelu:     x/2 · (1 + erf(x/√2))
//! relu:     max(x, 0)
//! swish:    x · σ(x)
//! tanh:     tanh(x)
//! sigmoid:  σ(x) = 1 / (1 + e⁻ˣ)
//! ```

use std::f64::consts::SQRT_2;

use tch::Tensor;

use crate::config::Activation;

impl Activation {
    /// Applies the activation elementwise.
    ///
    /// `gelu` is written as RecBole writes it: libtorch's own `gelu` computes the same function and rounds differently.
    ///
    /// # Shapes
    /// `[…]` → `[…]`
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x * 0.5 * ((x / SQRT_2).erf() + 1.0),
            Self::Relu => x.relu(),
            Self::Swish => x * x.sigmoid(),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => x.sigmoid(),
        }
    }
}
