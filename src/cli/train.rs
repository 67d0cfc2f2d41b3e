//! `dif-sr train`

use dif_sr::Result;
use dif_sr::config::RunConfig;
use dif_sr::run_folder::{RunFolder, RunResult};
use serde_json::json;

use super::training::{Training, follow};
use super::watch::Watch;
use super::{Outcome, TrainArgs, output, ranks};

pub fn run(args: TrainArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let ranks = ranks::join(&args.ranks)?;
    if !ranks.is_first() {
        let is_begun = args.resume.is_some() || args.from.is_some();
        let config = (!is_begun).then(|| args.config_args.load(overrides));
        return follow(config, &ranks).map(|()| Outcome::Holds);
    }
    let mut training = match (&args.resume, &args.from) {
        (Some(run), _) => Training::resume(run, &args.config_args, overrides, &ranks)?,
        (None, Some(run)) => Training::begin_from(run, &args.config_args, overrides, args.out, &ranks)?,
        (None, None) => Training::begin(ranks.together(args.config_args.load(overrides))?, args.out, &ranks)?,
    };
    let mut watch = Watch::new(&training.config);
    watch.introduce(&training.in_words());
    let result = training.run(watch)?;
    let Training { config, folder, .. } = &training;
    folder.finish(&result)?;
    if json {
        output::print_json(&json!({ "run": output::place(folder.path()), "result": result }))?;
    } else {
        output::print(&summary(config, folder, &result))?;
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
