//! Holds what another implementation computed on a golden case to that case, and names the first stage that departs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tch::{Kind, Tensor};

use super::cause::Search;
use super::judge::Judge;
use super::stage::group;
use super::{Case, Cause, Comparison, Group, Stage};
use crate::tensors::TensorFile;
use crate::{Error, Result};

/// Tensors that an implementation computed, named as in the case: any of them, in float32 or float64.
#[derive(Debug)]
pub struct Dump {
    /// The file.
    pub path: PathBuf,
    /// By their names.
    pub tensors: BTreeMap<String, Tensor>,
}

/// A dump beside its case.
#[derive(Debug, Serialize)]
pub struct AgainstReport {
    /// The case's name.
    pub case: String,
    /// The dump's file.
    pub dump: PathBuf,
    /// The less precise of the dump's and the case's, whose tolerance holds for all tensors.
    pub precision: &'static str,
    /// Whether every tensor is within tolerance.
    pub holds: bool,
    /// In the order of the computation.
    pub stages: Vec<Group>,
    /// Stages of the case of which the dump holds nothing.
    pub not_dumped: Vec<Stage>,
    /// Keys of the dump that the case does not have.
    pub unknown: Vec<String>,
    /// Where it departs first; `None` where it holds.
    pub departure: Option<Departure>,
}

/// Where a dump departs first, and why.
#[derive(Debug, Serialize)]
pub struct Departure {
    /// The stage of the departing tensor.
    pub stage: Stage,
    /// The departing tensor.
    pub tensor: Comparison,
    /// Why it departs.
    pub cause: Cause,
}

impl Dump {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// As [`TensorFile::read`].
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), tensors: TensorFile::read(path)?.tensors })
    }

    /// The tensors that the case knows, each of the case's shape; and the keys that it does not know.
    fn known<'a>(&'a self, golden: &BTreeMap<String, Tensor>) -> Result<(BTreeMap<&'a str, &'a Tensor>, Vec<String>)> {
        let (mut known, mut unknown) = (BTreeMap::new(), Vec::new());
        for (name, tensor) in &self.tensors {
            let Some(golden) = golden.get(name) else {
                unknown.push(name.clone());
                continue;
            };
            let wrong = |problem: String| Err(Error::new(problem).at(&self.path).tensor(name));
            if tensor.size() != golden.size() {
                return wrong(format!("expected shape {:?}, found {:?}", golden.size(), tensor.size()))
                    .map_err(|error| error.hint("dump the tensor in the case's layout (golden/README.md)"));
            }
            let (kinds, named) = match golden.is_floating_point() {
                true => ([Kind::Double, Kind::Float], "float64 or float32"),
                false => ([Kind::Int64, Kind::Int], "int64 or int32"),
            };
            if !kinds.contains(&tensor.kind()) {
                return wrong(format!("expected {named}, found {:?}", tensor.kind()))
                    .map_err(|error| error.hint("convert the tensor"));
            }
            known.insert(name.as_str(), tensor);
        }
        if known.is_empty() {
            let found = match &unknown[..] {
                [] => "none".to_owned(),
                some => format!("`{}`", some.iter().take(5).cloned().collect::<Vec<_>>().join("`, `")),
            };
            return Err(Error::new(format!(
                "expected tensors named as in the case (`out.scores`, `out.layer.0.attention_probs`, …), found {found}"
            ))
            .at(&self.path)
            .hint("name them as golden/README.md lists them; python/peer/dif_sr_peer/export.py does"));
        }
        Ok((known, unknown))
    }
}

/// Compares every tensor of the dump that the case has.
///
/// # Errors
/// The dump has no tensor of the case that is computed and can be judged, or one of another shape or of no float kind.
pub fn against(case: &Case, dump: &Dump) -> Result<AgainstReport> {
    let golden = case.tensors();
    let (known, unknown) = dump.known(&golden)?;
    // What was computed in float32 in one place has float32's rounding in all that follow.
    let single = case.kind() == Kind::Float || known.values().any(|tensor| tensor.kind() == Kind::Float);
    if single && case.model.outweighs_mask() {
        return Err(Error::new("expected float64 for a case with `pooling_mode: max`, found float32")
            .at(&dump.path)
            .hint("its scores near 1e18 leave float32 results to rounding: compute in float64"));
    }
    let kind = if single { Kind::Float } else { Kind::Double };
    let judge = Judge::of_any(case, kind);
    let comparisons = known.iter().filter_map(|(name, tensor)| judge.compare(name, tensor, &golden[*name]));
    let stages = group(comparisons);

    let in_case: BTreeSet<Stage> = golden.keys().filter_map(|name| Stage::of(name)).map(|(stage, _)| stage).collect();
    let dumped = |stage: &Stage| stages.iter().any(|group| group.name == *stage);
    // Inputs are there for those who want them checked; nobody has computed them.
    let not_dumped: Vec<Stage> = in_case.into_iter().filter(|s| *s != Stage::Inputs && !dumped(s)).collect();
    let departing = stages.iter().find_map(|group| Some((group.name, group.first_departure.clone()?)));
    let departure = departing.map(|(stage, tensor)| {
        let before = stages.iter().map(|group| group.name).take_while(|&name| name < stage).last();
        let between = not_dumped.iter().filter(|&&s| s < stage && before.is_none_or(|before| s > before));
        let search = Search { case, judge: &judge, golden: &golden, dump: &known, stage };
        Departure { stage, tensor, cause: search.run(between.copied().collect()) }
    });
    let precision = if single { "float32" } else { "float64" };
    let holds = departure.is_none();
    // Copies of the case's own inputs and parameters prove nothing.
    if holds && !stages.iter().any(|group| group.name > Stage::Parameters) {
        return Err(Error::new(
            "expected something that was computed (`out.*`, `grad.*`, `train.loss.*`, `after5.*`), found none",
        )
        .at(&dump.path)
        .hint("dump what your implementation computes on the case"));
    }
    Ok(AgainstReport {
        case: case.name(),
        dump: dump.path.clone(),
        precision,
        holds,
        stages,
        not_dumped,
        unknown,
        departure,
    })
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "departs first at {} ({}): {}", self.stage, self.tensor, self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Fault;
    use super::super::what_if::WhatIf;
    use super::*;

    fn gate() -> Case {
        tch::set_num_threads(1);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gate");
        Case::load(&path).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The faults that are found in the case computed with these.
    fn found(case: &Case, faults: &[Fault]) -> Vec<Fault> {
        let tensors = WhatIf::new(case, faults, Kind::Double).train();
        let report = against(case, &Dump { path: "dump".into(), tensors }).unwrap_or_else(|e| panic!("{e}"));
        match report.departure.unwrap_or_else(|| panic!("{faults:?} departs")).cause {
            Cause::Reproduced { faults, unexplained_from: None, .. } => faults,
            other => panic!("{faults:?}: {other}"),
        }
    }

    #[test]
    fn every_fault_is_told_from_all_others() {
        let case = gate();
        for fault in Fault::all(&case) {
            assert_eq!(found(&case, &[fault]), [fault], "{}", fault.describe(&case));
        }
    }

    #[test]
    fn two_faults_that_show_in_one_stage_are_found_together() {
        let pair = [Fault::PositionAddedToInput, Fault::LayerNormEps(1e-5)];
        assert_eq!(found(&gate(), &pair), pair);
    }
}
