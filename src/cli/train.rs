//! `dif-sr train`

use dif_sr::Result;
use dif_sr::config::RunConfig;
use dif_sr::train::{Prepared, RunFolder, RunResult, run as train};

use serde_json::json;

use super::progress::Progress;
use super::{Outcome, TrainArgs, output};

pub fn run(args: TrainArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let config = args.config_args.load(overrides)?;
    // All that can be wrong with the input is found out before a folder is made.
    let prepared = Prepared::new(&config)?;
    let mut folder = RunFolder::create(args.out, &config)?;
    let result = train(&config, &prepared, &mut folder, &mut Progress::new(config.run.show_progress))?;
    if json {
        output::print_json(&json!({ "run": folder.path(), "result": result }))?;
    } else {
        output::print(&summary(&config, &folder, &result))?;
    }
    Ok(Outcome::Holds)
}

/// The result for a reader.
fn summary(config: &RunConfig, folder: &RunFolder, result: &RunResult) -> String {
    let mut columns: Vec<_> = result.best_valid.iter().map(|valid| ("valid", valid)).collect();
    columns.extend(output::columns("test", &result.test));
    format!(
        "{} on {}: best epoch {} of {}\n\n{}\n\nrun folder: {}",
        result.model,
        result.dataset,
        result.best_epoch,
        result.epochs,
        output::metrics_table(&columns, config.eval.metric_decimal_place),
        folder.path().display()
    )
}
