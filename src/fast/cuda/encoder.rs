//! The layers of the lean program: [`crate::model`]'s in fewer operations, and of the last layer nothing but what the
//! last item's output needs.

use tch::{Kind, Tensor};

use super::inputs::Inputs;
use super::scores::SideScores;
use super::weights::{Layer, Weights};
use crate::config::{Activation, ModelConfig};
use crate::model::{FusionLayer, Linear};

/// The encoder, with what it needs in one pass.
#[derive(Debug, Clone, Copy)]
pub struct Encoder<'a> {
    pub config: &'a ModelConfig,
    pub weights: &'a Weights,
    pub inputs: &'a Inputs,
    /// Whether elements are dropped.
    pub train: bool,
}

/// A layer, with what it needs beside its input.
struct LayerContext<'a> {
    layer: &'a Layer,
    /// Of queries, keys and values one below the other, `[3 · H, H]` and `[3 · H]`.
    projection: Linear,
    /// SASRecD's alone.
    side: Option<&'a SideScores>,
    is_last: bool,
}

impl Encoder<'_> {
    /// The output of the last layer at the last item of each sequence.
    ///
    /// # Shapes
    /// input `[B, L, H]`, before its LayerNorm → `[B, H]`
    pub fn forward(&self, input: &Tensor, side: &[SideScores]) -> Tensor {
        let Self { weights, config, inputs, .. } = self;
        let [b, l] = inputs.shape;
        let mut hidden = self.dropout(weights.norm.forward(input)).view([b * l, config.hidden_size]);
        let layers = weights.layers.iter().zip(self.projections());
        for (k, (layer, projection)) in layers.enumerate() {
            let is_last = k + 1 == weights.layers.len();
            hidden = self.layer(&LayerContext { layer, projection, side: side.get(k), is_last }, &hidden);
        }
        hidden
    }

    /// The query, key and value layers of each encoder layer as one, `[3 · H, H]`; one copy makes those of all layers.
    fn projections(&self) -> Vec<Linear> {
        let h = self.config.hidden_size;
        let all = || self.weights.layers.iter().flat_map(|layer| &layer.qkv);
        let weights: Vec<&Tensor> = all().map(|linear| &linear.weight).collect();
        let biases: Vec<&Tensor> = all().map(|linear| &linear.bias).collect();
        let weights = Tensor::cat(&weights, 0).view([-1, 3 * h, h]).unbind(0);
        let biases = Tensor::cat(&biases, 0).view([-1, 3 * h]).unbind(0);
        weights.into_iter().zip(biases).map(|(weight, bias)| Linear { weight, bias }).collect()
    }

    /// # Shapes
    /// hidden `[B · L, H]` → `[B · L, H]`, the last layer's `[B, H]`
    fn layer(&self, context: &LayerContext, hidden: &Tensor) -> Tensor {
        let layer = context.layer;
        let (heads, residual) = self.attention(context, hidden);
        let output = self.dropout(layer.dense.forward(&heads)) + residual;
        let attended = layer.attention_norm.forward(&output);
        let inner = activate(self.config.hidden_act, &layer.dense_1.forward(&attended));
        let output = self.dropout(layer.dense_2.forward(&inner)) + &attended;
        layer.norm.forward(&output)
    }

    /// The heads' contexts side by side, and the rows of the input that they are added to: Q = L queries of each
    /// sequence, in the last layer one.
    ///
    /// # Shapes
    /// hidden `[B · L, H]` → `[B · Q, H]` twice
    fn attention(&self, context: &LayerContext, hidden: &Tensor) -> (Tensor, Tensor) {
        let Self { config, inputs, .. } = self;
        let ([b, l], heads, h) = (inputs.shape, config.n_heads, config.hidden_size);
        let Linear { weight, bias } = &context.projection;
        let (queries, d) = (if context.is_last { 1 } else { l }, h / heads);
        let (query, key, value, residual) = if context.is_last {
            let (weights, biases) = (weight.split_with_sizes([h, 2 * h], 0), bias.split_with_sizes([h, 2 * h], 0));
            let last = inputs.at_last(hidden);
            let query = last.linear(&weights[0], Some(&biases[0])).view([b * heads, 1, d]);
            let [key, value] = self.heads(&hidden.linear(&weights[1], Some(&biases[1])));
            (query, key, value, last)
        } else {
            let [query, key, value] = self.heads(&hidden.linear(weight, Some(bias)));
            (query, key, value, hidden.shallow_clone())
        };
        let scores = query.bmm(&key.transpose(1, 2)).view([b, heads, queries, l]);
        let probs = self.probabilities(context, scores);
        let probs = drop_out(probs, config.attn_dropout_prob, self.train);
        let attended = probs.view([b * heads, queries, l]).bmm(&value).view([b, heads, queries, d]);
        (attended.permute([0, 2, 1, 3]).reshape([b * queries, h]), residual)
    }

    /// # Shapes
    /// scores `[B, heads, Q, L]` → `[B, heads, Q, L]`
    fn probabilities(&self, context: &LayerContext, scores: Tensor) -> Tensor {
        let mask = if context.is_last { &self.inputs.last_mask } else { &self.inputs.mask };
        let scale = ((self.config.hidden_size / self.config.n_heads) as f64).sqrt();
        let fused = match context.layer.side.as_ref().zip(context.side) {
            Some((layer, side)) => fuse(&layer.fusion, scores, side),
            None => scores,
        };
        (fused / scale + mask).softmax(-1, None::<Kind>)
    }

    /// Splits N projections that stand side by side (of query, key, value), and each into heads.
    ///
    /// # Shapes
    /// x `[B · L, N · H]` → N times `[B · heads, L, d]`
    fn heads<const N: usize>(&self, x: &Tensor) -> [Tensor; N] {
        let ([b, l], heads) = (self.inputs.shape, self.config.n_heads);
        let d = self.config.hidden_size / heads;
        let all = x.view([b, l, N as i64, heads, d]).permute([2, 0, 3, 1, 4]).contiguous();
        all.view([N as i64, b * heads, l, d]).unbind(0).try_into().expect("N streams")
    }

    fn dropout(&self, x: Tensor) -> Tensor {
        drop_out(x, self.config.hidden_dropout_prob, self.train)
    }
}

/// DIFFERENCE: libtorch's own dropout, one operation on a GPU, where the reference path makes masks of float64 numbers
/// so that they are the CPU's. The last layer's masks have one row a sequence. Both are equal in distribution.
fn drop_out(x: Tensor, p: f64, train: bool) -> Tensor {
    if train && p > 0.0 { x.dropout(p, true) } else { x }
}

/// # Shapes
/// scores `[B, heads, Q, L]` → `[B, heads, Q, L]`
fn fuse(fusion: &FusionLayer, scores: Tensor, side: &SideScores) -> Tensor {
    match fusion {
        FusionLayer::Sum => side.attributes.iter().fold(scores + &side.position, |sum, map| sum + map),
        FusionLayer::Concat(_) | FusionLayer::Gate { .. } => {
            fusion.forward(&side.attributes, &scores, &side.position.expand_as(&scores))
        }
    }
}

/// DIFFERENCE: libtorch's own `gelu` and `silu`, one operation where the reference writes five and two.
fn activate(activation: Activation, x: &Tensor) -> Tensor {
    match activation {
        Activation::Gelu => x.gelu("none"),
        Activation::Swish => x.silu(),
        Activation::Relu | Activation::Tanh | Activation::Sigmoid => activation.forward(x),
    }
}
