//! Initial values, drawn from libtorch's generator in the order in which the reference draws them (golden README).
//!
//! ```text
//! Linear:     W ~ N(0, initializer_range²), b = 0
//! Embedding:  W ~ N(0, initializer_range²)
//! LayerNorm:  w = 1, b = 0
//! an attribute table of SASRecD:  W ~ N(0, 1)
//! ```

use tch::{Tensor, no_grad};

use super::tree::Leaf;
use super::{Tree, names};

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
            // RecBole deep-copies the encoder's first layer.
            if !names::is_in_copied_layer(path) {
                construct(leaf);
            }
        });
        tree.visit("", &mut |_, leaf| init_weights(leaf, initializer_range));
    });
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
