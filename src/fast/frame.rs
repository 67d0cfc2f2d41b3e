//! What all chunks of a step read: weights and what follows from weights alone.

use super::catalogue::Catalogue;
use super::dropout::{Dropout, Stream};
use super::fusion::Fusion;
use super::kernels::{dot, padded};
use super::layer::{ThreadGrad, parameters};
use super::product::{Into, Matrix, product};
use super::weights::Layout;
use crate::config::{Activation, ModelConfig, Precision};

/// The weights of a step, laid out for the kernels.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub layout: &'a Layout,
    /// All parameters but the item embedding, in the layout's places.
    pub flat: &'a [f32],
    /// The item embedding, `[n_items, H]`.
    pub table: &'a [f32],
    pub precision: Precision,
    pub activation: Activation,
    pub eps: f32,
    /// H.
    pub h: usize,
    pub heads: usize,
    /// L.
    pub length: usize,
    /// The floats of a row of scores, P.
    pub padded: usize,
    pub hidden_dropout: Option<Dropout>,
    pub attention_dropout: Option<Dropout>,
    /// The step's random numbers.
    pub stream: Stream,
    /// By layer.
    pub fusions: Vec<Fusion>,
    /// By layer: the position stream's scores, `[heads, L, P]`.
    pub positions: Vec<Vec<f32>>,
    /// In evaluation, if it pays: rows of all items.
    pub catalogue: Option<Catalogue>,
}

impl<'a> Frame<'a> {
    /// `dropout`: the step's random numbers; `None` drops nothing.
    pub fn new(
        config: &ModelConfig,
        layout: &'a Layout,
        (flat, table): (&'a [f32], &'a [f32]),
        length: usize,
        precision: Precision,
        dropout: Option<Stream>,
    ) -> Self {
        let drops = |p: f64| dropout.and_then(|_| Dropout::new(p));
        let mut frame = Self {
            layout,
            flat,
            table,
            precision,
            activation: config.hidden_act,
            eps: config.layer_norm_eps as f32,
            h: config.hidden_size as usize,
            heads: config.n_heads as usize,
            length,
            padded: padded(length),
            hidden_dropout: drops(config.hidden_dropout_prob),
            attention_dropout: drops(config.attn_dropout_prob),
            stream: dropout.unwrap_or(Stream::new(0)),
            fusions: Vec::new(),
            positions: Vec::new(),
            catalogue: None,
        };
        for slots in &layout.layers {
            let parts: Vec<&[f32]> = slots.fusion.iter().map(|place| &flat[place.clone()]).collect();
            frame.fusions.push(Fusion::new(&parts, length));
        }
        frame.positions = (0..layout.layers.len()).map(|k| frame.position_scores(&frame.query_and_key(k))).collect();
        frame
    }

    /// Rows of the position stream's queries and keys in a layer, `[L, 2 H]`.
    fn query_and_key(&self, k: usize) -> Vec<f32> {
        let mut rows = Vec::new();
        let embedding = &self.flat[self.layout.position_embedding.clone()];
        self.linear(&self.layout.layers[k].position, embedding, &mut rows);
        rows
    }

    fn position_scores(&self, query_and_key: &[f32]) -> Vec<f32> {
        let (h, d, p) = (self.h, self.h / self.heads, self.padded);
        let mut scores = vec![0.0; self.heads * self.length * p];
        for (row, scores) in scores.chunks_exact_mut(p).enumerate() {
            let (head, i) = (row / self.length, row % self.length);
            let query = &query_and_key[i * 2 * h + head * d..][..d];
            for (j, score) in scores[..self.length].iter_mut().enumerate() {
                *score = dot(query, &query_and_key[j * 2 * h + h + head * d..][..d]);
            }
        }
        scores
    }

    /// Moves what threads gathered apart, of fusions and position scores, to its places in the flat gradient.
    pub fn settle(&self, grad: &mut ThreadGrad) {
        let (h, d, p) = (self.h, self.h / self.heads, self.padded);
        let embedding = self.layout.position_embedding.clone();
        for (k, slots) in self.layout.layers.iter().enumerate() {
            for (place, part) in slots.fusion.iter().zip(grad.fusion[k].parts(self.length)) {
                grad.flat[place.clone()].copy_from_slice(&part);
            }
            let rows = self.query_and_key(k);
            let mut drows = vec![0.0; rows.len()];
            for (row, dscores) in grad.position[k].chunks_exact(p).enumerate() {
                let (head, i) = (row / self.length, row % self.length);
                for (j, &dscore) in dscores[..self.length].iter().enumerate() {
                    let (q, key) = (i * 2 * h + head * d, j * 2 * h + h + head * d);
                    for t in 0..d {
                        drows[q + t] += dscore * rows[key + t];
                        drows[key + t] += dscore * rows[q + t];
                    }
                }
            }
            parameters(self, &slots.position, &self.flat[embedding.clone()], &drows, &mut grad.flat);
            let weight = Matrix::new(&self.flat[slots.position.weight.clone()], h);
            let drows = Matrix::new(&drows, 2 * h);
            product(self.precision, drows, weight, &mut grad.flat[embedding.clone()], Into::Add);
        }
    }
}
