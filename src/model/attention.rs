//! Multi-head attention, and decoupled side information fusion attention (the paper's section 4.2, equations 6 to 9): the
//! scores of further streams are fused with the items' before the softmax; values come from the input alone.
//!
//! ```text
//! A    = (X·W_Q)(X·W_K)ᵀ                       for each head, of the input X
//! A    = F(A₁, …, A, A_p)                      SASRecD alone: fused with the attributes' and the positions' scores
//! head = dropout(softmax(A / √d + mask))·(X·W_V)
//! Y    = LayerNorm(dropout(concat(heads)·W_O) + X)
//! ```
//!
//! A product with a W stands for a whole linear layer: RecBole's layers have biases, which the equations leave out.

use tch::{Kind, Tensor};

use super::layers::split_heads;
use super::{Dropout, LayerNorm, Linear, SideAttention, SideStreams, Tree, names};
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

/// RecBole's `MultiHeadAttention`; with side streams the authors' `DeMultiHeadAttention`.
#[derive(Debug)]
pub struct Attention {
    heads: i64,
    query: Linear,
    key: Linear,
    value: Linear,
    /// `None` but for SASRecD.
    side: Option<SideAttention>,
    attn_dropout: Dropout,
    dense: Linear,
    layer_norm: LayerNorm,
    out_dropout: Dropout,
}

impl Attention {
    /// An attention for sequences of `max_len` positions, its parameters zero.
    pub fn new(config: &ModelConfig, max_len: i64, kind: Kind) -> Self {
        let h = config.hidden_size;
        let linear = || Linear::new(h, h, kind);
        Self {
            heads: config.n_heads,
            query: linear(),
            key: linear(),
            value: linear(),
            side: match config.model {
                Architecture::SasRecD => Some(SideAttention::new(config, max_len, kind)),
                Architecture::SasRec | Architecture::SasRecF => None,
            },
            attn_dropout: Dropout { p: config.attn_dropout_prob },
            dense: linear(),
            layer_norm: LayerNorm::new(h, config.layer_norm_eps, kind),
            out_dropout: Dropout { p: config.hidden_dropout_prob },
        }
    }

    /// Mixes the input's values by the scores; `side` is there where the model has side streams.
    ///
    /// # Shapes
    /// hidden `[B, L, H]`, mask `[B, 1, L, L]` (0 where a query may see a key, −10000 elsewhere) → scores and
    /// probabilities `[B, heads, L, L]`, output `[B, L, H]`
    pub fn forward(&self, hidden: &Tensor, side: Option<&SideStreams>, mask: &Tensor, train: bool) -> AttentionOutput {
        let query = split_heads(&self.query.forward(hidden), self.heads);
        let key = split_heads(&self.key.forward(hidden), self.heads);
        let value = split_heads(&self.value.forward(hidden), self.heads);
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
        let mut children =
            vec![(names::QUERY, self.query.tree()), (names::KEY, self.key.tree()), (names::VALUE, self.value.tree())];
        match &self.side {
            Some(side) => children.extend(side.children()),
            // RecBole 1.2.1's `MultiHeadAttention` registers a softmax; the authors' attention does not.
            None => children.push(("softmax", Tree::inert("Softmax(dim=-1)"))),
        }
        children.extend([
            ("attn_dropout", self.attn_dropout.tree()),
            (names::DENSE, self.dense.tree()),
            (names::LAYER_NORM, self.layer_norm.tree()),
            ("out_dropout", self.out_dropout.tree()),
        ]);
        Tree::node(if self.side.is_some() { "DeMultiHeadAttention" } else { "MultiHeadAttention" }, children)
    }
}
