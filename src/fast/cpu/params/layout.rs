//! The parameters of the encoder and the predictors in one slice, and where each of them lies.
//!
//! Weights that enter one product lie side by side: an attribute's queries with its keys. The gradient has the same layout,
//! so that one product computes both, and threads' gradients are added in one loop.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::config::{Architecture, Fusion, Predictor};
use crate::fast::cpu::encoder::input::Input;
use crate::model::Model;

/// A linear layer's place.
#[derive(Debug, Clone)]
pub struct Linear {
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
pub struct LayerNormRange {
    pub weight: Range<usize>,
    pub bias: Range<usize>,
}

/// A layer's places.
#[derive(Debug)]
pub struct LayerLayout {
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    /// The position stream's queries, then keys; `None` where positions enter the input.
    pub position: Option<Linear>,
    /// Each attribute's queries, then keys.
    pub attributes: Vec<Linear>,
    pub fusion: Vec<Range<usize>>,
    pub dense: Linear,
    pub attention_norm: LayerNormRange,
    pub dense_1: Linear,
    pub dense_2: Linear,
    pub norm: LayerNormRange,
}

/// The places of all parameters but the item embedding.
#[derive(Debug)]
pub struct Layout {
    pub len: usize,
    /// `[L, H]`
    pub position_embedding: Range<usize>,
    pub input: Input,
    pub layers: Vec<LayerLayout>,
    /// The predictors.
    pub ap: Vec<Linear>,
    pub norm: LayerNormRange,
    /// All linear layers by their numbers.
    pub dense: Vec<Linear>,
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
        let mut place = LayoutBuilder::default();
        let position_embedding = place.next("position_embedding.weight".to_owned(), l * h);
        let input = Input::new(model, &mut place);
        let layers = (0..config.n_layers).map(|k| {
            let layer = format!("trm_encoder.layer.{k}");
            let (attention, feed_forward) = (format!("{layer}.multi_head_attention"), format!("{layer}.feed_forward"));
            let fusion = format!("{attention}.fusion_layer");
            let fusion = match config.fusion_type {
                _ if !dif => Vec::new(),
                Fusion::Sum => Vec::new(),
                Fusion::Concat => vec![
                    place.next(format!("{fusion}.weight"), l * l * (attributes.len() + 2)),
                    place.next(format!("{fusion}.bias"), l),
                ],
                Fusion::Gate => [("0.weight", l * l), ("0.bias", l), ("2.weight", l), ("2.bias", 1)]
                    .map(|(name, size)| place.next(format!("{fusion}.projection.{name}"), size))
                    .to_vec(),
            };
            let query_and_key = |(i, &size): (usize, &usize)| {
                let names = [format!("query_layers.{i}"), format!("key_layers.{i}")];
                place.dense(&names.map(|name| format!("{attention}.{name}")), size, size)
            };
            LayerLayout {
                attributes: attributes.iter().enumerate().map(query_and_key).collect(),
                query: place.dense(&[format!("{attention}.query")], h, h),
                key: place.dense(&[format!("{attention}.key")], h, h),
                value: place.dense(&[format!("{attention}.value")], h, h),
                position: dif
                    .then(|| place.dense(&["query_p", "key_p"].map(|name| format!("{attention}.{name}")), h, h)),
                fusion,
                dense: place.dense(&[format!("{attention}.dense")], h, h),
                attention_norm: place.scale(&format!("{attention}.LayerNorm"), h),
                dense_1: place.dense(&[format!("{feed_forward}.dense_1")], h, inner),
                dense_2: place.dense(&[format!("{feed_forward}.dense_2")], inner, h),
                norm: place.scale(&format!("{feed_forward}.LayerNorm"), h),
            }
        });
        let layers = layers.collect();
        let ap = match config.attribute_predictor {
            Predictor::Linear => (model.features().iter().enumerate())
                .map(|(i, feature)| place.dense(&[format!("ap.{i}")], h, feature.vocab as usize))
                .collect(),
            Predictor::Not => Vec::new(),
        };
        let norm = place.scale("LayerNorm", h);
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
pub fn floats(tensor: &Tensor) -> &[f32] {
    assert!(tensor.kind() == Kind::Float && tensor.device() == Device::Cpu && tensor.is_contiguous());
    // SAFETY: a contiguous float32 tensor in the CPU's memory, which the reference keeps alive. Nothing writes to
    // parameters while the fast path reads them: the optimizer runs between steps.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) }
}

/// The elements of a float32 tensor on the CPU, to write to.
pub fn floats_mut(tensor: &mut Tensor) -> &mut [f32] {
    let len = floats(tensor).len();
    // SAFETY: as in `floats`; whoever has the tensor mutably is the optimizer, between steps.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), len) }
}

/// Gives places, one after the other.
#[derive(Default)]
pub struct LayoutBuilder {
    /// Where the next place begins.
    pub len: usize,
    dense: Vec<Linear>,
    names: Vec<(String, Range<usize>)>,
}

impl LayoutBuilder {
    pub fn next(&mut self, name: String, size: usize) -> Range<usize> {
        let place = self.len..self.len + size;
        self.len = place.end;
        self.names.push((name, place.clone()));
        place
    }

    /// Linear layers of the same input, one after the other: their weights, then their biases.
    pub fn dense(&mut self, names: &[String], inputs: usize, outputs: usize) -> Linear {
        let start = self.len;
        names.iter().for_each(|name| _ = self.next(format!("{name}.weight"), inputs * outputs));
        let middle = self.len;
        names.iter().for_each(|name| _ = self.next(format!("{name}.bias"), outputs));
        let dense = Linear { number: self.dense.len(), weight: start..middle, bias: middle..self.len, inputs };
        self.dense.push(dense.clone());
        dense
    }

    fn scale(&mut self, name: &str, size: usize) -> LayerNormRange {
        let weight = self.next(format!("{name}.weight"), size);
        LayerNormRange { weight, bias: self.next(format!("{name}.bias"), size) }
    }
}
