//! Criterion's saved baselines: whether benchmarks take longer than they did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Finding, Outcome, Row, counted, named, percent, worst};
use crate::{Error, Result};

/// How a second measurement is taken.
const SAVE: &str = "measure twice, with `cargo bench -- --save-baseline once`, then `twice`, and name these";

/// What is compared: `target/criterion`, a baseline saved by `--save-baseline`, and the measurements to judge.
#[derive(Debug, Clone)]
pub struct Bench<'a> {
    /// Criterion's folder.
    pub folder: &'a Path,
    /// The name under which what is expected was saved.
    pub baseline: &'a str,
    /// Names of measurements, `new` for the last one; a second one is what a regression needs to count.
    pub measured: &'a [String],
    /// The share by which a median must grow to be a regression.
    pub regression: f64,
}

/// The part of Criterion's `estimates.json` that is needed: nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Estimate {
    confidence_interval: Interval,
    point_estimate: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// What became of the benchmarks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Benches {
    /// Of those that the baseline and all measurements have; undecided where there is none.
    #[serde(skip)]
    pub finding: Finding,
    /// In the baseline, and not in all measurements: nobody knows what became of them.
    pub missing: Vec<String>,
    /// In a measurement, and not in the baseline: there is nothing to hold them to.
    pub new: Vec<String>,
}

/// Judges every benchmark that the baseline and all measurements have. With one missing the outcome is undecided at best.
///
/// A regression needs two measurements that both lie, with their whole intervals, above the baseline's by the stated share.
///
/// # Errors
/// The baseline `base`; one measurement that is named twice, under one name or two; one of another form.
pub fn judge_benches(bench: &Bench) -> Result<Benches> {
    if bench.baseline == "base" {
        return Err(Error::new("expected a baseline that was saved by its name, found `base`")
            .hint("each `cargo bench` replaces `base` by what it measured: save one with --save-baseline NAME"));
    }
    let names: Vec<&str> = [bench.baseline].into_iter().chain(bench.measured.iter().map(String::as_str)).collect();
    if let Some(twice) = (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
        return Err(
            Error::new(format!("expected measurements of different names, found `{}` twice", names[twice])).hint(SAVE)
        );
    }
    let all = names.iter().map(|name| measurements(bench.folder, name)).collect::<Result<Vec<_>>>()?;
    refuse_copies(&names, &all)?;
    let (baseline, measured) = all.split_first().expect("the baseline is the first");
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    for (id, base) in baseline {
        match measured.iter().map(|all| all.get(id).copied()).collect::<Option<Vec<Estimate>>>() {
            Some(ours) => rows.push(row(id, base, &ours, bench.regression)),
            None => missing.push(id.clone()),
        }
    }
    let new: BTreeSet<&String> =
        measured.iter().flat_map(BTreeMap::keys).filter(|id| !baseline.contains_key(*id)).collect();
    let new: Vec<String> = new.into_iter().cloned().collect();
    Ok(Benches { finding: finding(bench, rows, &missing, &new), missing, new })
}

/// What Criterion measured is found under two names where it was saved under one: `new` is always the last measurement, too.
fn refuse_copies(names: &[&str], all: &[BTreeMap<String, Estimate>]) -> Result<()> {
    for (i, (name, own)) in names.iter().zip(all).enumerate() {
        for (other, others) in names.iter().zip(all).skip(i + 1) {
            if let Some((id, _)) = own.iter().find(|(id, estimate)| others.get(*id) == Some(estimate)) {
                return Err(Error::new(format!(
                    "expected different measurements under `{name}` and `{other}`, found the same one of {id}"
                ))
                .hint(SAVE));
            }
        }
    }
    Ok(())
}

fn finding(bench: &Bench, rows: Vec<Row>, missing: &[String], new: &[String]) -> Finding {
    let list = |what: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("; {what}: {}", names.join(", ")),
    };
    let others = list("not measured again", missing) + &list("new, without a baseline", new);
    let outcome = if missing.is_empty() { worst(&rows) } else { worst(&rows).max(Outcome::Undecided) };
    let measured = bench.measured.join(", ");
    let (size, name) = (percent(bench.regression), bench.baseline);
    let sentence = match (outcome, worst(&rows)) {
        _ if rows.is_empty() => {
            format!("no benchmark in {} has `{name}` and {measured}: none was judged", bench.folder.display())
        }
        (Outcome::Fail, _) => {
            format!(
                "benchmarks grew by more than {size} over `{name}`, twice: {}",
                named(&rows, Outcome::Fail).join(", ")
            )
        }
        (_, Outcome::Undecided) => {
            format!(
                "it is open whether benchmarks grew by {size} over `{name}`: {}; measure once more",
                named(&rows, Outcome::Undecided).join(", ")
            )
        }
        _ => format!("{} did not grow by {size} over `{name}`", counted(rows.len(), "benchmark")),
    };
    let source = format!("Criterion's baseline `{name}`");
    Finding { claim: "benchmarks", source, outcome, sentence: sentence + &others, rows }
}

fn row(id: &str, base: &Estimate, ours: &[Estimate], regression: f64) -> Row {
    let growth = |ours: f64, base: f64| ours / base - 1.0;
    let low = |e: &Estimate| growth(e.confidence_interval.lower_bound, base.confidence_interval.upper_bound);
    let high = |e: &Estimate| growth(e.confidence_interval.upper_bound, base.confidence_interval.lower_bound);
    let outcome = if ours.iter().any(|e| high(e) <= regression) {
        Outcome::Pass
    } else if ours.len() > 1 && ours.iter().all(|e| low(e) > regression) {
        Outcome::Fail
    } else {
        Outcome::Undecided
    };
    // The quickest measurement: what disturbs a machine only slows it down.
    let best = ours.iter().min_by(|a, b| a.point_estimate.total_cmp(&b.point_estimate)).unwrap_or(base);
    let milliseconds = |nanoseconds: f64| nanoseconds / 1e6;
    let expected = milliseconds(base.point_estimate);
    Row {
        name: format!("{id} (ms)"),
        ours: Some(milliseconds(best.point_estimate)),
        expected,
        allowed: expected * regression,
        interval: Some([low(best) * expected, high(best) * expected]),
        outcome,
        one_sided: true,
        decimals: 3,
        ..Row::default()
    }
}

/// The medians of every benchmark that has a measurement of this name, by the folder's name.
fn measurements(folder: &Path, name: &str) -> Result<BTreeMap<String, Estimate>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        let entries = fs::read_dir(&at).map_err(|e| {
            Error::io(&at, "read Criterion's measurements", e).hint("run `cargo bench` first, or name its folder")
        })?;
        for entry in entries {
            let path = entry.map_err(|e| Error::io(&at, "read Criterion's measurements", e))?.path();
            let file = path.join("estimates.json");
            if path.file_name().is_some_and(|own| own == name) && file.is_file() {
                let text = fs::read_to_string(&file).map_err(|e| Error::io(&file, "read a measurement", e))?;
                let estimates: Estimates = serde_json::from_str(&text).map_err(|e| {
                    Error::new(format!("expected Criterion's estimates, found {e}")).at(&file).hint("measure again")
                })?;
                let id = at.strip_prefix(folder).unwrap_or(&at).display().to_string();
                found.insert(id, estimates.median);
            } else if path.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(found)
}
