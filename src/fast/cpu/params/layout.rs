//! Where each parameter lies in the one slice of all parameters but the item embedding.
//!
//! Weights that enter one product lie side by side: the query layer of an attribute or of the positions with its key
//! layer, the query layer of the item with its key and value layers. The gradient has the same layout, so that one
//! product computes them all, and threads' gradients are added in one loop.

use std::ops::Range;

use tch::Tensor;

use super::tensors::floats;
use crate::config::{Architecture, Fusion, ModelConfig, Predictor};
use crate::model::{Model, names};

/// The ranges of a linear layer.
#[derive(Debug, Clone)]
pub struct LinearRange {
    /// Its index among all linear layers.
    pub index: usize,
    /// `[outputs, inputs]`
    pub weight: Range<usize>,
    /// `[outputs]`
    pub bias: Range<usize>,
    pub inputs: usize,
}

/// The ranges of a LayerNorm, which lie side by side.
#[derive(Debug, Clone)]
pub struct LayerNormRange {
    /// `[H]`
    pub weight: Range<usize>,
    /// `[H]`
    pub bias: Range<usize>,
}

/// The ranges of the layers of the item's queries, keys and values.
#[derive(Debug)]
pub enum QkvRange {
    /// As one, `[3 H, H]`.
    Joint(LinearRange),
    /// Of the last layer, which absorbs its key and value layers.
    Last { query: LinearRange, key: LinearRange, value: LinearRange },
}

/// The ranges of an encoder layer. `position` is RecBole's `query_p` and `key_p`, `attributes` its `query_layers` and
/// `key_layers`, `fusion` its `fusion_layer`; `attention_norm` and `norm` are the `LayerNorm` of attention and of the
/// feed-forward network.
#[derive(Debug)]
pub struct LayerLayout {
    pub qkv: QkvRange,
    /// The query and key layers of the positions as one, `[2 H, H]`; `None` where positions enter the input.
    pub position: Option<LinearRange>,
    /// The query and key layers of each attribute as one, `[2 dᵢ, dᵢ]`.
    pub attributes: Vec<LinearRange>,
    /// The parameters of the fusion: none, weight and bias, or two layers' weights and biases.
    pub fusion: Vec<Range<usize>>,
    pub dense: LinearRange,
    pub attention_norm: LayerNormRange,
    pub dense_1: LinearRange,
    pub dense_2: LinearRange,
    pub norm: LayerNormRange,
}

/// The ranges of all parameters but the item embedding.
#[derive(Debug)]
pub struct Layout {
    /// The length of the slice.
    pub len: usize,
    /// `[L, H]`
    pub position_embedding: Range<usize>,
    /// SASRecF's attribute embeddings, one table after the other; empty in other models.
    pub feature_embeddings: Range<usize>,
    /// SASRecF's projection of item and attributes.
    pub concat_layer: Option<LinearRange>,
    pub layers: Vec<LayerLayout>,
    /// The attribute predictors.
    pub predictors: Vec<LinearRange>,
    /// The LayerNorm behind the embedding.
    pub norm: LayerNormRange,
    /// All linear layers by their indices.
    pub linears: Vec<LinearRange>,
    /// Every parameter's `state_dict` name with its range.
    names: Vec<(String, Range<usize>)>,
}

impl Layout {
    pub fn new(model: &Model) -> Self {
        let config = model.config();
        let (h, length) = (config.hidden_size as usize, model.max_len() as usize);
        let mut builder = LayoutBuilder::default();
        let position_embedding = builder.range(names::weight(names::POSITION_EMBEDDING), length * h);
        let start = builder.len;
        let tables = model.named_parameters().into_iter().filter(|(name, _)| names::is_feature_table(name));
        tables.for_each(|(name, table)| _ = builder.range(name, table.numel()));
        let feature_embeddings = start..builder.len;
        let concat_layer = (config.model == Architecture::SasRecF)
            .then(|| builder.linear(&[names::CONCAT_LAYER.to_owned()], h * (1 + model.features().len()), h));
        let layers = (0..config.n_layers as usize).map(|k| builder.layer(config, k, length)).collect();
        let predictors = match config.attribute_predictor {
            Predictor::Linear => (model.features().iter().enumerate())
                .map(|(i, feature)| builder.linear(&[names::nth(names::AP, i)], h, feature.vocab as usize))
                .collect(),
            Predictor::Not => Vec::new(),
        };
        let norm = builder.layer_norm(names::LAYER_NORM, h);
        let LayoutBuilder { len, linears, names } = builder;
        Self { len, position_embedding, feature_embeddings, concat_layer, layers, predictors, norm, linears, names }
    }

