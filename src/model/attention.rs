//! Decoupled side information fusion attention (the paper's section 4.2, equations 6 to 9): scores are computed for
//! items, positions and attributes apart and fused before the softmax; values come from items alone.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::init::{layer_norm, linear};
use super::{Dropout, FusionLayer, Tree};
use crate::config::ModelConfig;

/// What enters the attention scores of every layer beside the items' stream, unchanged from layer to layer.
#[derive(Debug)]
pub struct SideStreams {
    /// Attribute i: `[B, L, d_i]`.
    pub attributes: Vec<Tensor>,
    /// `[B, L, H]`.
    pub position: Tensor,
    /// `[B, 1, L, L]`: 0 where a query may see a key, −10000 elsewhere.
    pub mask: Tensor,
}

/// What one attention block computes on the way.
#[derive(Debug)]
pub struct AttentionOutput {
    /// Fused scores before scaling and mask, `[B, heads, L, L]`.
    pub fused_scores: Tensor,
    /// After scaling, mask and softmax, before dropout, `[B, heads, L, L]`.
    pub probs: Tensor,
    /// `[B, L, H]`.
    pub output: Tensor,
}

/// RecBole's `DeMultiHeadAttention`.
#[derive(Debug)]
pub struct Attention {
    heads: i64,
    query: nn::Linear,
    key: nn::Linear,
    value: nn::Linear,
    query_p: nn::Linear,
    key_p: nn::Linear,
    query_layers: Vec<nn::Linear>,
    key_layers: Vec<nn::Linear>,
    fusion_layer: FusionLayer,
    attn_dropout: Dropout,
    dense: nn::Linear,
    layer_norm: nn::LayerNorm,
    layer_norm_eps: f64,
    out_dropout: Dropout,
}

impl Attention {
    /// Parameters under `p`, in the order of RecBole's constructor.
    pub fn new(p: nn::Path<'_>, config: &ModelConfig, max_len: i64) -> Self {
        let h = config.hidden_size;
        let attributes = |name: &str| -> Vec<nn::Linear> {
            let sizes = config.attribute_hidden_size.iter().enumerate();
            sizes.map(|(i, &size)| linear(&p / name / i, size, size)).collect()
        };
        Self {
            heads: config.n_heads,
            query: linear(&p / "query", h, h),
            key: linear(&p / "key", h, h),
            value: linear(&p / "value", h, h),
            query_p: linear(&p / "query_p", h, h),
            key_p: linear(&p / "key_p", h, h),
            query_layers: attributes("query_layers"),
            key_layers: attributes("key_layers"),
            fusion_layer: FusionLayer::new(
                &p / "fusion_layer",
                config.fusion_type,
                config.attribute_hidden_size.len() as i64,
                max_len,
            ),
            attn_dropout: Dropout { p: config.attn_dropout_prob },
            dense: linear(&p / "dense", h, h),
            layer_norm: layer_norm(&p / "LayerNorm", h, config.layer_norm_eps),
            layer_norm_eps: config.layer_norm_eps,
            out_dropout: Dropout { p: config.hidden_dropout_prob },
        }
    }

    /// Fuses the streams' scores and mixes the item values.
    ///
    /// # Shapes
    /// hidden `[B, L, H]`
    pub fn forward(&self, hidden: &Tensor, side: &SideStreams, train: bool) -> AttentionOutput {
        let query = self.split(&self.query.forward(hidden));
        let key = self.split(&self.key.forward(hidden));
        let value = self.split(&self.value.forward(hidden));
        let query_p = self.split(&self.query_p.forward(&side.position));
        let key_p = self.split(&self.key_p.forward(&side.position));
        let head_size = query.size()[3];

        let item_scores = query.matmul(&key.transpose(-1, -2));
        let position_scores = query_p.matmul(&key_p.transpose(-1, -2));
        let attribute_scores: Vec<Tensor> = (self.query_layers.iter().zip(&self.key_layers).zip(&side.attributes))
            .map(|((query, key), attribute)| {
                let query = self.split(&query.forward(attribute));
                let key = self.split(&key.forward(attribute));
                query.matmul(&key.transpose(-1, -2))
            })
            .collect();

        let fused_scores = self.fusion_layer.forward(&attribute_scores, &item_scores, &position_scores);
        // Known behaviour: the item head size scales all streams, whatever the attributes' head size.
        let scores = &fused_scores / (head_size as f64).sqrt() + &side.mask;
        let probs = scores.softmax(-1, None::<Kind>);
        let context = self.attn_dropout.forward(&probs, train).matmul(&value);
        let context = context.permute([0, 2, 1, 3]).contiguous().view_as(hidden);
        let output = self.out_dropout.forward(&self.dense.forward(&context), train);
        let output = self.layer_norm.forward(&(output + hidden));
        AttentionOutput { fused_scores, probs, output }
    }

    /// `[B, L, heads · d]` → `[B, heads, L, d]`.
    fn split(&self, x: &Tensor) -> Tensor {
        let (b, l, size) = x.size3().expect("a stream is [B, L, size]");
        x.view([b, l, self.heads, size / self.heads]).permute([0, 2, 1, 3])
    }

    pub(super) fn tree(&self) -> Tree {
        let mut children = vec![
            ("query", Tree::linear(&self.query)),
            ("key", Tree::linear(&self.key)),
            ("value", Tree::linear(&self.value)),
            ("query_p", Tree::linear(&self.query_p)),
            ("key_p", Tree::linear(&self.key_p)),
            ("query_layers", Tree::list("ModuleList", self.query_layers.iter().map(Tree::linear))),
            ("key_layers", Tree::list("ModuleList", self.key_layers.iter().map(Tree::linear))),
        ];
        children.extend(self.fusion_layer.tree().map(|tree| ("fusion_layer", tree)));
        children.extend([
            ("attn_dropout", self.attn_dropout.tree()),
            ("dense", Tree::linear(&self.dense)),
            ("LayerNorm", Tree::layer_norm(&self.layer_norm, self.layer_norm_eps)),
            ("out_dropout", self.out_dropout.tree()),
        ]);
        Tree::node("DeMultiHeadAttention", children)
    }
}
