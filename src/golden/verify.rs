//! Holds the model to a golden case.

use serde::Serialize;
use tch::Device;

use super::compute::{compute, compute_fast};
use super::judge::Judge;
use super::stage::group;
use super::{Case, Group, Stage};
use crate::config::ComputePath;
use crate::{Error, Result};

/// The comparisons of one case, in the order in which the model computes.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// The folder's name.
    pub case: String,
    /// One for each stage.
    pub groups: Vec<Group>,
}

impl CaseReport {
    /// Whether every tensor is within tolerance.
    pub fn holds(&self) -> bool {
        self.groups.iter().all(|group| group.worst.holds())
    }
}

/// Runs the case's batch through a computing path and compares every golden tensor with it; what happens inside of layers
/// only with the reference path, because the fast one has no such tensors. The reference path computes on `device`, the
/// fast one on the CPU. The model is left as it was.
///
/// # Errors
/// A golden tensor that a model of the configuration does not compute; none to compare with; as [`FastPath::new`](crate::fast::FastPath::new).
pub fn verify(case: &Case, path: ComputePath, device: Device) -> Result<CaseReport> {
    let (ours, judge) = match path {
        ComputePath::Reference => {
            let mut model = case.model.copy_as(case.kind());
            model.to_device(device);
            let judge = if device == Device::Cpu { Judge::of_model(case) } else { Judge::of_any(case, case.kind()) };
            (compute(case, &model), judge)
        }
        ComputePath::Fast => (compute_fast(case)?, Judge::of_fast(case)),
    };
    let mut comparisons = Vec::new();
    for (name, golden) in &case.expected {
        let stage = Stage::of(name).map(|(stage, _)| stage);
        if path == ComputePath::Fast && matches!(stage, Some(Stage::Layer(..))) {
            continue;
        }
        let tensor = ours.get(name).filter(|_| stage.is_some()).ok_or_else(|| {
            Error::new(format!("found a tensor `{name}`, which a model of this configuration does not compute"))
                .at(&case.path)
                .hint("make the case's config.yaml and its tensors agree")
        })?;
        comparisons.extend(judge.compare(name, tensor, golden));
    }
    if comparisons.is_empty() {
        return Err(Error::new("expected `out.*`, `grad.*`, `train.loss.*` or `after5.*` to compare with, found none")
            .at(&case.path)
            .hint("add what the reference computed"));
    }
    Ok(CaseReport { case: case.name(), groups: group(comparisons) })
}
