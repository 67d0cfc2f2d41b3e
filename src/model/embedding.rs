//! The attribute stream: an item's attribute tokens become one vector (RecBole 1.0.1's `FeatureSeqEmbLayer`).
//!
//! ```text
//! token:      f = W[id]
//! token_seq:  f = pool over s of W[idₛ], over the tokens that are not padding
//! mean:  Σ mₛ·W[idₛ] / Σ mₛ      sum:  Σ mₛ·W[idₛ]      max:  maxₛ W[idₛ]        mₛ = 1 where idₛ ≠ 0
//! ```

use tch::{Device, Kind, Tensor};

use super::Tree;
use crate::config::{AttributeKind, Pooling};
use crate::data::Attribute;

/// The attribute ids of every item, as the model reads them.
#[derive(Debug)]
pub struct ItemFeature {
    /// The name of the attribute.
    pub name: String,
    /// One token an item, or a list.
    pub kind: AttributeKind,
    /// Size of the vocabulary, the padding token included.
    pub vocab: i64,
    /// `[n_items, S]`, int64, right-padded with 0; S = 1 for a `token` attribute.
    pub ids: Tensor,
}

impl ItemFeature {
    /// The feature of an attribute of a data set.
    pub fn new(attribute: &Attribute, device: Device) -> Self {
        Self {
            name: attribute.name.clone(),
            kind: attribute.kind,
            vocab: attribute.vocab.len() as i64,
            ids: Tensor::from_slice(&attribute.ids).view([-1, attribute.width as i64]).to_device(device),
        }
    }

    /// The same on `device`.
    pub fn on(&self, device: Device) -> Self {
        Self { name: self.name.clone(), kind: self.kind, vocab: self.vocab, ids: self.ids.to_device(device) }
    }

    /// The ids of `items`.
    ///
    /// # Shapes
    /// items `[…]` → `[…, S]`
    pub fn of(&self, items: &Tensor) -> Tensor {
        let mut shape = items.size();
        shape.push(-1);
        self.ids.index_select(0, &items.flatten(0, -1)).view(shape.as_slice())
    }
}

/// Embeds one attribute of every item of a sequence.
///
/// RecBole 1.0.1 keeps the table in a plain dictionary, out of `parameters()`'s sight: it is **not trained**, not counted, and
/// keeps its initial N(0, 1) values.
#[derive(Debug)]
pub struct FeatureSeqEmbLayer {
    kind: AttributeKind,
    pooling: Pooling,
    /// `[vocab, d_i]`.
    pub table: Tensor,
}

impl FeatureSeqEmbLayer {
    /// A layer with a table of zeros; [`Model::initialize`](super::Model::initialize) or a checkpoint fills it.
    pub fn new(feature: &ItemFeature, size: i64, pooling: Pooling, options: (Kind, Device)) -> Self {
        Self { kind: feature.kind, pooling, table: Tensor::zeros([feature.vocab, size], options) }
    }

    /// Looks up and pools an item's tokens.
    ///
    /// # Shapes
    /// ids `[B, L, S]` → `[B, L, d_i]`
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        let embedded = Tensor::embedding(&self.table, ids, -1, false, false);
        match self.kind {
            AttributeKind::Token => embedded.squeeze_dim(-2),
            AttributeKind::TokenSeq => pool(&embedded, ids, self.pooling),
        }
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::frozen(&self.table)
    }
}

/// Pools over the tokens that are not padding.
///
/// # Shapes
/// embedded `[…, S, d]`, ids `[…, S]` → `[…, d]`
pub(crate) fn pool(embedded: &Tensor, ids: &Tensor, pooling: Pooling) -> Tensor {
    // The reference's mask and count are float32 whatever the model's precision.
    let mask = ids.not_equal(0).to_kind(Kind::Float);
    let wide = mask.unsqueeze(-1).expand_as(embedded);
    match pooling {
        Pooling::Sum => (embedded * &wide).sum_dim_intlist(-2, false, None),
        Pooling::Mean => {
            let count = mask.sum_dim_intlist(-1, true, None);
            // 1e-8 vanishes beside a count of 1 in float32; it only keeps an item without tokens from 0 / 0.
            (embedded * &wide).sum_dim_intlist(-2, false, None) / (count + 1e-8)
        }
        // Known behaviour of the reference: an item without tokens, padding included, is at −1e9 and not at 0.
        Pooling::Max => {
            let padded: Tensor = (1.0 - wide) * 1e9;
            (embedded - padded).max_dim(-2, false).0
        }
    }
}
