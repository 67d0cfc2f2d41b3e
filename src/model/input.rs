//! SASRecF's input: an item's vector and those of its attributes, side by side, projected to one vector (RecBole's
//! `feature_embed_layer` and `concat_layer`).

use tch::Tensor;
use tch::nn::{self, Module};

use super::embedding::pool;
use super::init::{embedding, linear};
use super::{ItemFeature, Tree};
use crate::config::{AttributeKind, ModelConfig, Pooling};

/// Attribute tables, which RecBole 1.2.1 trains, and the projection.
#[derive(Debug)]
pub struct AttributeInput {
    pooling: Pooling,
    /// One table of all `token` attributes, one below the other; `None` without such attributes.
    token: Option<nn::Embedding>,
    /// A table for each `token_seq` attribute.
    token_seq: Vec<nn::Embedding>,
    concat_layer: nn::Linear,
}

impl AttributeInput {
    /// Parameters under `p`, which is the model's path.
    pub fn new(p: &nn::Path<'_>, config: &ModelConfig, features: &[ItemFeature]) -> Self {
        let h = config.hidden_size;
        let concat_layer = linear(p / "concat_layer", h * (1 + features.len() as i64), h);
        let p = p / "feature_embed_layer";
        let table = |(name, [rows, size]): (String, [i64; 2])| {
            let path = name.split('.').fold(p.clone(), |path, part| path / part);
            embedding(path, rows, size, None)
        };
        let (token, token_seq) = tables(features, h);
        Self {
            pooling: config.pooling_mode,
            token: token.map(table),
            token_seq: token_seq.into_iter().map(table).collect(),
            concat_layer,
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
        let table = |table: &nn::Embedding| Tree::embedding(table, None);
        let dict = |tree: Option<Tree>| Tree::node("ModuleDict", tree.map(|tree| ("item", tree)).into_iter().collect());
        let token = self.token.as_ref().map(|token| Tree::node("FMEmbedding", vec![("embedding", table(token))]));
        let token_seq = Tree::list("ModuleList", self.token_seq.iter().map(table));
        Tree::node(
            "FeatureSeqEmbLayer",
            vec![
                ("token_embedding_table", dict(token)),
                ("float_embedding_table", dict(None)),
                ("token_seq_embedding_table", dict(Some(token_seq))),
                ("float_seq_embedding_table", dict(Some(Tree::list("ModuleList", [])))),
            ],
        )
    }

    pub(super) fn concat_layer(&self) -> Tree {
        Tree::linear(&self.concat_layer)
    }
}

/// The tables of a model with these attributes, by their path in RecBole's `feature_embed_layer`, with their sizes: that
/// of the `token` attributes and those of the `token_seq` attributes.
pub(super) fn tables(features: &[ItemFeature], size: i64) -> (Option<Table>, Vec<Table>) {
    let rows: i64 = of(features, AttributeKind::Token).map(|feature| feature.vocab).sum();
    let token = (rows > 0).then(|| ("token_embedding_table.item.embedding".to_owned(), [rows, size]));
    let token_seq = of(features, AttributeKind::TokenSeq).enumerate();
    let token_seq = token_seq.map(|(i, f)| (format!("token_seq_embedding_table.item.{i}"), [f.vocab, size]));
    (token, token_seq.collect())
}

/// A table's path and its size.
type Table = (String, [i64; 2]);

fn of(features: &[ItemFeature], kind: AttributeKind) -> impl Iterator<Item = &ItemFeature> {
    features.iter().filter(move |feature| feature.kind == kind)
}
