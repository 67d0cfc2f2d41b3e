//! The stack of DIF layers (RecBole's `DeTransformerEncoder`).

use tch::{Tensor, nn};

use super::{Attention, AttentionOutput, FeedForward, SideStreams, Tree};
use crate::config::ModelConfig;

/// What one layer computes on the way.
#[derive(Debug)]
pub struct LayerOutput {
    pub attention: AttentionOutput,
    /// After the feed-forward network, `[B, L, H]`.
    pub output: Tensor,
}

/// One attention block and one feed-forward network (RecBole's `DeTransformerLayer`).
#[derive(Debug)]
pub struct Layer {
    multi_head_attention: Attention,
    feed_forward: FeedForward,
}

impl Layer {
    /// Parameters under `p`.
    pub fn new(p: nn::Path<'_>, config: &ModelConfig, max_len: i64) -> Self {
        Self {
            multi_head_attention: Attention::new(&p / "multi_head_attention", config, max_len),
            feed_forward: FeedForward::new(&p / "feed_forward", config),
        }
    }

    /// # Shapes
    /// As [`Attention::forward`].
    pub fn forward(&self, hidden: &Tensor, side: &SideStreams, train: bool) -> LayerOutput {
        let attention = self.multi_head_attention.forward(hidden, side, train);
        let output = self.feed_forward.forward(&attention.output, train);
        LayerOutput { attention, output }
    }

    fn tree(&self) -> Tree {
        Tree::node(
            "DeTransformerLayer",
            vec![
                ("multi_head_attention", self.multi_head_attention.tree()),
                ("feed_forward", self.feed_forward.tree()),
            ],
        )
    }
}

/// `n_layers` layers. Attributes and positions enter every one of them unchanged; only the items' stream is transformed.
#[derive(Debug)]
pub struct Encoder {
    layer: Vec<Layer>,
}

impl Encoder {
    /// Parameters under `p / "layer" / k`.
    pub fn new(p: nn::Path<'_>, config: &ModelConfig, max_len: i64) -> Self {
        let p = &p / "layer";
        Self { layer: (0..config.n_layers).map(|k| Layer::new(&p / k, config, max_len)).collect() }
    }

    /// The output of every layer, first to last.
    ///
    /// # Shapes
    /// As [`Attention::forward`].
    pub fn forward(&self, hidden: &Tensor, side: &SideStreams, train: bool) -> Vec<LayerOutput> {
        let mut outputs: Vec<LayerOutput> = Vec::with_capacity(self.layer.len());
        for layer in &self.layer {
            let hidden = outputs.last().map_or(hidden, |below| &below.output);
            outputs.push(layer.forward(hidden, side, train));
        }
        outputs
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::node(
            "DeTransformerEncoder",
            vec![("layer", Tree::list("ModuleList", self.layer.iter().map(Layer::tree)))],
        )
    }
}
