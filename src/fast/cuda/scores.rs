//! The scores of positions and attributes, for all layers at once (the paper's equations 6 and 7).
//!
//! ```text
//! T[c, e] = (f_c·W_Q)(f_e·W_K)ᵀ      for each layer and head, of the distinct vectors f
//! A[b, i, j] = T[class of (b, i), class of (b, j)]
//! ```
//!
//! A product with a W stands for a linear layer with its bias.
//!
//! Positions are the same in every sequence: T is A. An attribute's vectors are those of its classes. Where these are
//! too many for a table of pairs, queries and keys are computed for each position, as in the reference.

use tch::Tensor;

use super::classes::Classes;
use super::inputs::Inputs;
use super::weights::{Layer, Side, linear_of};
use crate::model::{Linear, Model};

/// The most classes, copies of the padding's included, of which pairs have a table: 2¹⁸ scores a layer and head.
const TABULATED: i64 = 512;
/// The longest sequences whose pairs of positions look their scores up: beyond, the look-ups of all layers take more
/// memory than the queries and keys that they save.
const LONGEST: i64 = 64;

/// An attribute of SASRecD.
#[derive(Debug)]
pub struct AttributeStream {
    pub classes: Classes,
    /// The vector of each class, `[classes, dᵢ]`; not trained.
    vectors: Tensor,
}

impl AttributeStream {
    /// Those of a model's attributes; none of other models than SASRecD.
    pub fn all(model: &Model) -> Vec<Self> {
        let stream = |(vectors, feature)| {
            let classes = Classes::new(feature);
            let vectors: Vec<Tensor> = Iterator::collect(vectors);
            Self { vectors: Tensor::cat(&vectors, 0).index_select(0, &classes.members), classes }
        };
        model.attribute_vectors().zip(model.features()).map(stream).collect()
    }

    /// Takes another one's vectors, of the same classes.
    pub fn take(&mut self, other: &Self) {
        self.vectors.copy_(&other.vectors);
    }

    /// The scores of each layer, `[B, heads, L, L]` each, those of the last layer `[B, heads, 1, L]`.
    fn scores(&self, layers: &[[&Linear; 2]], heads: i64, inputs: &Inputs, class: &Tensor) -> Vec<Tensor> {
        let [b, l] = inputs.shape;
        let (n, n_layers) = (self.classes.n(), layers.len() as i64);
        let mut scores = if n <= TABULATED && l <= LONGEST {
            let table = table(&self.vectors, layers, heads); // [layers · heads, n, n]
            let table = table.view([n_layers * heads, n * n]).transpose(0, 1).contiguous();
            let pairs = class.unsqueeze(2) * n + class.unsqueeze(1); // [B, L, L]
            let scores = Tensor::embedding(&table, &pairs, -1, false, false).view([b, l, l, n_layers, heads]);
            scores.permute([3, 0, 4, 1, 2]).contiguous().unbind(0)
        } else {
            let vectors = self.vectors.index_select(0, &class.flatten(0, -1)); // [B · L, dᵢ]
            let layer = |layer: &[&Linear; 2]| {
                let qk = linear_of(&vectors, *layer).view([b, l, 2, heads, -1]).permute([2, 0, 3, 1, 4]).contiguous();
                let d = qk.size()[4];
                let [q, k] = two(qk.view([2, b * heads, l, d]));
                q.bmm(&k.transpose(1, 2)).view([b, heads, l, l])
            };
            layers.iter().map(layer).collect()
        };
        if let Some(last) = scores.pop() {
            let last = (last * inputs.last.view([b, 1, l, 1])).sum_dim_intlist(2, true, None);
            scores.push(last);
        }
        scores
    }
}

/// What of a layer's scores is known before its input.
#[derive(Debug)]
pub struct SideScores {
    /// `[B, heads, L, L]` each; in the last layer `[B, heads, 1, L]`.
    pub attributes: Vec<Tensor>,
    /// `[1, heads, L, L]`; in the last layer `[B, heads, 1, L]`.
    pub position: Tensor,
}

impl SideScores {
    /// Those of every layer.
    pub fn all(
        layers: &[Layer],
        streams: &[AttributeStream],
        positions: &Tensor,
        heads: i64,
        inputs: &Inputs,
    ) -> Vec<Self> {
        let sides: Vec<&Side> = layers.iter().filter_map(|layer| layer.side.as_ref()).collect();
        if sides.is_empty() {
            return Vec::new();
        }
        let [b, l] = inputs.shape;
        let pairs: Vec<[&Linear; 2]> = sides.iter().map(|side| side.position.each_ref()).collect();
        let table = table(positions, &pairs, heads).view([sides.len() as i64, heads, l, l]);
        let mut all: Vec<Self> = (table.unbind(0).into_iter())
            .map(|table| Self { attributes: Vec::new(), position: table.unsqueeze(0) })
            .collect();
        if let Some(last) = all.last_mut() {
            // A sum with one term.
            let rows = last.position.squeeze_dim(0).permute([1, 0, 2]).reshape([l, heads * l]);
            last.position = inputs.last.matmul(&rows).view([b, heads, 1, l]);
        }
        for (i, (stream, class)) in streams.iter().zip(&inputs.classes).enumerate() {
            let pairs: Vec<[&Linear; 2]> = sides.iter().map(|side| side.attributes[i].each_ref()).collect();
            let scores = stream.scores(&pairs, heads, inputs, class);
            all.iter_mut().zip(scores).for_each(|(all, scores)| all.attributes.push(scores));
        }
        all
    }
}

/// The scores of vectors by each other.
///
/// # Shapes
/// vectors `[n, size]` → `[layers · heads, n, n]`
fn table(vectors: &Tensor, layers: &[[&Linear; 2]], heads: i64) -> Tensor {
    let (n, size) = vectors.size2().expect("vectors are [n, size]");
    let n_layers = layers.len() as i64;
    let qk = linear_of(vectors, layers.iter().flatten().copied()).view([n, n_layers, 2, heads, size / heads]);
    let qk = qk.permute([2, 1, 3, 0, 4]).contiguous();
    let [q, k] = two(qk.view([2, n_layers * heads, n, size / heads]));
    q.bmm(&k.transpose(1, 2))
}

fn two(both: Tensor) -> [Tensor; 2] {
    both.unbind(0).try_into().expect("queries and keys are two")
}
