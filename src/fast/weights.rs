//! The parameters of the encoder and the predictors in one slice, and where each of them lies.
//!
//! Weights that enter one product lie side by side: an attribute's queries with its keys. The gradient has the same layout,
//! so that one product computes both, and threads' gradients are added in one loop.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::input::Input;
use crate::config::{Architecture, Fusion, Predictor};
use crate::model::{Model, names};

/// A linear layer's place.
#[derive(Debug, Clone)]
pub(super) struct Dense {
    /// Its number among all of them.
    pub number: usize,
    /// `[outputs, inputs]`
    pub weight: Range<usize>,
    /// `[outputs]`
    pub bias: Range<usize>,
    pub inputs: usize,
}

/// A LayerNorm's place.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    pub weight: Range<usize>,
    pub bias: Range<usize>,
}

/// A layer's places.
#[derive(Debug)]
pub(super) struct LayerSlots {
    pub query: Dense,
    pub key: Dense,
    pub value: Dense,
    /// The position stream's queries, then keys; `None` where positions enter the input.
    pub position: Option<Dense>,
    /// Each attribute's queries, then keys.
    pub attributes: Vec<Dense>,
    pub fusion: Vec<Range<usize>>,
    pub dense: Dense,
    pub attention_norm: Scale,
    pub dense_1: Dense,
    pub dense_2: Dense,
    pub norm: Scale,
}

/// The places of all parameters but the item embedding.
#[derive(Debug)]
pub(super) struct Layout {
    pub len: usize,
    /// `[L, H]`
    pub position_embedding: Range<usize>,
    pub input: Input,
    pub layers: Vec<LayerSlots>,
    /// The predictors.
    pub ap: Vec<Dense>,
    pub norm: Scale,
    /// All linear layers by their numbers.
    pub dense: Vec<Dense>,
    /// Every parameter's `state_dict` name with its place.
    names: Vec<(String, Range<usize>)>,
}

impl Layout {
    pub fn new(model: &Model) -> Self {
        let config = model.config();
        let (h, inner, l) = (config.hidden_size as usize, config.inner_size as usize, model.max_len() as usize);
        let dif = config.model == Architecture::SasRecD;
        let attributes: Vec<usize> = match config.model {
            Architecture::SasRecD => config.attribute_hidden_size.iter().map(|&size| size as usize).collect(),
            Architecture::SasRec | Architecture::SasRecF => Vec::new(),
        };
        let mut place = Placer::default();
        let position_embedding = place.next(names::weight(names::POSITION_EMBEDDING), l * h);
        let input = Input::new(model, &mut place);
        let layers = (0..config.n_layers as usize).map(|k| {
            let attention = |module: &str| names::attention(k, module);
            let feed_forward = |module: &str| names::feed_forward(k, module);
            let fusion = match config.fusion_type {
                _ if !dif => Vec::new(),
                Fusion::Sum => Vec::new(),
                Fusion::Concat => {
                    let layer = attention(names::FUSION_LAYER);
                    vec![
                        place.next(names::weight(&layer), l * l * (attributes.len() + 2)),
                        place.next(names::bias(&layer), l),
                    ]
                }
                Fusion::Gate => {
                    let [hidden, energy] = [names::GATE_HIDDEN, names::GATE_ENERGY].map(attention);
                    vec![
                        place.next(names::weight(&hidden), l * l),
                        place.next(names::bias(&hidden), l),
                        place.next(names::weight(&energy), l),
                        place.next(names::bias(&energy), 1),
                    ]
                }
            };
            let query_and_key = |(i, &size): (usize, &usize)| {
                let lists = [names::QUERY_LAYERS, names::KEY_LAYERS];
                place.dense(&lists.map(|list| attention(&names::nth(list, i))), size, size)
            };
            LayerSlots {
                attributes: attributes.iter().enumerate().map(query_and_key).collect(),
                query: place.dense(&[attention(names::QUERY)], h, h),
                key: place.dense(&[attention(names::KEY)], h, h),
                value: place.dense(&[attention(names::VALUE)], h, h),
                position: dif.then(|| place.dense(&[names::QUERY_P, names::KEY_P].map(attention), h, h)),
                fusion,
                dense: place.dense(&[attention(names::DENSE)], h, h),
                attention_norm: place.scale(&attention(names::LAYER_NORM), h),
                dense_1: place.dense(&[feed_forward(names::DENSE_1)], h, inner),
                dense_2: place.dense(&[feed_forward(names::DENSE_2)], inner, h),
                norm: place.scale(&feed_forward(names::LAYER_NORM), h),
            }
        });
        let layers = layers.collect();
        let ap = match config.attribute_predictor {
            Predictor::Linear => (model.features().iter().enumerate())
                .map(|(i, feature)| place.dense(&[names::nth(names::AP, i)], h, feature.vocab as usize))
                .collect(),
            Predictor::Not => Vec::new(),
        };
        let norm = place.scale(names::LAYER_NORM, h);
        Self { len: place.len, position_embedding, input, layers, ap, norm, dense: place.dense, names: place.names }
    }

    /// Copies parameters to their places.
    pub fn gather(&self, parameters: &[(String, Tensor)], into: &mut [f32]) {
        for (name, parameter) in parameters {
            if let Some(place) = self.of(name) {
                into[place].copy_from_slice(floats(parameter));
            }
        }
    }

    /// A parameter's place by its name; `None` for the item embedding.
    pub fn of(&self, name: &str) -> Option<Range<usize>> {
        self.names.iter().find(|(other, _)| other == name).map(|(_, place)| place.clone())
    }
}

/// The elements of a float32 tensor on the CPU.
pub(super) fn floats(tensor: &Tensor) -> &[f32] {
    assert!(tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous());
    // SAFETY: a contiguous float32 tensor in the CPU's memory, which the reference keeps alive. Nothing writes to
    // parameters while the fast path reads them: the optimizer runs between steps.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The elements of a float32 tensor on the CPU, to write to.
pub(super) fn floats_mut(tensor: &mut Tensor) -> &mut [f32] {
    let len = floats(tensor).len();
    // SAFETY: as in `floats`; whoever has the tensor mutably is the optimizer, between steps.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), len) }
}

/// Gives places, one after the other.
#[derive(Default)]
pub(super) struct Placer {
    /// Where the next place begins.
    pub len: usize,
    dense: Vec<Dense>,
    names: Vec<(String, Range<usize>)>,
}

impl Placer {
    pub fn next(&mut self, name: String, size: usize) -> Range<usize> {
        let place = self.len..self.len + size;
        self.len = place.end;
        self.names.push((name, place.clone()));
        place
    }

    /// Linear layers of the same input, one after the other: their weights, then their biases.
    pub fn dense(&mut self, modules: &[String], inputs: usize, outputs: usize) -> Dense {
        let start = self.len;
        modules.iter().for_each(|module| _ = self.next(names::weight(module), inputs * outputs));
        let middle = self.len;
        modules.iter().for_each(|module| _ = self.next(names::bias(module), outputs));
        let dense = Dense { number: self.dense.len(), weight: start..middle, bias: middle..self.len, inputs };
        self.dense.push(dense.clone());
        dense
    }

    fn scale(&mut self, module: &str, size: usize) -> Scale {
        let weight = self.next(names::weight(module), size);
        Scale { weight, bias: self.next(names::bias(module), size) }
    }
}