    /// Copies parameters to their ranges of `flat`.
    pub fn gather(&self, parameters: &[(String, Tensor)], flat: &mut [f32]) {
        for (name, parameter) in parameters {
            if let Some(range) = self.range(name) {
                flat[range].copy_from_slice(floats(parameter));
            }
        }
    }

    /// The range of a parameter by its name; `None` for the item embedding.
    pub fn range(&self, name: &str) -> Option<Range<usize>> {
        self.names.iter().find(|(other, _)| other == name).map(|(_, range)| range.clone())
    }
}

/// Gives ranges, one after the other.
#[derive(Default)]
struct LayoutBuilder {
    /// Where the next range begins.
    len: usize,
    linears: Vec<LinearRange>,
    names: Vec<(String, Range<usize>)>,
}

impl LayoutBuilder {
    fn range(&mut self, name: String, size: usize) -> Range<usize> {
        let range = self.len..self.len + size;
        self.len = range.end;
        self.names.push((name, range.clone()));
        range
    }

    /// Linear layers of the same input as one: their weights one after the other, then their biases.
    fn linear(&mut self, modules: &[String], inputs: usize, outputs: usize) -> LinearRange {
        let start = self.len;
        modules.iter().for_each(|module| _ = self.range(names::weight(module), inputs * outputs));
        let middle = self.len;
        modules.iter().for_each(|module| _ = self.range(names::bias(module), outputs));
        let linear = LinearRange { index: self.linears.len(), weight: start..middle, bias: middle..self.len, inputs };
        self.linears.push(linear.clone());
        linear
    }

    fn layer_norm(&mut self, module: &str, size: usize) -> LayerNormRange {
        let weight = self.range(names::weight(module), size);
        LayerNormRange { weight, bias: self.range(names::bias(module), size) }
    }

    /// Encoder layer `k`.
    fn layer(&mut self, config: &ModelConfig, k: usize, length: usize) -> LayerLayout {
        let (h, inner) = (config.hidden_size as usize, config.inner_size as usize);
        let dif = config.model == Architecture::SasRecD;
        let sizes: &[i64] = if dif { &config.attribute_hidden_size } else { &[] };
        let attention = |module: &str| names::attention(k, module);
        let feed_forward = |module: &str| names::feed_forward(k, module);
        let fusion = if dif { self.fusion(config.fusion_type, k, length, sizes.len()) } else { Vec::new() };
        let attributes = sizes.iter().enumerate().map(|(i, &size)| {
            let lists = [names::QUERY_LAYERS, names::KEY_LAYERS];
            self.linear(&lists.map(|list| attention(&names::nth(list, i))), size as usize, size as usize)
        });
        let attributes = attributes.collect();
        let modules = [names::QUERY, names::KEY, names::VALUE].map(attention);
        let qkv = match k + 1 == config.n_layers as usize {
            false => QkvRange::Joint(self.linear(&modules, h, h)),
            true => {
                let [query, key, value] = modules.map(|module| self.linear(&[module], h, h));
                QkvRange::Last { query, key, value }
            }
        };
        LayerLayout {
            attributes,
            qkv,
            position: dif.then(|| self.linear(&[names::QUERY_P, names::KEY_P].map(attention), h, h)),
            fusion,
            dense: self.linear(&[attention(names::DENSE)], h, h),
            attention_norm: self.layer_norm(&attention(names::LAYER_NORM), h),
            dense_1: self.linear(&[feed_forward(names::DENSE_1)], h, inner),
            dense_2: self.linear(&[feed_forward(names::DENSE_2)], inner, h),
            norm: self.layer_norm(&feed_forward(names::LAYER_NORM), h),
        }
    }

    /// The fusion in encoder layer `k` of item, position and `attributes` attributes.
    fn fusion(&mut self, fusion: Fusion, k: usize, length: usize, attributes: usize) -> Vec<Range<usize>> {
        let mut linear = |module: &str, weight: usize, bias: usize| {
            let module = names::attention(k, module);
            [self.range(names::weight(&module), weight), self.range(names::bias(&module), bias)]
        };
        match fusion {
            Fusion::Sum => Vec::new(),
            Fusion::Concat => linear(names::FUSION_LAYER, length * length * (attributes + 2), length).to_vec(),
            Fusion::Gate => {
                [linear(names::GATE_HIDDEN, length * length, length), linear(names::GATE_ENERGY, length, 1)].concat()
            }
        }
    }
}
