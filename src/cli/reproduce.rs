//! `dif-sr reproduce`

use std::path::{Path, PathBuf};

use dif_sr::config::RunConfig;
use dif_sr::report::{Run, page};
use dif_sr::tensors::replace;
use dif_sr::train::{Prepared, RunFolder, run as train};
use dif_sr::verdict::{Expectation, Record};
use dif_sr::{Error, Result};
use serde_json::json;

use super::progress::Progress;
use super::{Outcome, ReproduceArgs, output, verdict};

/// What is reproduced where nothing is named.
const DEFAULT: &str = "configs/ml-100k.yaml";

pub fn run(args: ReproduceArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let mut files = args.config_args.files()?;
    if let Some(config) = args.config {
        files.insert(0, config);
    }
    if files.is_empty() {
        files.push(PathBuf::from(DEFAULT));
    }
    if let Some(missing) = files.iter().find(|file| !file.is_file()) {
        return Err(Error::new("expected a RecBole YAML file, found none")
            .at(missing)
            .hint("run it in the repository, or name a CONFIG"));
    }
    let config = RunConfig::load(&files, &args.config_args.overrides(overrides))?;
    // The last file wins over the others, so that what is expected stands beside it.
    let expectation = Expectation::load(&args.expect.unwrap_or_else(|| beside(&files[files.len() - 1])))?;
    expectation.check(&config.eval)?;
    // All that can be wrong with the input is found out before a folder is made.
    let prepared = Prepared::new(&config)?;
    let mut folder = RunFolder::create(args.out, &config)?;
    let result = train(&config, &prepared, &mut folder, &mut Progress::new(config.run.show_progress))?;
    let verdict = expectation.judge(&[Record::load(folder.path())?])?;
    folder.write_json("verdict.json", &verdict)?;
    let page = page(&[Run::load(folder.path())?], Some((&expectation, &verdict)))?;
    replace(&folder.path().join("report.html"), page.as_bytes())?;
    if json {
        output::print_json(&json!({ "run": folder.path(), "verdict": verdict, "result": result }))?;
    } else {
        output::print(&format!("{}\n\nrun folder: {}", verdict::text(&verdict), folder.path().display()))?;
    }
    Ok(verdict.outcome.into())
}

/// `configs/expectations/x.yaml` for `configs/x.yaml`.
fn beside(config: &Path) -> PathBuf {
    let folder = config.parent().unwrap_or(Path::new(""));
    folder.join("expectations").join(config.file_name().unwrap_or_default())
}
