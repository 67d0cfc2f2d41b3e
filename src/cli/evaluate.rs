//! `dif-sr evaluate`

use dif_sr::Result;
use dif_sr::data::Dataset;
use dif_sr::data::split::split;
use dif_sr::train::{Checkpoint, Report, evaluate_rows, set_up};
use serde_json::json;

use super::progress::Progress;
use super::{EvaluateArgs, Outcome, output};

pub fn run(args: EvaluateArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let path = if args.run.is_dir() { args.run.join("best.safetensors") } else { args.run };
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
    let mut progress = Progress::new(config.run.show_progress);
    let mut evaluate = |rows: &dif_sr::data::Rows| {
        evaluate_rows(&config, model, rows, |done| progress.testing(done, rows.n())).map(|(_, result)| result)
    };
    let (valid, test) = (evaluate(&splits.valid)?, evaluate(&splits.test)?);
    if json {
        output::print_json(&json!({ "checkpoint": path, "epoch": checkpoint.epoch, "valid": valid, "test": test }))?;
        return Ok(Outcome::Holds);
    }
    let mut columns = vec![("valid", &valid.metrics), ("test", &test.metrics)];
    columns.extend(test.worst_order.iter().map(|worst| ("test, worst order of ties", worst)));
    output::print(&format!(
        "{}, epoch {}\n\n{}",
        path.display(),
        checkpoint.epoch,
        output::metrics_table(&columns, config.eval.metric_decimal_place)
    ))?;
    Ok(Outcome::Holds)
}
