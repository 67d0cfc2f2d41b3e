//! `dif-sr verify`

use std::path::{Path, PathBuf};

use dif_sr::config::ComputePath;
use dif_sr::device::gpu;
use dif_sr::golden::{AgainstReport, Case, CaseReport, Dump, Group, against, verify};
use dif_sr::{Error, Result};
use tch::Device;

use super::{Outcome, VerifyArgs, output};

pub fn run(args: &VerifyArgs, json: bool) -> Result<Outcome> {
    // A glob over golden/ names its JSON files and README too.
    let folders: Vec<&PathBuf> = args.cases.iter().filter(|path| !path.is_file()).collect();
    if folders.is_empty() {
        return Err(Error::new("expected folders with config.yaml and tensors.safetensors, found files alone")
            .hint("try `dif-sr verify golden/*`"));
    }
    // Small tensors: more threads cost more than they give, and one thread rounds alike everywhere.
    tch::set_num_threads(1);
    if let Some(dump) = &args.against {
        return match folders[..] {
            [case] => run_against(dump, case, json),
            _ => Err(Error::new(format!("expected one case beside --against, found {}", folders.len()))
                .hint("name the case that the dump was computed on")),
        };
    }
    let path = if args.fast { ComputePath::Fast } else { ComputePath::Reference };
    let device = if args.gpu { gpu(0)? } else { Device::Cpu };
    let (mut reports, mut unreadable) = (Vec::new(), Vec::new());
    for folder in folders {
        match Case::load(folder).and_then(|case| verify(&case, path, device)) {
            Ok(report) => {
                if !json {
                    output::print(&text(&report))?;
                }
                reports.push(report);
            }
            // The others are judged all the same; the command ends with what could not be read.
            Err(error) => unreadable.push(error),
        }
    }
    let failed: Vec<&str> = reports.iter().filter(|r| !r.holds()).map(|r| r.case.as_str()).collect();
    let cases = output::counted(reports.len(), "case");
    if reports.is_empty() {
        // Not one could be read, which the error says.
    } else if json {
        output::print_json(&reports)?;
    } else if failed.is_empty() {
        output::print(&format!("pass: {cases} within tolerance"))?;
    } else {
        output::print(&format!("FAIL: {} of {cases}: {}", failed.len(), failed.join(", ")))?;
    }
    let others = unreadable.len().saturating_sub(1);
    if let Some(error) = unreadable.into_iter().next() {
        return Err(match others {
            0 => error,
            n => error.and(&format!(" ({} more could not be held either)", output::counted(n, "case"))),
        });
    }
    Ok(if failed.is_empty() { Outcome::Holds } else { Outcome::DoesNotHold })
}

fn run_against(dump: &Path, case: &Path, json: bool) -> Result<Outcome> {
    let report = against(&Case::load(case)?, &Dump::read(dump)?)?;
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&text_against(&report))?;
    }
    Ok(if report.holds { Outcome::Holds } else { Outcome::DoesNotHold })
}

/// A line for each stage: how many tensors, and the largest error beside what is allowed.
fn text(report: &CaseReport) -> String {
    format!("{}\n{}\n", report.case, stages(&report.groups, |group| format!("FAIL {}", group.worst)))
}

/// The stages, what was not compared, and the first departure.
fn text_against(report: &AgainstReport) -> String {
    let mut lines = vec![format!("{}, held to {} in {}", report.dump.display(), report.case, report.precision)];
    lines.push(stages(&report.stages, |_| "departs".to_owned()));
    let listed = |what: &str, names: Vec<String>| {
        if names.is_empty() { None } else { Some(format!("  {what}: {}", names.join(", "))) }
    };
    lines.extend(listed("not in the dump", report.not_dumped.iter().map(ToString::to_string).collect()));
    lines.extend(listed("not in the case, passed over", report.unknown.clone()));
    lines.push(match &report.departure {
        Some(departure) => format!("\n{departure}"),
        None => "\npass: every tensor of the dump is within tolerance".to_owned(),
    });
    lines.join("\n")
}

fn stages(groups: &[Group], broken: impl Fn(&Group) -> String) -> String {
    let mut rows = vec![["  stage", "tensors", "error", "allowed", "verdict"].map(str::to_owned).into()];
    for group in groups {
        let (error, allowed) = group.worst.error_and_bound();
        let verdict = if group.worst.holds() { "pass".to_owned() } else { broken(group) };
        let numbers = [group.tensors.to_string(), format!("{error:.1e}"), format!("{allowed:.1e}"), verdict];
        rows.push([vec![format!("  {}", group.name)], numbers.into()].concat());
    }
    output::table(&rows)
}
