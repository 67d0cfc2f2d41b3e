//! `dif-sr sweep plan`

use std::path::PathBuf;

use clap::Args;
use dif_sr::Result;
use dif_sr::sweep::{Planned, Sweep, SweepFolder};
use serde_json::json;

use super::super::{Outcome, output};

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The sweep: seeds × configurations × data sets (docs/sweeps.md).
    #[arg(value_name = "FILE")]
    sweep: PathBuf,
    /// The folder of the sweep: new, empty, or one that was planned before.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(args: &PlanArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let sweep = Sweep::load(&args.sweep, overrides)?;
    let (folder, planned) = SweepFolder::plan(&args.out, &sweep)?;
    let place = output::place(&args.out);
    let n = folder.tasks().count();
    if json {
        let groups: Vec<&str> = sweep.groups.iter().map(|group| group.name.as_str()).collect();
        let Planned { new, dropped, restated } = planned;
        output::print_json(&json!({
            "sweep": place, "runs": n, "new": new, "dropped": dropped, "restated": restated, "groups": groups,
        }))?;
        return Ok(Outcome::Pass);
    }
    let mut rows = vec![["group", "seeds", "expected"].map(str::to_owned).to_vec()];
    for group in &sweep.groups {
        let expected = group.expect.as_ref().map_or("nothing".to_owned(), |file| output::place(file));
        rows.push(vec![group.name.clone(), sweep.seeds.len().to_string(), expected]);
    }
    let changed = [(planned.new, "new"), (planned.dropped, "dropped, which stay as they are")];
    let changed: Vec<String> = changed.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let changed = if changed.is_empty() { "as before".to_owned() } else { changed.join(", ") };
    let restated = match planned.restated {
        0 => String::new(),
        n => format!("\n{} with runs held to another expectation than before, or to none", output::counted(n, "group")),
    };
    output::print(&format!(
        "{}\n\n{} in {place}: {changed}{restated}\nrun them with `dif-sr sweep run {place}`",
        output::table(&rows),
        output::counted(n, "run"),
    ))?;
    Ok(Outcome::Pass)
}
