//! SASRecF's input: an item's vector and those of its attributes, side by side, projected to one vector (RecBole's
//! `feature_embed_layer` and `concat_layer`).
//!
//! ```text
//! x = [item, f₁, f₂, …]·W + b      fᵢ the vector of attribute i, `token` attributes first
//! ```

use tch::{Kind, Tensor};

use super::embedding::pool;
use super::{Embedding, ItemFeature, Linear, Tree, names};
use crate::config::{AttributeKind, ModelConfig, Pooling};

/// Attribute tables, which RecBole 1.2.1 trains, and the projection.
#[derive(Debug)]
pub struct AttributeInput {
    pooling: Pooling,
    /// One table of all `token` attributes, one below the other; `None` without such attributes.
    token: Option<Embedding>,
    /// A table for each `token_seq` attribute.
    token_seq: Vec<Embedding>,
    concat_layer: Linear,
}

impl AttributeInput {
    /// An input layer for these attributes, its parameters zero.
    pub fn new(config: &ModelConfig, features: &[ItemFeature], kind: Kind) -> Self {
        let h = config.hidden_size;
        let table = |rows| Embedding::new(rows, h, None, kind);
        let (token, token_seq) = rows(features);
        Self {
            pooling: config.pooling_mode,
            token: token.map(table),
            token_seq: token_seq.into_iter().map(table).collect(),
            concat_layer: Linear::new(h * (1 + features.len() as i64), h, kind),
        }
    }

    /// Looks the attributes of `item_seq` up and projects them with the items' vectors.
    ///
    /// Known behaviour: `token` attributes stand before `token_seq` attributes, whatever the order of `selected_features`.
    ///
    /// # Shapes
    /// item `[B, L, H]`, item_seq `[B, L]` → `[B, L, H]`
    pub fn forward(&self, item: &Tensor, item_seq: &Tensor, features: &[ItemFeature]) -> Tensor {
        let mut parts = vec![item.shallow_clone()];
        // One look-up for all `token` attributes, as in the reference: the gradient's rounding depends on it.
        parts.extend(self.token.as_ref().map(|table| {
            let mut offset = 0;
            let ids = of(features, AttributeKind::Token).map(|feature| {
                let ids = feature.of(item_seq) + offset;
                offset += feature.vocab;
                ids
            });
            table.forward(&Tensor::cat(&ids.collect::<Vec<_>>(), -1)).flatten(-2, -1)
        }));
        parts.extend(self.token_seq.iter().zip(of(features, AttributeKind::TokenSeq)).map(|(table, feature)| {
            let ids = feature.of(item_seq);
            pool(&table.forward(&ids), &ids, self.pooling)
        }));
        self.concat_layer.forward(&Tensor::cat(&parts, -1))
    }

    pub(super) fn feature_embed_layer(&self) -> Tree {
        let [token_table, item, embedding] = names::TOKEN_TABLE;
        let [token_seq_tables, _] = names::TOKEN_SEQ_TABLES;
        let dict = |tree: Option<Tree>| Tree::node("ModuleDict", tree.map(|tree| (item, tree)).into_iter().collect());
        let token = self.token.as_ref().map(|token| Tree::node("FMEmbedding", vec![(embedding, token.tree())]));
        let token_seq = Tree::list("ModuleList", self.token_seq.iter().map(Embedding::tree));
        Tree::node(
            "FeatureSeqEmbLayer",
            vec![
                (token_table, dict(token)),
                ("float_embedding_table", dict(None)),
                (token_seq_tables, dict(Some(token_seq))),
                ("float_seq_embedding_table", dict(Some(Tree::list("ModuleList", [])))),
            ],
        )
    }

    pub(super) fn concat_layer(&self) -> Tree {
        self.concat_layer.tree()
    }
}

/// Rows of the tables of a model with these attributes: of that of the `token` attributes, and of those of the `token_seq`
/// attributes.
pub(super) fn rows(features: &[ItemFeature]) -> (Option<i64>, Vec<i64>) {
    let token: i64 = of(features, AttributeKind::Token).map(|feature| feature.vocab).sum();
    let token_seq = of(features, AttributeKind::TokenSeq).map(|feature| feature.vocab);
    ((token > 0).then_some(token), token_seq.collect())
}

fn of(features: &[ItemFeature], kind: AttributeKind) -> impl Iterator<Item = &ItemFeature> {
    features.iter().filter(move |feature| feature.kind == kind)
}
