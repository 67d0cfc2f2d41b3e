//! The model is the authors' model: every tensor of every golden case, within the golden README's tolerances.

use std::path::{Path, PathBuf};

use dif_sr::config::ComputePath;
use dif_sr::golden::{Case, verify};

#[test]
fn every_golden_case_holds_on_the_reference_path() {
    every_case_holds(ComputePath::Reference);
}

#[test]
fn every_golden_case_holds_on_the_fast_path() {
    every_case_holds(ComputePath::Fast);
}

fn every_case_holds(path: ComputePath) {
    tch::set_num_threads(1); // the tensors are too small for more
    let cases = golden_cases();
    assert_eq!(cases.len(), 15, "the golden README hands over 15 model cases");
    let mut failures = Vec::new();
    for folder in cases {
        let case = Case::load(&folder).unwrap_or_else(|e| panic!("{e}"));
        let report = verify(&case, path).unwrap_or_else(|e| panic!("{e}"));
        let broken = report.groups.iter().filter(|group| !group.worst.holds());
        failures.extend(broken.map(|group| format!("{}, {}: {}", report.case, group.name, group.worst)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn golden_cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let entries = std::fs::read_dir(root).expect("golden/ is part of the repository");
    let mut cases: Vec<_> = entries.map(|e| e.expect("readable").path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    cases
}
