//! `dif-sr reproduce`

use std::path::{Path, PathBuf};

use dif_sr::config::RunConfig;
use dif_sr::ranks::Ranks;
use dif_sr::report::{Run, page};
use dif_sr::tensors::replace;
use dif_sr::verdict::{Expectation, Record};
use dif_sr::{Error, Result};
use serde_json::json;

use super::training::Training;
use super::watch::Watch;
use super::{Outcome, ReproduceArgs, output, ranks, verdict};

/// What is reproduced where nothing is named.
const DEFAULT: &str = "configs/ml-100k.yaml";
/// What is expected, in the run folder.
const EXPECTATION: &str = "expectation.yaml";

pub fn run(args: ReproduceArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let ranks = ranks::alone()?;
    let (mut training, expectation) = match &args.resume {
        Some(run) => resume(run, &args, overrides, &ranks)?,
        None => begin(args, overrides, &ranks)?,
    };
    // Before hours are spent, and beside the verdict once more.
    let other_copy = training.other_copy();
    if let Some(sentence) = &other_copy {
        output::note(sentence);
    }
    let mut watch = Watch::short(&training.config, expectation.golden_run(&training.config).cloned());
    watch.introduce(&format!("{}\nexpected: {}", training.in_words(), expectation.in_words()));
    let result = training.run(watch)?;
    let folder = &training.folder;
    folder.finish(&result)?;
    let record = Record::load(folder.path())?;
    let mut verdict = expectation.verdict(std::slice::from_ref(&record));
    verdict.notes.extend(other_copy);
    verdict.notes.extend(expectation.equal_losses(&record, folder.path())?);
    folder.write_json("verdict.json", &verdict)?;
    let page = page(&[Run::load(folder.path())?], Some((&expectation, &verdict)))?;
    replace(&folder.path().join("report.html"), page.as_bytes())?;
    let value = json!({ "run": output::place(folder.path()), "verdict": verdict, "result": result });
    output::result(json, &value, || format!("{}\n\nrun folder: {}", verdict::text(&verdict), folder.path().display()))?;
    Ok(verdict.outcome)
}

/// A new run, whose folder keeps what is expected of it.
fn begin(args: ReproduceArgs, overrides: &[(String, String)], ranks: &Ranks) -> Result<(Training, Expectation)> {
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
    let path = args.expect.unwrap_or_else(|| beside(&files[files.len() - 1]));
    let expectation = Expectation::load(&path)?;
    expectation.check(&config)?;
    let expected = Expectation::text_for_elsewhere(&path)?;
    let training = Training::begin(config, args.out, ranks)?;
    replace(&training.folder.path().join(EXPECTATION), expected.as_bytes())?;
    Ok((training, expectation))
}

fn resume(
    run: &Path,
    args: &ReproduceArgs,
    overrides: &[(String, String)],
    ranks: &Ranks,
) -> Result<(Training, Expectation)> {
    let path = args.expect.clone().unwrap_or_else(|| run.join(EXPECTATION));
    // Of a finished run another sentence speaks.
    if run.is_dir() && !path.is_file() && !run.join("result.json").exists() {
        return Err(Error::new("expected what the run was to be held to, found no such file")
            .at(path)
            .hint("name it with --expect, or go on with `dif-sr train --resume`"));
    }
    let training = Training::resume(run, &args.config_args, overrides, ranks)?;
    let expectation = Expectation::load(&path)?;
    expectation.check(&training.config)?;
    Ok((training, expectation))
}

/// `configs/expectations/x.yaml` for `configs/x.yaml`.
fn beside(config: &Path) -> PathBuf {
    let folder = config.parent().unwrap_or(Path::new(""));
    folder.join("expectations").join(config.file_name().unwrap_or_default())
}
