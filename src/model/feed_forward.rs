//! The position-wise feed-forward network with its residual (RecBole's `FeedForward`).

use tch::Tensor;
use tch::nn::{self, Module};

use super::init::{layer_norm, linear};
use super::{Dropout, Tree};
use crate::config::{Activation, ModelConfig};

/// dense_1, activation, dense_2, dropout, LayerNorm of the sum with the input.
#[derive(Debug)]
pub struct FeedForward {
    dense_1: nn::Linear,
    activation: Activation,
    dense_2: nn::Linear,
    layer_norm: nn::LayerNorm,
    layer_norm_eps: f64,
    dropout: Dropout,
}

impl FeedForward {
    /// Parameters under `p`.
    pub fn new(p: nn::Path<'_>, config: &ModelConfig) -> Self {
        let (h, inner) = (config.hidden_size, config.inner_size);
        Self {
            dense_1: linear(&p / "dense_1", h, inner),
            activation: config.hidden_act,
            dense_2: linear(&p / "dense_2", inner, h),
            layer_norm: layer_norm(&p / "LayerNorm", h, config.layer_norm_eps),
            layer_norm_eps: config.layer_norm_eps,
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
                ("dense_1", Tree::linear(&self.dense_1)),
                ("dense_2", Tree::linear(&self.dense_2)),
                ("LayerNorm", Tree::layer_norm(&self.layer_norm, self.layer_norm_eps)),
                ("dropout", self.dropout.tree()),
            ],
        )
    }
}
