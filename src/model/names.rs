//! RecBole's names of modules that have parameters: the one place that spells them.
//!
//! A parameter's name in a `state_dict` is the path of its module, joined with dots, and `weight` or `bias`:
//! `trm_encoder.layer.0.multi_head_attention.query.weight`.

use std::fmt::Display;

use crate::config::AttributeKind;

/// Of the model: the vector of each item, which the scores share.
pub const ITEM_EMBEDDING: &str = "item_embedding";
/// Of the model: the vector of each position.
pub const POSITION_EMBEDDING: &str = "position_embedding";
/// Of SASRecF: the attributes' tables.
pub const FEATURE_EMBED_LAYER: &str = "feature_embed_layer";
/// Of SASRecF: the projection of an item with its attributes.
pub const CONCAT_LAYER: &str = "concat_layer";
/// Of SASRecD: the attributes' tables, which are not trained.
pub const FEATURE_EMBED_LAYER_LIST: &str = "feature_embed_layer_list";
/// Of the model: the encoder.
pub const TRM_ENCODER: &str = "trm_encoder";
/// Of SASRecD: the attribute predictors.
pub const AP: &str = "ap";
/// Of the model, the attention and the feed-forward network.
pub const LAYER_NORM: &str = "LayerNorm";

/// Of the encoder: its layers.
pub const LAYER: &str = "layer";
/// Of a layer: its attention.
pub const MULTI_HEAD_ATTENTION: &str = "multi_head_attention";
/// Of a layer: its feed-forward network.
pub const FEED_FORWARD: &str = "feed_forward";

/// Of the attention: W_Q of the items.
pub const QUERY: &str = "query";
/// Of the attention: W_K of the items.
pub const KEY: &str = "key";
/// Of the attention: W_V of the items.
pub const VALUE: &str = "value";
/// Of SASRecD's attention: W_Q of the positions.
pub const QUERY_P: &str = "query_p";
/// Of SASRecD's attention: W_K of the positions.
pub const KEY_P: &str = "key_p";
/// Of SASRecD's attention: W_Q of each attribute.
pub const QUERY_LAYERS: &str = "query_layers";
/// Of SASRecD's attention: W_K of each attribute.
pub const KEY_LAYERS: &str = "key_layers";
/// Of SASRecD's attention: the fusion; a linear layer under `concat`.
pub const FUSION_LAYER: &str = "fusion_layer";
/// Of the fusion under `gate`: its perceptron.
pub const PROJECTION: &str = "projection";
/// Of SASRecD's attention: the first linear layer of the fusion under `gate`.
pub const GATE_HIDDEN: &str = "fusion_layer.projection.0";
/// Of SASRecD's attention: the second linear layer of the fusion under `gate`.
pub const GATE_ENERGY: &str = "fusion_layer.projection.2";
/// Of the attention: W_O.
pub const DENSE: &str = "dense";

/// Of the feed-forward network: W_1.
pub const DENSE_1: &str = "dense_1";
/// Of the feed-forward network: W_2.
pub const DENSE_2: &str = "dense_2";

/// Of SASRecF's tables: the one of all `token` attributes.
pub const TOKEN_TABLE: [&str; 3] = ["token_embedding_table", "item", "embedding"];
/// Of SASRecF's tables: those of the `token_seq` attributes.
pub const TOKEN_SEQ_TABLES: [&str; 2] = ["token_seq_embedding_table", "item"];

/// A module's weight.
pub fn weight(module: impl Display) -> String {
    format!("{module}.weight")
}

/// A module's bias.
pub fn bias(module: impl Display) -> String {
    format!("{module}.bias")
}

/// Number `i` of a list of modules.
pub fn nth(list: impl Display, i: usize) -> String {
    format!("{list}.{i}")
}

/// A module of the attention of layer `k`.
pub fn attention(k: usize, module: impl Display) -> String {
    format!("{TRM_ENCODER}.{LAYER}.{k}.{MULTI_HEAD_ATTENTION}.{module}")
}

/// A module of the feed-forward network of layer `k`.
pub fn feed_forward(k: usize, module: impl Display) -> String {
    format!("{TRM_ENCODER}.{LAYER}.{k}.{FEED_FORWARD}.{module}")
}

/// SASRecD's table of attribute `i`, a tensor that is no parameter.
pub fn attribute_table(i: usize, kind: AttributeKind) -> String {
    let table = match kind {
        AttributeKind::Token => "token_embedding",
        AttributeKind::TokenSeq => "token_seq_embedding",
    };
    format!("{FEATURE_EMBED_LAYER_LIST}.{i}.{table}")
}

/// SASRecF's table of all `token` attributes.
pub fn token_table() -> String {
    format!("{FEATURE_EMBED_LAYER}.{}", TOKEN_TABLE.join("."))
}

/// SASRecF's table of the `i`-th `token_seq` attribute.
pub fn token_seq_table(i: usize) -> String {
    nth(format_args!("{FEATURE_EMBED_LAYER}.{}", TOKEN_SEQ_TABLES.join(".")), i)
}

/// Whether a module is in a layer behind the first, which RecBole makes as copies of the first.
pub fn is_in_copied_layer(path: &str) -> bool {
    let layers = format!("{TRM_ENCODER}.{LAYER}.");
    path.strip_prefix(&layers).is_some_and(|rest| !rest.starts_with("0."))
}

/// Whether a parameter is one of SASRecF's tables.
pub fn is_feature_table(name: &str) -> bool {
    is_in(name, FEATURE_EMBED_LAYER)
}

/// Whether a parameter is a predictor's.
pub fn is_of_predictor(name: &str) -> bool {
    is_in(name, AP)
}

fn is_in(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::golden::Case;

    /// The goldens' names are RecBole's own.
    #[test]
    fn every_name_is_one_that_recbole_gives() {
        let has = |case: &str, expected: &[String]| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(case);
            let Case { model, .. } = Case::load(&path).unwrap_or_else(|e| panic!("{e}"));
            let all: Vec<String> =
                model.named_parameters().into_iter().chain(model.named_tables()).map(|(name, _)| name).collect();
            for name in expected {
                assert!(all.contains(name), "{case}: {name} is not in {all:?}");
            }
        };
        let attentions = [QUERY, KEY, VALUE, QUERY_P, KEY_P, DENSE, LAYER_NORM, GATE_HIDDEN, GATE_ENERGY];
        let of_attributes = [QUERY_LAYERS, KEY_LAYERS].map(|list| weight(attention(0, nth(list, 1))));
        let feed_forwards = [DENSE_1, DENSE_2, LAYER_NORM].map(|module| weight(feed_forward(0, module)));
        let own = [weight(nth(AP, 1)), attribute_table(0, AttributeKind::TokenSeq)];
        has("golden/gate_two_attributes", &[ITEM_EMBEDDING, POSITION_EMBEDDING, LAYER_NORM].map(weight));
        has("golden/gate_two_attributes", &attentions.map(|module| bias(attention(0, module))));
        has("golden/gate_two_attributes", &[&of_attributes[..], &feed_forwards, &own].concat());
        has("golden/concat", &[weight(attention(0, FUSION_LAYER))]);
        let of_input = [weight(CONCAT_LAYER), weight(token_table()), weight(token_seq_table(1))];
        has("fixtures/baselines/sasrecf_four_attributes", &of_input);
        assert!(of_input.iter().skip(1).all(|name| is_feature_table(name)));
        assert!(!is_feature_table(&own[1]) && is_of_predictor(&own[0]));
        assert!(is_in_copied_layer(&attention(10, QUERY)) && !is_in_copied_layer(&attention(0, QUERY)));
    }
}
