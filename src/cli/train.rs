//! `dif-sr train`

use dif_sr::Result;
use dif_sr::config::RunConfig;
use dif_sr::run_folder::{RunFolder, RunResult};
use serde_json::json;

use super::ranks::together;
use super::training::{Training, find_data, follow};
use super::watch::Watch;
use super::{Outcome, TrainArgs, output};

pub fn run(args: TrainArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let coming = args.ranks.read()?;
    // What a rank can find out alone, it does before it waits for the others.
    let is_begun = args.resume.is_some() || args.from.is_some();
    let own = (!is_begun && !coming.is_alone()).then(|| {
        let config = args.config_args.load(overrides)?;
        find_data(&config).map(|()| config)
    });
    let ranks = coming.meet(own.as_ref().and_then(|own| own.as_ref().err()))?;
    if !ranks.is_first() {
        return follow(own, &ranks).map(|()| Outcome::Pass);
    }
    let mut training = match (&args.resume, &args.from) {
        (Some(run), _) => Training::resume(run, &args.config_args, overrides, &ranks)?,
        (None, Some(run)) => Training::begin_from(run, &args.config_args, overrides, args.out, &ranks)?,
        (None, None) => {
            let config = own.unwrap_or_else(|| args.config_args.load(overrides));
            Training::begin(together(&ranks, config)?, args.out, &ranks)?
        }
    };
    let mut watch = Watch::new(&training.config);
    watch.introduce(&training.in_words());
    let result = training.run(watch)?;
    let Training { config, folder, .. } = &training;
    folder.finish(&result)?;
    let value = json!({ "run": output::place(folder.path()), "result": result });
    output::result(json, &value, || summary(config, folder, &result))?;
    Ok(Outcome::Pass)
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
