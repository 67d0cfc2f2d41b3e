//! Holds the model to a golden case.

use std::collections::BTreeMap;

use judge::{Dtype, Dump, Group, Judge, Stage};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::compute::{compute, compute_fast, compute_lean};
use super::{Case, rounding_noise, to_judge};
use crate::config::{ComputePath, Precision};
use crate::fast::LeanProgram;
use crate::model::Model;
use crate::{Error, Result};

/// The comparisons of one case, in the order in which the model computes.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// The folder's name.
    pub case: String,
    /// The stages, in the order of the computation.
    pub groups: Vec<Group>,
}

impl CaseReport {
    /// Whether every tensor is within tolerance.
    pub fn holds(&self) -> bool {
        self.groups.iter().all(Group::holds)
    }
}

/// Runs the case's batch through a computing path and compares every golden tensor with it; what happens inside of layers
/// only with the reference path, because the fast one has no such tensors. The fast path is `device`'s: on the CPU it
/// computes in float32, on a GPU in the case's kind. The model is left as it was.
///
/// # Errors
/// The case holds nothing that a model of its configuration computes, or something that it does not.
pub fn verify(case: &Case, path: ComputePath, device: Device) -> Result<CaseReport> {
    match (path, device) {
        (ComputePath::Reference, _) => {
            let ours = compute(case, &moved(case, device));
            let judge = judge_of(case, case.kind());
            // A GPU adds the float32 numbers of the attribute loss in another order than the goldens' processor.
            judged(case, path, ours, if device == Device::Cpu { judge.float32_labels() } else { judge })
        }
        (ComputePath::Fast, Device::Cpu) => {
            judged(case, path, compute_fast(case)?, judge_of(case, Kind::Float).float32_labels())
        }
        (ComputePath::Fast, _) => verify_lean(case, device),
    }
}

/// Holds the lean program, which is the fast path of GPUs and computes anywhere, to a case.
///
/// # Errors
/// As [`verify`].
#[doc(hidden)]
pub fn verify_lean(case: &Case, device: Device) -> Result<CaseReport> {
    let model = moved(case, device);
    let program = LeanProgram::new(&model, Precision::Float32);
    // Its labels are of the model's kind.
    judged(case, ComputePath::Fast, compute_lean(case, &model, &program), judge_of(case, case.kind()))
}

fn moved(case: &Case, device: Device) -> Model {
    let mut model = case.model.copy_as(case.kind());
    model.to_device(device);
    model
}

/// What of a case a path has computed, beside the case.
fn judged(case: &Case, path: ComputePath, ours: BTreeMap<String, Tensor>, judge: Judge) -> Result<CaseReport> {
    let mut dump = Dump { path: case.path.clone(), ..Dump::default() };
    for name in case.expected.keys() {
        let stage = Stage::of(name).map(|(stage, _)| stage);
        if path == ComputePath::Fast && matches!(stage, Some(Stage::Layer(..))) {
            continue;
        }
        let tensor = ours.get(name).ok_or_else(|| {
            Error::new(format!("found a tensor `{name}`, which a model of this configuration does not compute"))
                .at(&case.path)
                .hint("make the case's config.yaml and its tensors agree")
        })?;
        dump.tensors.insert(name.clone(), to_judge(tensor));
    }
    if dump.tensors.is_empty() {
        return Err(Error::new("expected `out.*`, `grad.*`, `train.loss.*` or `after5.*` to compare with, found none")
            .at(&case.path)
            .hint("add what the reference computed"));
    }
    Ok(CaseReport { case: case.judged.name.clone(), groups: judge.require_nothing().judge(&dump)?.stages })
}

/// The judge of implementations that compute the case in `kind`. What rounding alone does to a case with `max` pooling is
/// measured by the model.
pub fn judge_of(case: &Case, kind: Kind) -> Judge<'_> {
    let judge = Judge::of(&case.judged);
    if !case.model.outweighs_mask() {
        return judge;
    }
    let dtype = if kind == Kind::Double { Dtype::Float64 } else { Dtype::Float32 };
    judge.noise(dtype, rounding_noise(&case.model, kind, |model| compute(case, model)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The judge cannot compute: what rounding does to `max_pooling` comes with it as data, from another implementation.
    #[test]
    fn the_noise_that_comes_with_the_judge_is_what_rounding_does() {
        tch::set_num_threads(1);
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let case = Case::load(&root.join("golden/max_pooling")).unwrap_or_else(|e| panic!("{e}"));
        let text = std::fs::read_to_string(root.join("judge/noise/max_pooling.json")).expect("it is there");
        let listed: BTreeMap<String, f64> = serde_json::from_str(&text).expect("JSON");
        let measured = rounding_noise(&case.model, Kind::Double, |model| compute(&case, model));
        let (mut reached, mut n) = (0, 0);
        for (name, golden) in &case.expected {
            let found = measured[name];
            let largest = golden.abs().max().double_value(&[]);
            let allowed = judge::Tolerance::FLOAT64.bound(largest);
            match listed.get(name) {
                // Eight draws of a chaotic quantity, here and there. Where two scores are equal but for rounding, and so
                // which of them a draw makes the larger, hangs on the processor's sums: with MKL's for Intel it is always
                // the same one in some tensors, with those for others (`MKL_CBWR=COMPATIBLE`) not.
                Some(expected) => {
                    assert!(found <= expected * 100.0, "{name}: {expected:e}, {found:e}");
                    n += 1;
                    reached += usize::from(found >= expected / 100.0);
                }
                None => assert!(found <= allowed, "{name}: {found:e} of {allowed:e}"),
            }
        }
        assert!(n == listed.len() && 2 * reached > n, "only {reached} of {n} move as far as is listed");
    }
}
