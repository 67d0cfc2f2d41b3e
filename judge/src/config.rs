//! What the judge needs of a case's `config.yaml`: the sizes, and which of the model's forms it is.

use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::{Error, Result};

/// The configuration of a case, in RecBole's names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Config {
    /// `SASRecD` is DIF-SR; `SASRec` and `SASRecF` are RecBole's baselines.
    #[serde(default = "dif_sr")]
    pub model: String,
    /// Items, the padding item 0 included.
    pub n_items: usize,
    /// L: positions of a sequence.
    #[serde(rename = "MAX_ITEM_LIST_LENGTH")]
    pub max_len: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// H: the size of an item vector.
    pub hidden_size: usize,
    /// dᵢ of each attribute.
    #[serde(default)]
    pub attribute_hidden_size: Vec<usize>,
    #[serde(default)]
    pub attributes: Vec<Attribute>,
    #[serde(default)]
    pub hidden_act: String,
    #[serde(default, deserialize_with = "number")]
    pub layer_norm_eps: f64,
    /// The deviation of every trained weight of a new model; RecBole's where the case says nothing.
    #[serde(default = "recboles_range", deserialize_with = "number")]
    pub initializer_range: f64,
    /// `sum`, `mean` or `max`.
    #[serde(default)]
    pub pooling_mode: String,
    /// `sum`, `concat` or `gate`.
    #[serde(default)]
    pub fusion_type: String,
    /// `CE` or `BPR`.
    pub loss_type: String,
    /// `linear`, or `not` for none.
    #[serde(default)]
    pub attribute_predictor: String,
    /// The weights of the attribute losses.
    #[serde(default)]
    pub lamdas: Vec<f64>,
    #[serde(deserialize_with = "number")]
    pub learning_rate: f64,
    pub train_steps: usize,
}

/// An attribute of the items.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Attribute {
    pub name: String,
    /// `token`: one id an item; `token_seq`: several.
    #[serde(rename = "type")]
    pub kind: String,
    /// Ids, the padding id 0 included.
    pub vocab: usize,
}

fn dif_sr() -> String {
    "SASRecD".into()
}

fn recboles_range() -> f64 {
    0.02
}

/// YAML 1.2 reads `1e-12` as a number, RecBole's reader as text: both are taken.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Number(f64),
        Text(String),
    }
    match Number::deserialize(deserializer)? {
        Number::Number(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

impl Config {
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self> {
        let config: Self = serde_yaml::from_str(text).map_err(|e| {
            Error::new(format!("expected a case's configuration, found that it is none: {e}"))
                .at(path)
                .hint("write the keys that golden/gate/config.yaml has")
        })?;
        let sizes = [config.n_items, config.max_len, config.n_layers, config.n_heads, config.hidden_size];
        let no_vocab = config.attributes.iter().any(|attribute| attribute.vocab == 0);
        if sizes.contains(&0) || no_vocab || !config.hidden_size.is_multiple_of(config.n_heads) {
            return Err(Error::new("expected sizes of at least 1, and `hidden_size` a multiple of `n_heads`")
                .at(path)
                .hint("correct the sizes"));
        }
        Ok(config)
    }

    /// Whether it is DIF-SR, not one of the baselines.
    pub fn is_dif_sr(&self) -> bool {
        self.model == "SASRecD"
    }

    /// d: the size of an item head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.n_heads
    }

    /// Whether attributes are predicted, so that the total loss holds their losses.
    pub fn predicts_attributes(&self) -> bool {
        self.is_dif_sr() && self.attribute_predictor == "linear" && self.loss_type == "CE"
    }

    /// Whether padded items have scores near 1e18, which overrule the mask (golden README).
    pub fn outweighs_mask(&self) -> bool {
        let lists = self.attributes.iter().any(|attribute| attribute.kind == "token_seq");
        self.is_dif_sr() && self.pooling_mode == "max" && lists
    }
}
