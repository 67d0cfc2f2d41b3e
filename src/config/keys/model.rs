//! Keys of the model, and those that RecBole derives from others.

use serde_yaml::Value;

use super::Section::{Other, Unprinted};
use super::{Key, accepted, held, honoured, parts};
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
    accepted(
        Other,
        "neg_sampling",
        |c| match c.model.loss_type {
            Loss::Ce => &["None"],
            Loss::Bpr => &["{'uniform': 1}"],
        },
        "follows `loss_type`: `CE` needs no negatives, `BPR` draws `{'uniform': 1}`",
    ),
    accepted(Other, "repeatable", |_| &["True"], "items of the history may be recommended again"),
    honoured(
        Other,
        "n_layers",
        "a whole number from 1 to 1000",
        "layers of the encoder",
        |c, v| put(&mut c.model.n_layers, whole(v, 1, 1000)),
        |c| c.model.n_layers.into(),
    ),
    honoured(
        Other,
        "n_heads",
        "a whole number from 1 to 1000000",
        "attention heads; divides `hidden_size` and each `attribute_hidden_size`",
        |c, v| put(&mut c.model.n_heads, size(v)),
        |c| c.model.n_heads.into(),
    ),
    honoured(
        Other,
        "hidden_size",
        "a whole number from 1 to 1000000",
        "H: length of item and position vectors",
        |c, v| put(&mut c.model.hidden_size, size(v)),
        |c| c.model.hidden_size.into(),
    ),
    honoured(
        Other,
        "inner_size",
        "a whole number from 1 to 1000000",
        "length of the feed-forward layer's inner vector",
        |c, v| put(&mut c.model.inner_size, size(v)),
        |c| c.model.inner_size.into(),
    ),
    honoured(
        Other,
        "hidden_dropout_prob",
        "a number of at least 0 and below 1",
        "dropout of the input and after each dense layer",
        |c, v| put(&mut c.model.hidden_dropout_prob, probability(v)),
        |c| c.model.hidden_dropout_prob.into(),
    ),
    honoured(
        Other,
        "attn_dropout_prob",
        "a number of at least 0 and below 1",
        "dropout of the attention probabilities",
        |c, v| put(&mut c.model.attn_dropout_prob, probability(v)),
        |c| c.model.attn_dropout_prob.into(),
    ),
    honoured(
        Other,
        "hidden_act",
        "`gelu`, `relu`, `swish`, `tanh` or `sigmoid`",
        "activation of the feed-forward layer",
        |c, v| put(&mut c.model.hidden_act, word(v)),
        |c| value(c.model.hidden_act),
    ),
    honoured(
        Other,
        "layer_norm_eps",
        "a number above 0",
        "ε of the layer normalisations",
        |c, v| put(&mut c.model.layer_norm_eps, positive(v)),
        |c| c.model.layer_norm_eps.into(),
    ),
    honoured(
        Other,
        "initializer_range",
        "a number above 0",
        "standard deviation of the initial weights",
        |c, v| put(&mut c.model.initializer_range, positive(v)),
        |c| c.model.initializer_range.into(),
    ),
    honoured(
        Other,
        "selected_features",
        "a list of names of columns, without repetitions",
        "attributes, in the order of the model",
        |c, v| put(&mut c.data.selected_features, names(v)),
        |c| value(&c.data.selected_features),
    )
    .of(WITH_ATTRIBUTES),
    honoured(
        Other,
        "pooling_mode",
        "`sum`, `mean` or `max`",
        "how the tokens of a `token_seq` attribute become one vector",
        |c, v| put(&mut c.model.pooling_mode, word(v)),
        |c| value(c.model.pooling_mode),
    )
    .of(WITH_ATTRIBUTES),
    honoured(
        Other,
        "loss_type",
        "`CE` or `BPR`",
        "softmax over all items, or one sampled negative for each positive (without the attribute loss, as in the authors' code)",
        |c, v| put(&mut c.model.loss_type, word(v)),
        |c| value(c.model.loss_type),
    ),
    accepted(Other, "MODEL_TYPE", |_| &["ModelType.SEQUENTIAL"], "follows `model`"),
    honoured(
        Other,
        "attribute_hidden_size",
        "a list of whole numbers from 1 to 1000000, one for each of `selected_features`",
        "length of each attribute's vectors",
        |c, v| put(&mut c.model.attribute_hidden_size, items(v, size)),
        |c| value(&c.model.attribute_hidden_size),
    )
    .of(DIF),
    accepted(Other, "weight_sharing", |_| &["not"], "layers have weights of their own"),
    honoured(
        Other,
        "fusion_type",
        "`sum`, `concat` or `gate`",
        "the paper's F: how attention scores are fused",
        |c, v| put(&mut c.model.fusion_type, word(v)),
        |c| value(c.model.fusion_type),
    )
    .of(DIF),
    honoured(
        Other,
        "lamdas",
        "a list of numbers of at least 0, one for each of `selected_features`",
        "the paper's λ: weight of each attribute's loss",
        |c, v| put(&mut c.model.lamdas, items(v, not_negative)),
        |c| c.model.lamdas.iter().map(|x| whole_if_exact(*x)).collect::<Vec<_>>().into(),
    )
    .of(DIF),
    honoured(
        Other,
        "attribute_predictor",
        "`linear` or `not`",
        "the auxiliary attribute predictor, `not` for none",
        |c, v| put(&mut c.model.attribute_predictor, word(v)),
        |c| value(c.model.attribute_predictor),
    )
    .of(DIF),
    accepted(Other, "predictor_source", |_| &["item"], "attributes are predicted from the item stream"),
    accepted(Other, "behavior_feature", |_| &["not"], "there are no attributes of interactions"),
    accepted(
        Other,
        "MODEL_INPUT_TYPE",
        |c| match c.model.loss_type {
            Loss::Ce => &["InputType.POINTWISE"],
            Loss::Bpr => &["InputType.PAIRWISE"],
        },
        "follows `loss_type`: `InputType.PAIRWISE` with `BPR`",
    ),
    accepted(Other, "eval_type", |_| &["EvaluatorType.RANKING"], "follows `metrics`, which all judge rankings"),
    accepted(
        Other,
        "device",
        |c| match c.run.use_gpu {
            None => &["None"],
            Some(true) => &["cuda"],
            Some(false) => &["cpu"],
        },
        "follows `use_gpu`: `cuda` with `True`, `cpu` with `False`",
    ),
    held(
        Other,
        "train_neg_sample_args",
        |c| match c.model.loss_type {
            Loss::Ce => &["{'strategy': 'none'}"],
            Loss::Bpr => &["{'strategy': 'by', 'by': 1, 'distribution': 'uniform'}"],
        },
        parts::train_neg_sample_args,
        "follows `loss_type`: `{'strategy': 'by', 'by': 1, 'distribution': 'uniform'}` with `BPR`",
    ),
    held(
        Other,
        "eval_neg_sample_args",
        |_| &["{'strategy': 'full', 'distribution': 'uniform'}"],
        parts::eval_neg_sample_args,
        ALL_ITEMS,
    ),
    held(
        Unprinted,
        "valid_neg_sample_args",
        |_| &["{'distribution': 'uniform', 'sample_num': 'none'}"],
        parts::eval_neg_sample_args,
        ALL_ITEMS,
    ),
    held(
        Unprinted,
        "test_neg_sample_args",
        |_| &["{'distribution': 'uniform', 'sample_num': 'none'}"],
        parts::eval_neg_sample_args,
        ALL_ITEMS,
    ),
    accepted(Unprinted, "attr_lamdas", |_| &["0.2,0.2"], UNREAD),
    accepted(Unprinted, "attr_regi", |_| &["1,2"], UNREAD),
    accepted(Unprinted, "attr_loss", |_| &["predict"], UNREAD),
    accepted(Unprinted, "vis", |_| &["0"], UNREAD),
    accepted(Unprinted, "model_id", |_| &["0"], UNREAD),
];

/// The log prints `[10]`, not `[10.0]`.
fn whole_if_exact(x: f64) -> Value {
    let n = x as i64;
    if n as f64 == x && n.abs() < 1 << 53 { n.into() } else { x.into() }
}

/// Names without repetitions; none for a model without attributes.
fn names(value: &Value) -> Option<Vec<String>> {
    if value.as_sequence()?.is_empty() { Some(Vec::new()) } else { distinct(value, text) }
}
