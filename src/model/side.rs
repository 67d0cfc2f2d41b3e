//! What DIF adds to multi-head attention: scores of positions and attributes, computed apart from the items' and fused with
//! them (the paper's equations 6 to 8).
//!
//! ```text
//! A_p = (P·W_Qp)(P·W_Kp)ᵀ                for each head, of the positions P
//! Aᵢ  = (Fᵢ·W_Qi)(Fᵢ·W_Ki)ᵀ              for each head, of attribute i
//! out = F(A₁, …, A, A_p)                 A the scores of the items
//! ```
//!
//! A product with a W stands for a linear layer with its bias.

use tch::{Kind, Tensor};

use super::layers::split_heads;
use super::{FusionLayer, Linear, Tree, names};
use crate::config::ModelConfig;

/// What enters the attention scores of every layer beside the items' stream, unchanged from layer to layer.
#[derive(Debug)]
pub struct SideStreams {
    /// Attribute i: `[B, L, d_i]`.
    pub attributes: Vec<Tensor>,
    /// `[B, L, H]`.
    pub position: Tensor,
}

/// What the authors' `DeMultiHeadAttention` has beyond RecBole's `MultiHeadAttention`.
#[derive(Debug)]
pub struct SideAttention {
    heads: i64,
    query_p: Linear,
    key_p: Linear,
    query_layers: Vec<Linear>,
    key_layers: Vec<Linear>,
    fusion_layer: FusionLayer,
}

impl SideAttention {
    /// An attention for sequences of `max_len` positions, its parameters zero.
    pub fn new(config: &ModelConfig, max_len: i64, kind: Kind) -> Self {
        let h = config.hidden_size;
        let sizes = &config.attribute_hidden_size;
        let attributes = || sizes.iter().map(|&size| Linear::new(size, size, kind)).collect();
        Self {
            heads: config.n_heads,
            query_p: Linear::new(h, h, kind),
            key_p: Linear::new(h, h, kind),
            query_layers: attributes(),
            key_layers: attributes(),
            fusion_layer: FusionLayer::new(config.fusion_type, sizes.len() as i64, max_len, kind),
        }
    }

    /// Fuses the items' scores with those of the side streams.
    ///
    /// # Shapes
    /// item_scores `[B, heads, L, L]` → `[B, heads, L, L]`
    pub fn forward(&self, item_scores: &Tensor, side: &SideStreams) -> Tensor {
        let scores = |query: &Linear, key: &Linear, stream: &Tensor| {
            let query = split_heads(&query.forward(stream), self.heads);
            let key = split_heads(&key.forward(stream), self.heads);
            query.matmul(&key.transpose(-1, -2))
        };
        let position_scores = scores(&self.query_p, &self.key_p, &side.position);
        let attribute_scores: Vec<Tensor> = (self.query_layers.iter().zip(&self.key_layers).zip(&side.attributes))
            .map(|((query, key), attribute)| scores(query, key, attribute))
            .collect();
        self.fusion_layer.forward(&attribute_scores, item_scores, &position_scores)
    }

    pub(super) fn children(&self) -> Vec<(&'static str, Tree)> {
        let mut children = vec![
            (names::QUERY_P, self.query_p.tree()),
            (names::KEY_P, self.key_p.tree()),
            (names::QUERY_LAYERS, Tree::list("ModuleList", self.query_layers.iter().map(Linear::tree))),
            (names::KEY_LAYERS, Tree::list("ModuleList", self.key_layers.iter().map(Linear::tree))),
        ];
        children.extend(self.fusion_layer.tree().map(|tree| (names::FUSION_LAYER, tree)));
        children
    }
}
