//! What rounding alone does to what a model computes.

use std::collections::BTreeMap;

use tch::{Kind, Tensor, no_grad};

use crate::model::Model;
use crate::splitmix;

/// How far rounding alone moves each tensor that `compute` gives for a model, by its name: the largest absolute change of an element under eight random
/// perturbations of the parameters by at most one unit in the last place of `kind`, in which the perturbed models compute, too.
///
/// A computation of the same function in `kind` may depart as far, and has then no fault.
pub fn rounding_noise(
    model: &Model,
    kind: Kind,
    compute: impl Fn(&Model) -> BTreeMap<String, Tensor>,
) -> BTreeMap<String, f64> {
    let exact = compute(model);
    let epsilon = if kind == Kind::Double { f64::EPSILON } else { f32::EPSILON.into() };
    let mut noise: BTreeMap<String, f64> = BTreeMap::new();
    for seed in 0..8 {
        // Not libtorch's generator, which belongs to the caller.
        let mut state = seed;
        let moved = model.copy_as(kind);
        no_grad(|| {
            for (_, parameter) in moved.named_parameters() {
                let ulps = (0..parameter.numel()).map(|_| (splitmix::next(&mut state) % 3) as f64 - 1.0);
                let ulps = Tensor::from_slice(&ulps.collect::<Vec<_>>()).to_kind(kind).view_as(&parameter);
                parameter.shallow_clone().copy_(&(&parameter * (ulps * epsilon + 1.0)));
            }
        });
        for (name, moved) in compute(&moved) {
            let change = (moved - &exact[&name]).abs().nan_to_num(0.0, None, None).max().double_value(&[]);
            let largest = noise.entry(name).or_default();
            *largest = largest.max(change);
        }
    }
    noise
}
