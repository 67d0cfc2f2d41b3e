//! `dif-sr report`

use std::path::PathBuf;

use clap::Args;
use dif_sr::Result;
use dif_sr::report::{GENERATOR, NOTEBOOK_GENERATOR, Run, notebook, page};
use dif_sr::tensors::{make_place, refuse_foreign, replace};
use dif_sr::verdict::{Expectation, Record};
use serde_json::json;

use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folders of finished runs; several are drawn over each other.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// What is expected: its verdict is shown, and its figures as lines.
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The page. A former report or an empty file there is replaced, any other file is not.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    /// Write, instead of the page, the form of the authors' notebooks, logs and all.
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    markdown: Option<PathBuf>,
}

pub fn run(args: &ReportArgs, json: bool) -> Result<Outcome> {
    let (out, generator) = match &args.markdown {
        Some(markdown) => (markdown, NOTEBOOK_GENERATOR),
        None => (&args.out, GENERATOR),
    };
    refuse_foreign(out, "report", generator)?;
    make_place(out)?;
    let runs = args.runs.iter().map(|run| Run::load(run)).collect::<Result<Vec<_>>>()?;
    let records: Vec<Record> = runs.iter().map(|run| run.record.clone()).collect();
    let expectation = args.expect.as_deref().map(Expectation::load).transpose()?;
    let verdict = expectation.as_ref().map(|expectation| expectation.verdict(&records));
    let expected = expectation.as_ref().zip(verdict.as_ref());
    let text = if args.markdown.is_some() { notebook(&runs, expected) } else { page(&runs, expected)? };
    replace(out, text.as_bytes())?;
    let value = json!({ "report": output::place(out), "verdict": verdict });
    output::result(json, &value, || format!("report: {}", out.display()))?;
    // Whether the runs pass is the gate's answer; a report that was written holds.
    Ok(Outcome::Pass)
}
