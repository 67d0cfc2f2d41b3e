//! Multi-head attention, and decoupled side information fusion attention (the paper's section 4.2, equations 6 to 9): the
//! scores of further streams are fused with the items' before the softmax; values come from the input alone.

use tch::nn::{self, Module};
use tch::{Kind, Tensor};

use super::init::{layer_norm, linear};
use super::{Dropout, SideAttention, SideStreams, Tree};
use crate::config::{Architecture, ModelConfig};

/// What one attention block computes on the way.
#[derive(Debug)]
pub struct AttentionOutput {
    /// Scores before scaling and mask, fused where there are side streams, `[B, heads, L, L]`.
    pub fused_scores: Tensor,
    /// After scaling, mask and softmax, before dropout, `[B, heads, L, L]`.
    pub probs: Tensor,
    /// `[B, L, H]`.
    pub output: Tensor,
}

/// RecBole's `MultiHeadAttention`, with side streams its `DeMultiHeadAttention`.
#[derive(Debug)]
pub struct Attention {
    heads: i64,
    query: nn::Linear,
    key: nn::Linear,
    value: nn::Linear,
    /// `None` but for SASRecD.
    side: Option<SideAttention>,
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
        Self {
            heads: config.n_heads,
            query: linear(&p / "query", h, h),
            key: linear(&p / "key", h, h),
            value: linear(&p / "value", h, h),
            side: match config.model {
                Architecture::SasRecD => Some(SideAttention::new(&p, config, max_len)),
                Architecture::SasRec | Architecture::SasRecF => None,
            },
            attn_dropout: Dropout { p: config.attn_dropout_prob },
            dense: linear(&p / "dense", h, h),
            layer_norm: layer_norm(&p / "LayerNorm", h, config.layer_norm_eps),
            layer_norm_eps: config.layer_norm_eps,
            out_dropout: Dropout { p: config.hidden_dropout_prob },
        }
    }

    /// Mixes the input's values by the scores; `side` is there where the model has side streams.
    ///
    /// # Shapes
    /// hidden `[B, L, H]`, mask `[B, 1, L, L]`: 0 where a query may see a key, −10000 elsewhere
    pub fn forward(&self, hidden: &Tensor, side: Option<&SideStreams>, mask: &Tensor, train: bool) -> AttentionOutput {
        let query = split(&self.query.forward(hidden), self.heads);
        let key = split(&self.key.forward(hidden), self.heads);
        let value = split(&self.value.forward(hidden), self.heads);
        let head_size = query.size()[3];

        let item_scores = query.matmul(&key.transpose(-1, -2));
        let fused_scores = match self.side.as_ref().zip(side) {
            Some((attention, side)) => attention.forward(&item_scores, side),
            None => item_scores,
        };
        // Known behaviour: the item head size scales all streams, whatever the attributes' head size.
        let scores = &fused_scores / (head_size as f64).sqrt() + mask;
        let probs = scores.softmax(-1, None::<Kind>);
        let context = self.attn_dropout.forward(&probs, train).matmul(&value);
        let context = context.permute([0, 2, 1, 3]).contiguous().view_as(hidden);
        let output = self.out_dropout.forward(&self.dense.forward(&context), train);
        let output = self.layer_norm.forward(&(output + hidden));
        AttentionOutput { fused_scores, probs, output }
    }

    pub(super) fn tree(&self) -> Tree {
        let mut children = vec![
            ("query", Tree::linear(&self.query)),
            ("key", Tree::linear(&self.key)),
            ("value", Tree::linear(&self.value)),
        ];
        match &self.side {
            Some(side) => children.extend(side.children()),
            // RecBole 1.2.1 registers it in the one, the authors' code does not in the other.
            None => children.push(("softmax", Tree::inert("Softmax(dim=-1)"))),
        }
        children.extend([
            ("attn_dropout", self.attn_dropout.tree()),
            ("dense", Tree::linear(&self.dense)),
            ("LayerNorm", Tree::layer_norm(&self.layer_norm, self.layer_norm_eps)),
            ("out_dropout", self.out_dropout.tree()),
        ]);
        Tree::node(if self.side.is_some() { "DeMultiHeadAttention" } else { "MultiHeadAttention" }, children)
    }
}

/// `[B, L, heads · d]` → `[B, heads, L, d]`.
pub(super) fn split(x: &Tensor, heads: i64) -> Tensor {
    let (b, l, size) = x.size3().expect("a stream is [B, L, size]");
    x.view([b, l, heads, size / heads]).permute([0, 2, 1, 3])
}
