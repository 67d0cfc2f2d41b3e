//! A model's parameters by layer, as the lean program reads them.
//!
//! They share the model's memory: what an optimizer or a checkpoint writes there is read here.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::config::{Architecture, AttributeKind, Fusion, ModelConfig, Predictor};
use crate::model::{FusionLayer, LayerNorm, Linear, Model, names};

/// All trained parameters.
#[derive(Debug)]
pub struct Weights {
    /// `[n_items, H]`
    pub item_embedding: Tensor,
    /// `[L, H]`
    pub position_embedding: Tensor,
    /// Of the input.
    pub norm: LayerNorm,
    /// First to last.
    pub layers: Vec<Layer>,
    /// One for each attribute, or none.
    pub predictors: Vec<Linear>,
    /// SASRecF's alone.
    pub input: Option<Input>,
}

/// One layer's.
#[derive(Debug)]
pub struct Layer {
    /// W_Q, W_K and W_V.
    pub qkv: [Linear; 3],
    /// W_O.
    pub dense: Linear,
    /// Behind the attention.
    pub attention_norm: LayerNorm,
    /// The feed-forward network's two.
    pub dense_1: Linear,
    pub dense_2: Linear,
    /// Behind the feed-forward network.
    pub norm: LayerNorm,
    /// SASRecD's alone.
    pub side: Option<Side>,
}

/// Of the scores of positions and attributes.
#[derive(Debug)]
pub struct Side {
    /// W_Qp and W_Kp.
    pub position: [Linear; 2],
    /// W_Qi and W_Ki of each attribute.
    pub attributes: Vec<[Linear; 2]>,
    pub fusion: FusionLayer,
}

/// Of SASRecF's input.
#[derive(Debug)]
pub struct Input {
    /// The table of each attribute, in the order of `selected_features`, with the row at which its tokens begin.
    pub tables: Vec<(Tensor, i64)>,
    /// The block of `concat_layer`'s columns that belongs to each attribute.
    pub blocks: Vec<usize>,
    pub concat_layer: Linear,
}

/// Parameters by name.
struct Named {
    tensors: BTreeMap<String, Tensor>,
    eps: f64,
}

impl Named {
    fn get(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("expected a parameter {name}")).shallow_clone()
    }

    fn linear(&self, module: &str) -> Linear {
        Linear { weight: self.get(&names::weight(module)), bias: self.get(&names::bias(module)) }
    }

    fn norm(&self, module: &str) -> LayerNorm {
        let [weight, bias] = [names::weight(module), names::bias(module)].map(|name| self.get(&name));
        LayerNorm { weight, bias, eps: self.eps }
    }

    fn layer(&self, config: &ModelConfig, k: usize) -> Layer {
        let attention = |module: &str| names::attention(k, module);
        let feed_forward = |module: &str| names::feed_forward(k, module);
        Layer {
            qkv: [names::QUERY, names::KEY, names::VALUE].map(|module| self.linear(&attention(module))),
            dense: self.linear(&attention(names::DENSE)),
            attention_norm: self.norm(&attention(names::LAYER_NORM)),
            dense_1: self.linear(&feed_forward(names::DENSE_1)),
            dense_2: self.linear(&feed_forward(names::DENSE_2)),
            norm: self.norm(&feed_forward(names::LAYER_NORM)),
            side: (config.model == Architecture::SasRecD).then(|| self.side(config, k)),
        }
    }

    fn side(&self, config: &ModelConfig, k: usize) -> Side {
        let linear = |module: &str| self.linear(&names::attention(k, module));
        let attributes = 0..config.attribute_hidden_size.len();
        Side {
            position: [names::QUERY_P, names::KEY_P].map(linear),
            attributes: attributes
                .map(|i| [names::QUERY_LAYERS, names::KEY_LAYERS].map(|list| linear(&names::nth(list, i))))
                .collect(),
            fusion: match config.fusion_type {
                Fusion::Sum => FusionLayer::Sum,
                Fusion::Concat => FusionLayer::Concat(linear(names::FUSION_LAYER)),
                Fusion::Gate => {
                    FusionLayer::Gate { hidden: linear(names::GATE_HIDDEN), energy: linear(names::GATE_ENERGY) }
                }
            },
        }
    }

    /// `token` attributes share a table and come first, as in [`crate::model::AttributeInput`].
    fn input(&self, model: &Model) -> Input {
        let features = model.features();
        let tokens = features.iter().filter(|feature| feature.kind == AttributeKind::Token).count();
        let (mut offset, mut token, mut token_seq) = (0, 0, 0);
        let (mut tables, mut blocks) = (Vec::new(), Vec::new());
        for feature in features {
            match feature.kind {
                AttributeKind::Token => {
                    tables.push((self.get(&names::weight(names::token_table())), offset));
                    blocks.push(1 + token);
                    (offset, token) = (offset + feature.vocab, token + 1);
                }
                AttributeKind::TokenSeq => {
                    tables.push((self.get(&names::weight(names::token_seq_table(token_seq))), 0));
                    blocks.push(1 + tokens + token_seq);
                    token_seq += 1;
                }
            }
        }
        Input { tables, blocks, concat_layer: self.linear(names::CONCAT_LAYER) }
    }
}

impl Weights {
    /// Those of a model, wherever it is.
    pub fn new(model: &Model) -> Self {
        let config = model.config();
        let named = Named { tensors: model.named_parameters().into_iter().collect(), eps: config.layer_norm_eps };
        let predicts = config.attribute_predictor == Predictor::Linear;
        let predictors = (0..model.features().len()).filter(|_| predicts);
        Self {
            item_embedding: named.get(&names::weight(names::ITEM_EMBEDDING)),
            position_embedding: named.get(&names::weight(names::POSITION_EMBEDDING)),
            norm: named.norm(names::LAYER_NORM),
            layers: (0..config.n_layers as usize).map(|k| named.layer(config, k)).collect(),
            predictors: predictors.map(|i| named.linear(&names::nth(names::AP, i))).collect(),
            input: (config.model == Architecture::SasRecF).then(|| named.input(model)),
        }
    }
}

/// Several linear layers of one input as one: their weights one below the other.
///
/// # Shapes
/// x `[n, input]` → `[n, Σ output]`
pub fn linear_of<'a>(x: &Tensor, layers: impl IntoIterator<Item = &'a Linear>) -> Tensor {
    let (weights, biases): (Vec<&Tensor>, Vec<&Tensor>) =
        layers.into_iter().map(|layer| (&layer.weight, &layer.bias)).unzip();
    x.linear(&Tensor::cat(&weights, 0), Some(&Tensor::cat(&biases, 0)))
}
