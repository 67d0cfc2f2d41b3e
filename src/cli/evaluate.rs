//! `dif-sr evaluate`

use dif_sr::Result;
use dif_sr::data::Dataset;
use dif_sr::data::split::split;
use dif_sr::ranks::Ranks;
use dif_sr::train::{Checkpoint, evaluate_rows, set_up};
use serde_json::json;

use super::progress::Progress;
use super::{EvaluateArgs, Outcome, output};

pub fn run(args: EvaluateArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let path = output::checkpoint(&args.run)?;
    let mut checkpoint = Checkpoint::load(&path)?;
    let overrides = args.config_args.overrides(overrides);
    let config = checkpoint.config.changed(&args.config_args.files()?, &overrides)?;
    checkpoint.check_model(&path, &config)?;
    let device = set_up(&config)?;
    let dataset = Dataset::load(&config.data)?;
    checkpoint.check_dataset(&path, &dataset)?;
    let splits = split(&dataset, &config.data)?;

    let model = &mut checkpoint.model;
    model.to_device(device);
    let mut progress = Progress::of_stages(config.run.show_progress);
    let mut evaluate = |rows: &dif_sr::data::Rows| {
        let progress = |done| {
            progress.ranking("Evaluate", done, rows.n());
            Ok(())
        };
        evaluate_rows(&config, model, rows, &Ranks::alone(), progress).map(|(_, result)| result)
    };
    let mut results = Vec::new();
    for (name, rows) in [("valid", &splits.valid), ("test", &splits.test)] {
        // A data set without users of enough interactions has no such rows.
        if rows.n() > 0 {
            results.push((name, evaluate(rows)?));
        }
    }
    if json {
        let mut object = json!({ "checkpoint": output::place(&path), "epoch": checkpoint.epoch });
        results.iter().for_each(|(name, result)| object[name] = json!(result));
        output::print_json(&object)?;
        return Ok(Outcome::Pass);
    }
    let columns: Vec<_> = results.iter().flat_map(|(name, result)| output::columns(name, result)).collect();
    output::print(&format!(
        "{}, epoch {}\n\n{}",
        path.display(),
        checkpoint.epoch,
        output::metrics_table(&columns, config.eval.metric_decimal_place)
    ))?;
    Ok(Outcome::Pass)
}
