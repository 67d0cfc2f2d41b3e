//! Keys of the model, and those that RecBole derives from others.

use serde_yaml::Value;

use super::Section::{Other, Unprinted};
use super::{Key, Kind, parts};
use crate::config::read::*;
use crate::config::{Architecture, Loss};

/// Keys of other models in the authors' files.
const UNREAD: &str = "in the authors' files, but SASRecD does not read it";

/// Of the keys that would choose the items that are ranked.
const ALL_ITEMS: &str = "the ranking is over all items";

/// Models that see attributes.
const WITH_ATTRIBUTES: &[Architecture] = &[Architecture::SasRecD, Architecture::SasRecF];
/// The model that fuses attention scores and predicts attributes.
const DIF: &[Architecture] = &[Architecture::SasRecD];

pub(super) static KEYS: &[Key] = &[
    key!(Other "neg_sampling", "follows `loss_type`: `CE` needs no negatives, `BPR` draws `{'uniform': 1}`", |c| match c.model.loss_type {
        Loss::Ce => &["None"],
        Loss::Bpr => &["{'uniform': 1}"],
    }),
    key!(Other "repeatable" is "True", "items of the history may be recommended again"),
    key!(Other "n_layers": model.n_layers = whole(1, 1000),
        "a whole number from 1 to 1000", "layers of the encoder"),
    key!(Other "n_heads": model.n_heads = size,
        "a whole number from 1 to 1000000", "attention heads; divides `hidden_size` and each `attribute_hidden_size`"),
    key!(Other "hidden_size": model.hidden_size = size,
        "a whole number from 1 to 1000000", "H: length of item and position vectors"),
    key!(Other "inner_size": model.inner_size = size,
        "a whole number from 1 to 1000000", "length of the feed-forward layer's inner vector"),
    key!(Other "hidden_dropout_prob": model.hidden_dropout_prob = probability,
        "a number of at least 0 and below 1", "dropout of the input and after each dense layer"),
    key!(Other "attn_dropout_prob": model.attn_dropout_prob = probability,
        "a number of at least 0 and below 1", "dropout of the attention probabilities"),
    key!(Other "hidden_act": model.hidden_act = word,
        "`gelu`, `relu`, `swish`, `tanh` or `sigmoid`", "activation of the feed-forward layer"),
    key!(Other "layer_norm_eps": model.layer_norm_eps = positive,
        "a number above 0", "ε of the layer normalisations"),
    key!(Other "initializer_range": model.initializer_range = positive,
        "a number above 0", "standard deviation of the initial weights"),
    key!(Other "selected_features": data.selected_features = names,
        "a list of names of columns, without repetitions", "attributes, in the order of the model").of(WITH_ATTRIBUTES),
    key!(Other "pooling_mode": model.pooling_mode = word,
        "`sum`, `mean` or `max`", "how the tokens of a `token_seq` attribute become one vector").of(WITH_ATTRIBUTES),
    key!(Other "loss_type": model.loss_type = word, "`CE` or `BPR`",
        "softmax over all items, or one sampled negative for each positive (without the attribute loss, as in the authors' code)"),
    key!(Other "MODEL_TYPE" is "ModelType.SEQUENTIAL", "follows `model`"),
    key!(Other "attribute_hidden_size": model.attribute_hidden_size = items(size),
        "a list of whole numbers from 1 to 1000000, one for each of `selected_features`",
        "length of each attribute's vectors").of(DIF),
    key!(Other "weight_sharing" is "not", "layers have weights of their own"),
    key!(Other "fusion_type": model.fusion_type = word,
        "`sum`, `concat` or `gate`", "the paper's F: how attention scores are fused").of(DIF),
    key!(Other "lamdas": model.lamdas = items(not_negative) shown whole_if_exact,
        "a list of numbers of at least 0, one for each of `selected_features`",
        "the paper's λ: weight of each attribute's loss").of(DIF),
    key!(Other "attribute_predictor": model.attribute_predictor = word,
        "`linear` or `not`", "the auxiliary attribute predictor, `not` for none").of(DIF),
    key!(Other "predictor_source" is "item", "attributes are predicted from the item stream"),
    key!(Other "behavior_feature" is "not", "there are no attributes of interactions"),
    key!(Other "MODEL_INPUT_TYPE", "follows `loss_type`: `InputType.PAIRWISE` with `BPR`", |c| match c.model.loss_type {
        Loss::Ce => &["InputType.POINTWISE"],
        Loss::Bpr => &["InputType.PAIRWISE"],
    }),
    key!(Other "eval_type" is "EvaluatorType.RANKING", "follows `metrics`, which all judge rankings"),
    key!(Other "device", "follows `use_gpu`: `cuda` with `True`, `cpu` with `False`", |c| match c.run.use_gpu {
        None => &["None"],
        Some(true) => &["cuda"],
        Some(false) => &["cpu"],
    }),
    key!(Other "train_neg_sample_args", "follows `loss_type`: `{'strategy': 'by', 'by': 1, 'distribution': 'uniform'}` with `BPR`", |c| match c.model.loss_type {
        Loss::Ce => &["{'strategy': 'none'}"],
        Loss::Bpr => &["{'strategy': 'by', 'by': 1, 'distribution': 'uniform'}"],
    }).held(parts::train_neg_sample_args),
    key!(Other "eval_neg_sample_args" is "{'strategy': 'full', 'distribution': 'uniform'}", ALL_ITEMS)
        .held(parts::eval_neg_sample_args),
    key!(Unprinted "valid_neg_sample_args" is "{'distribution': 'uniform', 'sample_num': 'none'}", ALL_ITEMS)
        .held(parts::eval_neg_sample_args),
    key!(Unprinted "test_neg_sample_args" is "{'distribution': 'uniform', 'sample_num': 'none'}", ALL_ITEMS)
        .held(parts::eval_neg_sample_args),
    key!(Unprinted "attr_lamdas" is "0.2,0.2", UNREAD),
    key!(Unprinted "attr_regi" is "1,2", UNREAD),
    key!(Unprinted "attr_loss" is "predict", UNREAD),
    key!(Unprinted "vis" is "0", UNREAD),
    key!(Unprinted "model_id" is "0", UNREAD),
];

/// The log prints `[10]`, not `[10.0]`.
fn whole_if_exact(numbers: &[f64]) -> Value {
    let number = |&x: &f64| match x as i64 {
        n if n as f64 == x && n.abs() < 1 << 53 => Value::from(n),
        _ => x.into(),
    };
    numbers.iter().map(number).collect()
}

/// Names without repetitions; none for a model without attributes.
fn names(value: &Value) -> Option<Vec<String>> {
    if value.as_sequence()?.is_empty() { Some(Vec::new()) } else { distinct(value, text) }
}
