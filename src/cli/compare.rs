//! `dif-sr compare`

use std::path::PathBuf;

use clap::Args;
use dif_sr::Result;
use dif_sr::verdict::{Record, compare};
use serde_json::json;

use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Run folders, or records of runs: seeds of one configuration.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The runs that these are compared with: seeds of one configuration, on the same targets.
    #[arg(long, required = true, value_name = "RUN", num_args = 1..)]
    with: Vec<PathBuf>,
}

pub fn run(args: &CompareArgs, json: bool) -> Result<Outcome> {
    let [runs, others] =
        [&args.runs, &args.with].map(|side| side.iter().map(|run| Record::load(run)).collect::<Result<Vec<_>>>());
    let comparison = compare(&runs?, &others?)?;
    let [runs, with] =
        [&args.runs, &args.with].map(|side| side.iter().map(|run| output::place(run)).collect::<Vec<_>>());
    output::result(json, &json!({ "runs": runs, "with": with, "comparison": comparison }), || {
        format!(
            "{}\n\ntest of {} less that of {}, over {}; ± is the standard error over users{}",
            output::table(&comparison.table()),
            output::counted(comparison.runs, "run"),
            output::counted(comparison.other_runs, "other run"),
            output::counted(comparison.users, "user"),
            if comparison.runs + comparison.other_runs > 2 { ", the 95% interval holds seeds too" } else { "" },
        )
    })?;
    Ok(Outcome::Pass)
}
