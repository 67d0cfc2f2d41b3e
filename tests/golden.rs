//! The model is the authors' model: every tensor of every golden case, within the golden README's tolerances.

mod common;

use std::path::PathBuf;

use dif_sr::config::ComputePath;
use dif_sr::golden::{Case, CaseReport, verify, verify_lean};
use tch::Device;

#[test]
fn every_golden_case_holds_on_the_reference_path() {
    every_case_holds(&golden_cases(), ComputePath::Reference);
}

#[test]
fn every_golden_case_holds_on_the_fast_path() {
    every_case_holds(&golden_cases(), ComputePath::Fast);
}

#[test]
fn every_case_of_the_baselines_holds_on_the_reference_path() {
    every_case_holds(&baseline_cases(), ComputePath::Reference);
}

#[test]
fn every_case_of_the_baselines_holds_on_the_fast_path() {
    every_case_holds(&baseline_cases(), ComputePath::Fast);
}

/// The fast path of GPUs, in float64 on the CPU: to the reference path's tolerances.
#[test]
fn every_case_holds_on_the_lean_program() {
    let cases = [golden_cases(), baseline_cases()].concat();
    hold(&cases, |case| verify_lean(case, Device::Cpu));
}

fn every_case_holds(cases: &[PathBuf], path: ComputePath) {
    hold(cases, |case| verify(case, path, Device::Cpu));
}

fn hold(cases: &[PathBuf], verify: impl Fn(&Case) -> dif_sr::Result<CaseReport>) {
    tch::set_num_threads(1); // the tensors are too small for more
    let mut failures = Vec::new();
    for folder in cases {
        let case = Case::load(folder).unwrap_or_else(|e| panic!("{e}"));
        let report = verify(&case).unwrap_or_else(|e| panic!("{e}"));
        let broken = report.groups.iter().filter(|group| !group.holds());
        failures.extend(broken.map(|group| format!("{}, {}: {}", report.case, group.name, group.worst)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn golden_cases() -> Vec<PathBuf> {
    let cases = common::folders("golden");
    assert_eq!(cases.len(), 15, "the golden README hands over 15 model cases");
    cases
}

/// What RecBole's own classes compute.
fn baseline_cases() -> Vec<PathBuf> {
    let cases = common::folders("fixtures/baselines");
    assert_eq!(cases.len(), 5, "fixtures/baselines/README.md lists 5 model cases");
    cases
}
