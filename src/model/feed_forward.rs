//! The position-wise feed-forward network with its residual (RecBole's `FeedForward`).
//!
//! ```text
//! Y = LayerNorm(dropout(act(X·W₁ + b₁)·W₂ + b₂) + X)
//! ```

use tch::{Kind, Tensor};

use super::{Dropout, LayerNorm, Linear, Tree, names};
use crate::config::{Activation, ModelConfig};

/// dense_1, activation, dense_2, dropout, LayerNorm of the sum with the input.
#[derive(Debug)]
pub struct FeedForward {
    dense_1: Linear,
    activation: Activation,
    dense_2: Linear,
    layer_norm: LayerNorm,
    dropout: Dropout,
}

impl FeedForward {
    /// A network whose parameters are zero.
    pub fn new(config: &ModelConfig, kind: Kind) -> Self {
        let (h, inner) = (config.hidden_size, config.inner_size);
        Self {
            dense_1: Linear::new(h, inner, kind),
            activation: config.hidden_act,
            dense_2: Linear::new(inner, h, kind),
            layer_norm: LayerNorm::new(h, config.layer_norm_eps, kind),
            dropout: Dropout { p: config.hidden_dropout_prob },
        }
    }

    /// # Shapes
    /// `[B, L, H]` → `[B, L, H]`
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let hidden = self.activation.forward(&self.dense_1.forward(x));
        let hidden = self.dropout.forward(&self.dense_2.forward(&hidden), train);
        self.layer_norm.forward(&(hidden + x))
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::node(
            "FeedForward",
            vec![
                (names::DENSE_1, self.dense_1.tree()),
                (names::DENSE_2, self.dense_2.tree()),
                (names::LAYER_NORM, self.layer_norm.tree()),
                ("dropout", self.dropout.tree()),
            ],
        )
    }
}
