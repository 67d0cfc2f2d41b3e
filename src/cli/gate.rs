//! `dif-sr gate`

use std::path::PathBuf;

use clap::Args;
use dif_sr::tensors::{make_place, refuse_foreign, replace};
use dif_sr::verdict::{Bench, Benches, Expectation, Record, Verdict, judge_benches};
use dif_sr::{Error, Result};
use serde_json::json;

use super::{Outcome, output, verdict};

#[derive(Debug, Args)]
pub struct GateArgs {
    /// Run folders, or records of runs; several are judged together, as several seeds of one thing.
    #[arg(value_name = "RUN", requires = "expect")]
    runs: Vec<PathBuf>,
    /// What is expected (docs/verdict.md).
    #[arg(long, value_name = "FILE", requires = "runs")]
    expect: Option<PathBuf>,
    /// Write the verdict as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the verdict as Markdown, for a job summary.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Criterion's folder, to judge benchmarks too: target/criterion.
    #[arg(long, value_name = "DIR", requires = "baseline")]
    criterion: Option<PathBuf>,
    /// The baseline to judge benchmarks by, saved by `cargo bench -- --save-baseline NAME`.
    #[arg(long, value_name = "NAME", requires = "criterion")]
    baseline: Option<String>,
    /// The measurements to judge; a regression must show in two to count: --measured once twice.
    #[arg(long, value_name = "NAME", default_value = "new", num_args = 1.., requires = "criterion")]
    measured: Vec<String>,
    /// The share by which a benchmark must grow to be a regression.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, requires = "criterion", allow_negative_numbers = true)]
    regression: f64,
}

pub fn run(args: &GateArgs, json: bool) -> Result<Outcome> {
    args.junit.iter().try_for_each(|path| refuse_foreign(path, "verdict", Verdict::JUNIT_GENERATOR))?;
    args.markdown.iter().try_for_each(|path| refuse_foreign(path, "verdict", Verdict::MARKDOWN_GENERATOR))?;
    // A verdict after hours shall find a place.
    let mut places = args.junit.iter().chain(&args.markdown);
    let judged = places.try_for_each(|path| make_place(path)).and_then(|()| judge(args));
    // What could not be judged must not leave a former verdict behind.
    let [junit, markdown] = match &judged {
        Ok((verdict, _)) => [verdict.junit(), verdict.markdown()],
        Err(refusal) => [Verdict::junit_of(refusal), Verdict::markdown_of(refusal)],
    };
    let write = |path: &Option<PathBuf>, text: &str| path.iter().try_for_each(|path| replace(path, text.as_bytes()));
    let written = [write(&args.junit, &junit), write(&args.markdown, &markdown)];
    let (verdict, benches) = judged?;
    if json {
        let runs: Vec<String> = args.runs.iter().map(|run| output::place(run)).collect();
        let mut object = json!({ "runs": runs, "verdict": verdict });
        if let Some(benches) = benches {
            object["benchmarks"] = json!(benches);
        }
        output::print_json(&object)?;
    } else {
        output::print(&verdict::text(&verdict))?;
    }
    written.into_iter().collect::<Result<()>>()?;
    Ok(verdict.outcome)
}

/// The verdict, and beside it which benchmarks were not judged.
fn judge(args: &GateArgs) -> Result<(Verdict, Option<Benches>)> {
    if args.expect.is_none() && args.criterion.is_none() {
        return Err(Error::new("expected something to judge, found nothing")
            .hint("name runs with RUN... --expect FILE, benchmarks with --criterion DIR, or both"));
    }
    let (mut findings, mut notes) = (Vec::new(), Vec::new());
    if let Some(path) = &args.expect {
        let expectation = Expectation::load(path)?;
        let runs = args.runs.iter().map(|run| Record::load(run)).collect::<Result<Vec<_>>>()?;
        let Verdict { findings: found, notes: noted, .. } = expectation.judge(&runs)?;
        findings.extend(found);
        notes.extend(noted);
    }
    let (Some(folder), Some(baseline)) = (&args.criterion, &args.baseline) else {
        return Ok((Verdict::of(findings, notes), None));
    };
    if !(args.regression > 0.0 && args.regression.is_finite()) {
        let problem = format!("expected a share above 0 after --regression, found {}", args.regression);
        return Err(Error::new(problem).hint("write 0.1 for 10 %"));
    }
    let GateArgs { measured, regression, .. } = args;
    let benches = judge_benches(&Bench { folder, baseline, measured, regression: *regression })?;
    findings.push(benches.finding.clone());
    Ok((Verdict::of(findings, notes), Some(benches)))
}
