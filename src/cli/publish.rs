//! `dif-sr publish`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use dif_sr::report::{File, published};
use dif_sr::tensors::replace;
use dif_sr::{Error, Result};
use serde_json::json;

use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The folder of the records, with its README.md.
    #[arg(value_name = "DIR", default_value = "records")]
    records: PathBuf,
    /// Write nothing, and say which files are not what would be written.
    #[arg(long)]
    check: bool,
}

pub fn run(args: &PublishArgs, json: bool) -> Result<Outcome> {
    let files = published(&args.records)?;
    let stale: Vec<&File> = files.iter().filter(|file| !file.is_written()).collect();
    if !args.check {
        stale.iter().try_for_each(|file| write(file))?;
    }
    let stale: Vec<String> = stale.iter().map(|file| output::place(&file.path)).collect();
    output::result(json, &json!({ "changed": stale, "files": files.len() }), || {
        let done = if args.check { "not as the records say" } else { "written" };
        let lines: Vec<String> = stale.iter().map(|path| format!("{done}: {path}")).collect();
        let all = format!("{} as the records say", output::counted(files.len() - stale.len(), "file"));
        [lines, vec![all]].concat().join("\n")
    })?;
    Ok(if args.check && !stale.is_empty() { Outcome::Fail } else { Outcome::Pass })
}

fn write(file: &File) -> Result<()> {
    let folder = file.path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "make the folder", e))?;
    replace(&file.path, file.text.as_bytes())
}
