//! How the attention scores of the streams become one (the paper's fusion function F, section 4.2.2).
//!
//! Aₛ is a row of the scores of stream s, [] their concatenation.
//!
//! ```text
//! sum:     F = Σ Aₛ
//! concat:  F = [A₁, …]·W + b
//! gate:    F = Σ αₛ·Aₛ,   α = softmax over s of (relu(Aₛ·W₁ + b₁)·w₂ + b₂)
//! ```

use tch::{Kind, Tensor};

use super::{Linear, Tree, names};
use crate::config::Fusion;

/// The fusion function with its parameters. Score maps come in the order attributes, item, position.
#[derive(Debug)]
pub enum FusionLayer {
    /// Adds the maps.
    Sum,
    /// One linear layer over the rows of all maps side by side.
    Concat(Linear),
    /// A softmax over the streams, from a two-layer perceptron over each map's row (RecBole's `VanillaAttention`).
    Gate {
        /// W₁, b₁.
        hidden: Linear,
        /// w₂, b₂.
        energy: Linear,
    },
}

impl FusionLayer {
    /// `fusion_type` for `attributes` attributes and sequences of `max_len` positions.
    pub fn new(fusion: Fusion, attributes: i64, max_len: i64, kind: Kind) -> Self {
        match fusion {
            Fusion::Sum => Self::Sum,
            Fusion::Concat => Self::Concat(Linear::new(max_len * (2 + attributes), max_len, kind)),
            Fusion::Gate => {
                Self::Gate { hidden: Linear::new(max_len, max_len, kind), energy: Linear::new(max_len, 1, kind) }
            }
        }
    }

    /// Fuses the score maps. `concat` and `gate` see the whole row of scores, the columns of padded and future keys
    /// included: the mask comes later, as in the reference.
    ///
    /// # Shapes
    /// every map `[B, heads, L, L]` → `[B, heads, L, L]`
    pub fn forward(&self, attributes: &[Tensor], item: &Tensor, position: &Tensor) -> Tensor {
        match self {
            Self::Sum if attributes.is_empty() => item + position,
            Self::Sum => Tensor::stack(attributes, -2).sum_dim_intlist(-2, false, None::<Kind>) + item + position,
            Self::Concat(layer) => {
                let maps: Vec<&Tensor> = attributes.iter().chain([item, position]).collect();
                layer.forward(&Tensor::cat(&maps, -1))
            }
            Self::Gate { hidden, energy } => {
                let maps: Vec<&Tensor> = attributes.iter().chain([item, position]).collect();
                let maps = Tensor::stack(&maps, -2); // [B, heads, L, 2 + attributes, L]
                let energy = energy.forward(&hidden.forward(&maps).relu());
                let weights = energy.squeeze_dim(-1).softmax(-1, None);
                (maps * weights.unsqueeze(-1)).sum_dim_intlist(-2, false, None::<Kind>)
            }
        }
    }

    /// `None` for `sum`, which registers no module.
    pub(super) fn tree(&self) -> Option<Tree> {
        match self {
            Self::Sum => None,
            Self::Concat(layer) => Some(layer.tree()),
            Self::Gate { hidden, energy } => {
                let parts = [hidden.tree(), Tree::inert("ReLU(inplace=True)"), energy.tree()];
                Some(Tree::node("VanillaAttention", vec![(names::PROJECTION, Tree::list("Sequential", parts))]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_attributes_the_sum_is_that_of_items_and_positions() {
        let [item, position] = [[1.0, 2.0], [0.5, -4.0]].map(|row| Tensor::from_slice(&row).view([1, 1, 1, 2]));
        let fused = FusionLayer::Sum.forward(&[], &item, &position).flatten(0, -1);
        assert_eq!(Vec::<f64>::try_from(fused).unwrap(), [1.5, -2.0]);
    }
}
