//! What DIF adds to multi-head attention: scores of positions and attributes, computed apart from the items' and fused with
//! them (the paper's equations 6 to 8).

use tch::Tensor;
use tch::nn::{self, Module};

use super::attention::split;
use super::init::linear;
use super::{FusionLayer, Tree};
use crate::config::ModelConfig;

/// What enters the attention scores of every layer beside the items' stream, unchanged from layer to layer.
#[derive(Debug)]
pub struct SideStreams {
    /// Attribute i: `[B, L, d_i]`.
    pub attributes: Vec<Tensor>,
    /// `[B, L, H]`.
    pub position: Tensor,
}

/// The part of RecBole's `DeMultiHeadAttention` that a `MultiHeadAttention` does not have.
#[derive(Debug)]
pub struct SideAttention {
    heads: i64,
    query_p: nn::Linear,
    key_p: nn::Linear,
    query_layers: Vec<nn::Linear>,
    key_layers: Vec<nn::Linear>,
    fusion_layer: FusionLayer,
}

impl SideAttention {
    /// Parameters under `p`, which is the attention block's path.
    pub fn new(p: &nn::Path<'_>, config: &ModelConfig, max_len: i64) -> Self {
        let h = config.hidden_size;
        let attributes = |name: &str| -> Vec<nn::Linear> {
            let sizes = config.attribute_hidden_size.iter().enumerate();
            sizes.map(|(i, &size)| linear(p / name / i, size, size)).collect()
        };
        Self {
            heads: config.n_heads,
            query_p: linear(p / "query_p", h, h),
            key_p: linear(p / "key_p", h, h),
            query_layers: attributes("query_layers"),
            key_layers: attributes("key_layers"),
            fusion_layer: FusionLayer::new(
                p / "fusion_layer",
                config.fusion_type,
                config.attribute_hidden_size.len() as i64,
                max_len,
            ),
        }
    }

    /// Fuses the items' scores with those of the side streams.
    ///
    /// # Shapes
    /// item_scores `[B, heads, L, L]` → `[B, heads, L, L]`
    pub fn forward(&self, item_scores: &Tensor, side: &SideStreams) -> Tensor {
        let scores = |query: &nn::Linear, key: &nn::Linear, stream: &Tensor| {
            let query = split(&query.forward(stream), self.heads);
            let key = split(&key.forward(stream), self.heads);
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
            ("query_p", Tree::linear(&self.query_p)),
            ("key_p", Tree::linear(&self.key_p)),
            ("query_layers", Tree::list("ModuleList", self.query_layers.iter().map(Tree::linear))),
            ("key_layers", Tree::list("ModuleList", self.key_layers.iter().map(Tree::linear))),
        ];
        children.extend(self.fusion_layer.tree().map(|tree| ("fusion_layer", tree)));
        children
    }
}
