//! `dif-sr verify`

use std::path::{Path, PathBuf};

use clap::Args;
use dif_sr::config::ComputePath;
use dif_sr::device::gpu;
use dif_sr::golden::{Case, CaseReport, judge_of, verify};
use dif_sr::{Error, Result};
use judge::{Dump, Judge, Report};
use tch::{Device, Kind};

use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Folders in the golden case format, or names of cases that come with the program, such as `gate`; files among them
    /// are passed over.
    #[arg(required = true, value_name = "CASE")]
    cases: Vec<PathBuf>,
    /// Another implementation's dump of the one CASE: safetensors, keys of docs/verify.md, float64 or float32.
    #[arg(long, value_name = "DUMP")]
    against: Option<PathBuf>,
    /// What the dump must hold: stages, with commas between them [default: scores,losses,gradients,optimizer_steps].
    #[arg(long, value_name = "STAGES", requires = "against", value_delimiter = ',')]
    require: Option<Vec<String>>,
    /// A deliberate deviation, reported and not held against the dump: a fault, a stage or a key, and the reason.
    #[arg(long, value_name = "NAME=REASON", requires = "against")]
    accept: Vec<String>,
    /// Hold the fast path to the cases instead of the reference path: the CPU's in float32, with --gpu the GPU's.
    #[arg(long, conflicts_with = "against")]
    fast: bool,
    /// Compute on the first GPU.
    #[arg(long, conflicts_with = "against")]
    gpu: bool,
}

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
            [case] => run_against(dump, case, args, json),
            _ => Err(Error::new(format!("expected one case beside --against, found {}", folders.len()))
                .hint("name the case that the dump was computed on")),
        };
    }
    let path = if args.fast { ComputePath::Fast } else { ComputePath::Reference };
    let device = if args.gpu { gpu(0)? } else { Device::Cpu };
    let (mut reports, mut unreadable) = (Vec::new(), Vec::new());
    for folder in folders {
        match load(folder).and_then(|case| verify(&case, path, device)) {
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
    Ok(if failed.is_empty() { Outcome::Pass } else { Outcome::Fail })
}

fn run_against(dump: &Path, case: &Path, args: &VerifyArgs, json: bool) -> Result<Outcome> {
    let dump = Dump::read(dump)?;
    match bundled(case)? {
        Some(name) => {
            let case = judge::Case::bundled(name)?;
            told(&asked(Judge::of(&case), args)?.judge(&dump)?, json)
        }
        None => {
            let case = Case::load(case)?;
            told(&asked(judge_of(&case, Kind::Double), args)?.judge(&dump)?, json)
        }
    }
}

/// The name of a case that comes with the program: a name alone, where nothing is called so.
///
/// # Errors
/// Such a name, of no case; a run folder.
fn bundled(case: &Path) -> Result<Option<&str>> {
    if case.join("environment.json").exists() {
        return Err(Error::new("expected a folder with a case, found that of a run")
            .at(case)
            .hint("use `dif-sr evaluate` for its model, or `dif-sr gate` for its figures"));
    }
    let name = case.to_str().filter(|_| !case.exists() && case.components().count() == 1);
    match name.filter(|name| judge::Case::names().all(|known| known != *name)) {
        Some(name) => Err(Error::new(format!("expected a folder or a bundled case, found `{name}`"))
            .hint(format!("the bundled ones are {}", judge::Case::names().collect::<Vec<_>>().join(", ")))),
        None => Ok(name),
    }
}

fn load(case: &Path) -> Result<Case> {
    let Some(name) = bundled(case)? else { return Case::load(case) };
    let (config, tensors) = judge::Case::bundled_files(name)?;
    Case::parse(case, config, tensors)
}

/// The judge with what `--require` and `--accept` say.
fn asked<'a>(mut judge: Judge<'a>, args: &VerifyArgs) -> Result<Judge<'a>> {
    if let Some(stages) = &args.require {
        judge = judge.require(stages)?;
    }
    for deviation in &args.accept {
        let (name, reason) = deviation.split_once('=').unwrap_or((deviation, ""));
        judge = judge.accept(name, reason)?;
    }
    Ok(judge)
}

fn told(report: &Report, json: bool) -> Result<Outcome> {
    output::result(json, report, || report.to_string())?;
    Ok(if report.holds() { Outcome::Pass } else { Outcome::Fail })
}

/// A line for each stage: how many tensors, and the largest error beside what is allowed.
fn text(report: &CaseReport) -> String {
    let verdict = |group: &judge::Group| match group.holds() {
        true => "pass".to_owned(),
        false => format!("FAIL {}", group.worst),
    };
    format!("{}\n{}\n", report.case, output::table(&judge::stage_rows(&report.groups, verdict)))
}
