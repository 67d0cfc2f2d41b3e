//! `dif-sr record`

use std::path::PathBuf;

use clap::Args;
use dif_sr::Result;
use dif_sr::verdict::Record;

use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Folders of finished runs.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Where the records go, one file a seed; a record that is there is never overwritten.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

pub fn run(args: &RecordArgs, json: bool) -> Result<Outcome> {
    // All are read before the first is written.
    let records = args.runs.iter().map(|run| Record::load(run)).collect::<Result<Vec<_>>>()?;
    let paths = Record::write_all(&records, &args.into)?;
    output::result(json, &paths, || {
        let lines: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        lines.join("\n")
    })?;
    Ok(Outcome::Pass)
}
