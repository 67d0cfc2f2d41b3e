//! Initial values, drawn from libtorch's generator in the order in which the reference draws them (golden README).

use tch::nn::{self, Init};
use tch::{Tensor, no_grad};

use super::Tree;
use super::tree::Leaf;

/// Fills every parameter and attribute table of a model on the CPU.
///
/// The reference draws twice. PyTorch's constructors come first; of their values only the attribute tables' survive, but
/// all of them advance the generator. A layer that is built once and deep-copied draws once there. RecBole's
/// `_init_weights` then overwrites every registered module, the padding row of the item embedding included.
///
/// Seed with [`tch::manual_seed`] before.
pub fn initialize(tree: &Tree, initializer_range: f64) {
    no_grad(|| {
        tree.visit("", &mut |path, leaf| {
            if !is_deep_copy(path) {
                construct(leaf);
            }
        });
        tree.visit("", &mut |_, leaf| init_weights(leaf, initializer_range));
    });
}

/// The encoder's layers from the second on are copies of the first.
fn is_deep_copy(path: &str) -> bool {
    path.strip_prefix("trm_encoder.layer.").is_some_and(|rest| !rest.starts_with("0."))
}

/// PyTorch's default initialisation.
fn construct(leaf: &Leaf) {
    match leaf {
        Leaf::Inert | Leaf::LayerNorm { .. } => {}
        Leaf::Embedding { weight: table } | Leaf::Frozen { table } => normal(table, 1.0),
        Leaf::Linear { weight, bias } => {
            let bound = 1.0 / (weight.size()[1] as f64).sqrt();
            for parameter in [weight, bias] {
                let _ = parameter.shallow_clone().uniform_(-bound, bound);
            }
        }
    }
}

/// RecBole's `_init_weights`.
fn init_weights(leaf: &Leaf, std: f64) {
    match leaf {
        Leaf::Inert | Leaf::Frozen { .. } => {}
        Leaf::Embedding { weight } => normal(weight, std),
        Leaf::Linear { weight, bias } => {
            normal(weight, std);
            let _ = bias.shallow_clone().zero_();
        }
        Leaf::LayerNorm { weight, bias } => {
            let _ = weight.shallow_clone().fill_(1.0);
            let _ = bias.shallow_clone().zero_();
        }
    }
}

fn normal(tensor: &Tensor, std: f64) {
    let _ = tensor.shallow_clone().normal_(0.0, std);
}

/// A linear layer of zeros: [`initialize`] alone draws, so that the order of draws is stated in one place.
pub(super) fn linear(p: nn::Path<'_>, input: i64, output: i64) -> nn::Linear {
    let zeros = Init::Const(0.0);
    nn::linear(p, input, output, nn::LinearConfig { ws_init: zeros, bs_init: Some(zeros), bias: true })
}

/// An embedding of zeros; rows `padding_idx` get no gradient from look-ups.
pub(super) fn embedding(p: nn::Path<'_>, rows: i64, size: i64, padding_idx: Option<i64>) -> nn::Embedding {
    let config = nn::EmbeddingConfig {
        ws_init: Init::Const(0.0),
        padding_idx: padding_idx.unwrap_or(-1),
        ..nn::EmbeddingConfig::default()
    };
    nn::embedding(p, rows, size, config)
}

/// A LayerNorm over the last dimension.
pub(super) fn layer_norm(p: nn::Path<'_>, size: i64, eps: f64) -> nn::LayerNorm {
    nn::layer_norm(p, vec![size], nn::LayerNormConfig { eps, ..nn::LayerNormConfig::default() })
}
