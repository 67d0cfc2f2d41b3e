//! `dif-sr verify`

use std::path::PathBuf;

use dif_sr::golden::{Case, CaseReport, verify};
use dif_sr::{Error, Result};

use super::{Outcome, output};

pub fn run(paths: &[PathBuf], json: bool) -> Result<Outcome> {
    // A glob over golden/ names its JSON files and README too.
    let folders: Vec<&PathBuf> = paths.iter().filter(|path| !path.is_file()).collect();
    if folders.is_empty() {
        return Err(Error::new("expected folders with config.yaml and tensors.safetensors, found files alone")
            .hint("try `dif-sr verify golden/*`"));
    }
    // Small tensors: more threads cost more than they give, and one thread rounds alike everywhere.
    tch::set_num_threads(1);
    let mut reports = Vec::new();
    for folder in folders {
        let report = verify(&Case::load(folder)?)?;
        if !json {
            output::print(&text(&report))?;
        }
        reports.push(report);
    }
    let failed: Vec<&str> = reports.iter().filter(|r| !r.holds()).map(|r| r.case.as_str()).collect();
    if json {
        output::print_json(&reports)?;
    } else if failed.is_empty() {
        output::print(&format!("pass: {} cases are within tolerance", reports.len()))?;
    } else {
        output::print(&format!("FAIL: {} of {} cases: {}", failed.len(), reports.len(), failed.join(", ")))?;
    }
    Ok(if failed.is_empty() { Outcome::Holds } else { Outcome::DoesNotHold })
}

/// A line for each group: how many tensors, and the largest error beside what is allowed.
fn text(report: &CaseReport) -> String {
    let mut rows = vec![];
    for group in &report.groups {
        let verdict = if group.worst.holds() { "pass".to_owned() } else { format!("FAIL {}", group.worst) };
        let (error, allowed) = group.worst.error_and_bound();
        let numbers = [format!("{error:.1e}"), "of".to_owned(), format!("{allowed:.1e}")];
        let mut row = vec![format!("  {}", group.name), group.tensors.to_string()];
        row.extend(numbers);
        row.push(verdict);
        rows.push(row);
    }
    format!("{}\n{}\n", report.case, output::table(&rows))
}
