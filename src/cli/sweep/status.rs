//! `dif-sr sweep status`

use std::path::PathBuf;

use clap::Args;
use dif_sr::Result;
use dif_sr::sweep::{Missing, State, SweepFolder, Task};
use serde_json::{Value, json};

use super::super::{Outcome, output};

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The folder of the sweep.
    #[arg(value_name = "DIR")]
    sweep: PathBuf,
}

const STATES: [&str; 5] = ["done", "running", "interrupted", "failed", "waiting"];

pub fn run(args: &StatusArgs, json: bool) -> Result<Outcome> {
    let folder = SweepFolder::open(&args.sweep)?;
    let groups = folder
        .groups()
        .into_iter()
        .map(|(name, tasks)| (name, tasks.into_iter().map(|task| (task, folder.state(task))).collect::<Vec<_>>()));
    let groups: Vec<_> = groups.collect();
    let all = || groups.iter().flat_map(|(_, tasks)| tasks);
    if json {
        let task = |(task, state): &(&Task, State)| {
            let mut object = json!(Missing { task: (*task).clone(), state: state.clone() });
            object["run"] = output::place(&folder.run(task)).into();
            object
        };
        output::print_json(&all().map(task).collect::<Vec<Value>>())?;
        return Ok(Outcome::Pass);
    }
    let mut rows = vec![[&["group"], &STATES[..]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for (name, tasks) in &groups {
        let count = |word: &&str| tasks.iter().filter(|(_, state)| state.word() == *word).count().to_string();
        rows.push(std::iter::once((*name).to_owned()).chain(STATES.iter().map(count)).collect());
    }
    let told = all().filter(|(_, state)| matches!(state, State::Running | State::Interrupted | State::Failed { .. }));
    let told = told.map(|(task, state)| format!("{}: {}", task.in_words(), state.in_words()));
    let done = all().filter(|(_, state)| *state == State::Done).count();
    let lines = [vec![output::table(&rows) + "\n"], told.collect(), vec![super::done_in_words(&folder, done)]].concat();
    output::print(&lines.join("\n"))?;
    Ok(Outcome::Pass)
}
