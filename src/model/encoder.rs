//! The stack of layers (RecBole's `TransformerEncoder`; with side streams the authors' `DeTransformerEncoder`).
//!
//! ```text
//! X₀ = the input
//! Xₖ = FeedForward(Attention(Xₖ₋₁, side streams))      k = 1 … n_layers
//! ```

use tch::{Kind, Tensor};

use super::{Attention, AttentionOutput, FeedForward, SideStreams, Tree, names};
use crate::config::{Architecture, ModelConfig};

/// What one layer computes on the way.
#[derive(Debug)]
pub struct LayerOutput {
    /// What its attention computed.
    pub attention: AttentionOutput,
    /// After the feed-forward network, `[B, L, H]`.
    pub output: Tensor,
}

/// One attention block and one feed-forward network (RecBole's `TransformerLayer`, or the authors'
/// `DeTransformerLayer`).
#[derive(Debug)]
pub struct Layer {
    multi_head_attention: Attention,
    feed_forward: FeedForward,
}

impl Layer {
    /// A layer for sequences of `max_len` positions, its parameters zero.
    pub fn new(config: &ModelConfig, max_len: i64, kind: Kind) -> Self {
        Self {
            multi_head_attention: Attention::new(config, max_len, kind),
            feed_forward: FeedForward::new(config, kind),
        }
    }

    /// # Shapes
    /// As [`Attention::forward`].
    pub fn forward(&self, hidden: &Tensor, side: Option<&SideStreams>, mask: &Tensor, train: bool) -> LayerOutput {
        let attention = self.multi_head_attention.forward(hidden, side, mask, train);
        let output = self.feed_forward.forward(&attention.output, train);
        LayerOutput { attention, output }
    }

    fn tree(&self, prefix: &str) -> Tree {
        Tree::node(
            &format!("{prefix}TransformerLayer"),
            vec![
                (names::MULTI_HEAD_ATTENTION, self.multi_head_attention.tree()),
                (names::FEED_FORWARD, self.feed_forward.tree()),
            ],
        )
    }
}

/// `n_layers` layers. Side streams enter every one of them unchanged; only the input is transformed.
#[derive(Debug)]
pub struct Encoder {
    /// What the printed class names begin with: `De` for SASRecD, else nothing.
    prefix: &'static str,
    layer: Vec<Layer>,
}

impl Encoder {
    /// An encoder of sequences of `max_len` positions, its parameters zero.
    pub fn new(config: &ModelConfig, max_len: i64, kind: Kind) -> Self {
        Self {
            prefix: if config.model == Architecture::SasRecD { "De" } else { "" },
            layer: (0..config.n_layers).map(|_| Layer::new(config, max_len, kind)).collect(),
        }
    }

    /// The output of every layer, first to last.
    ///
    /// # Shapes
    /// As [`Attention::forward`].
    pub fn forward(&self, hidden: &Tensor, side: Option<&SideStreams>, mask: &Tensor, train: bool) -> Vec<LayerOutput> {
        let mut outputs: Vec<LayerOutput> = Vec::with_capacity(self.layer.len());
        for layer in &self.layer {
            let hidden = outputs.last().map_or(hidden, |below| &below.output);
            outputs.push(layer.forward(hidden, side, mask, train));
        }
        outputs
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::node(
            &format!("{}TransformerEncoder", self.prefix),
            vec![(names::LAYER, Tree::list("ModuleList", self.layer.iter().map(|layer| layer.tree(self.prefix))))],
        )
    }
}
