//! `dif-sr sweep gather`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use dif_sr::report::{Run, page, sweep_page, sweep_table};
use dif_sr::sweep::{GroupSummary, Missing, State, Summary, SweepFolder};
use dif_sr::tensors::{replace, replace_json};
use dif_sr::verdict::Record;
use dif_sr::{Error, Result};

use super::super::{Outcome, output};

#[derive(Debug, Args)]
pub struct GatherArgs {
    /// The folder of the sweep.
    #[arg(value_name = "DIR")]
    sweep: PathBuf,
}

pub fn run(args: &GatherArgs, json: bool) -> Result<Outcome> {
    let folder = SweepFolder::open(&args.sweep)?;
    let _lock = folder.lock()?;
    let summary = Summary::of(&folder)?;
    summary.groups.iter().try_for_each(|group| write(&folder, group))?;
    let name = fs::canonicalize(folder.path()).map_err(|e| Error::io(folder.path(), "find the folder", e))?;
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let report = folder.path().join("report.html");
    replace(&report, sweep_page(&name, &summary).as_bytes())?;
    replace_json(&folder.path().join("summary.json"), &summary)?;
    output::result(json, &summary, || text(&summary, &report))?;
    if !summary.missing.is_empty() {
        return Err(missing(&summary, folder.path()));
    }
    Ok(summary.outcome().unwrap_or(Outcome::Pass))
}

/// The table, what each verdict says, and where the page is.
fn text(summary: &Summary, report: &Path) -> String {
    let verdicts = summary.groups.iter().filter_map(|group| Some((group, group.verdict.as_ref()?)));
    let verdicts = verdicts.flat_map(|(group, verdict)| {
        let notes = verdict.notes.iter().map(|note| format!("  note: {note}"));
        std::iter::once(format!("{}: {}", group.group, verdict.sentence)).chain(notes).collect::<Vec<_>>()
    });
    let verdicts: String = verdicts.map(|line| line + "\n").collect();
    let gap = if verdicts.is_empty() { "" } else { "\n" };
    format!("{}\n\n{verdicts}{gap}report: {}", output::table(&sweep_table(summary)), report.display())
}

/// `2 of 12 runs are missing: 1 failed, 1 waiting`.
fn missing(summary: &Summary, folder: &Path) -> Error {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for Missing { state, .. } in &summary.missing {
        match counts.iter_mut().find(|(word, _)| *word == state.word()) {
            Some((_, n)) => *n += 1,
            None => counts.push((state.word(), 1)),
        }
    }
    let counts: Vec<String> = counts.into_iter().map(|(word, n)| format!("{n} {word}")).collect();
    let (planned, _) = summary.counts();
    let first = summary.missing.iter().find_map(|Missing { task, state }| match state {
        State::Failed { .. } => Some(format!(" ({}, {})", task.in_words(), state.in_words())),
        _ => None,
    });
    let first = first.unwrap_or_default();
    let problem = format!("{} of {planned} runs are missing: {}{first}", summary.missing.len(), counts.join(", "));
    Error::new(problem).at(folder).hint("run them with `dif-sr sweep run`, then gather once more")
}

/// The records of a group's finished runs, its page, and its verdict, of which no former one is left.
fn write(folder: &SweepFolder, group: &GroupSummary) -> Result<()> {
    let place = folder.group(&group.group);
    group.records.iter().try_for_each(|record| keep(record, &place.join("records")))?;
    let verdict = place.join("verdict.json");
    match &group.verdict {
        Some(found) => replace_json(&verdict, found)?,
        None if verdict.exists() => {
            fs::remove_file(&verdict).map_err(|e| Error::io(&verdict, "remove the former verdict", e))?;
        }
        None => {}
    }
    if group.runs.is_empty() {
        return Ok(());
    }
    let runs = group.runs.iter().map(|run| Run::load(run)).collect::<Result<Vec<_>>>()?;
    let expectation = folder.expectation(&group.group)?;
    let page = page(&runs, expectation.as_ref().zip(group.verdict.as_ref()))?;
    replace(&place.join("report.html"), page.as_bytes())
}

/// Writes a record, or finds it written.
fn keep(record: &Record, folder: &Path) -> Result<()> {
    let path = folder.join(format!("{}.json", record.seed));
    if !path.exists() {
        return record.write(folder).map(drop);
    }
    let written = Record::load(&path)?;
    if written == (Record { path: path.clone(), ..record.clone() }) {
        return Ok(());
    }
    Err(Error::new(format!("expected the record of {}, found that of another run", record.path.display()))
        .at(path)
        .hint("remove it if the run was made anew, or put the run back"))
}
