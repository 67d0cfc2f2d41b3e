//! Initial values, drawn from libtorch's generator in the order in which the reference draws them (golden README).
//!
//! ```text
//! Linear:     W ~ N(0, initializer_range²), b = 0
//! Embedding:  W ~ N(0, initializer_range²)
//! LayerNorm:  w = 1, b = 0
//! an attribute table of SASRecD:  W ~ N(0, 1)
//! ```

use std::ops::Range;

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
        Leaf::Embedding { weight, held, rows } => normal_rows(weight, held, *rows, 1.0),
        Leaf::Frozen { table } => normal(table, 1.0),
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
        Leaf::Embedding { weight, held, rows } => normal_rows(weight, held, *rows, std),
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

/// Values that are drawn at a time of a table that is not here as a whole.
const DRAWN: i64 = 1 << 20;

/// Draws a whole table and keeps the rows `held`, some values at a time.
///
/// Libtorch draws 16 values or more as blocks of 16, and a rest anew with the values before it. Parts of a multiple of 16,
/// of which the last has the rest, hence are what the whole table would be.
fn normal_rows(weight: &Tensor, held: &Range<i64>, rows: i64, std: f64) {
    if *held == (0..rows) {
        return normal(weight, std);
    }
    let width = weight.size()[1];
    let (all, held, own) = (rows * width, held.start * width..held.end * width, weight.view([-1]));
    let (mut start, options) = (0, (weight.kind(), weight.device()));
    while start < all {
        let end = if all - start < 2 * DRAWN { all } else { start + DRAWN };
        let drawn = Tensor::empty([end - start], options).normal_(0.0, std);
        let common = held.start.max(start)..held.end.min(end);
        if !common.is_empty() {
            let n = common.end - common.start;
            own.narrow(0, common.start - held.start, n).copy_(&drawn.narrow(0, common.start - start, n));
        }
        start = end;
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::libtorch::{generator_state, turn};

    /// With and without a rest of 16, fewer than 16 values, and tables of several parts.
    #[test]
    fn parts_of_a_table_are_what_the_whole_table_is_and_leave_the_generator_where_it_is_left() {
        let _turn = turn();
        for (kind, rows, width) in [
            (Kind::Float, 5, 3),
            (Kind::Float, 31, 7),
            (Kind::Float, 70_000, 64),
            (Kind::Float, 350_001, 7),
            (Kind::Double, 350_001, 7),
        ] {
            let draw = |held: Range<i64>| {
                tch::manual_seed(212);
                let weight = Tensor::zeros([held.end - held.start, width], (kind, Device::Cpu));
                normal_rows(&weight, &held, rows, 0.02);
                (weight, Vec::<u8>::try_from(generator_state(Device::Cpu).unwrap()).unwrap())
            };
            let (whole, state) = draw(0..rows);
            for held in [0..rows / 3, rows / 3..rows - 1, rows - 1..rows, rows..rows] {
                let (part, left) = draw(held.clone());
                let expected = whole.narrow(0, held.start, held.end - held.start);
                assert!(part.equal(&expected), "{held:?} of {rows} x {width}");
                assert_eq!(left, state, "{held:?} of {rows} x {width}");
            }
        }
    }
}
