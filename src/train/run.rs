//! A whole run: data, model, training, the test on the best epoch, and the evidence of it all.

use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use tch::Device;

use super::{BatchLosses, Calibration, Checkpoint, Event, Fitted, RunFolder, device, fit};
use crate::config::{Loss, RunConfig};
use crate::data::split::split;
use crate::data::{Dataset, RowTensors, Rows, Splits, Summary};
use crate::eval::{MetricValues, Ranking, rank};
use crate::model::{ItemFeature, SasRecD};
use crate::tensors::replace;
use crate::{Error, Result};

/// Where a run's words go besides its folder.
pub trait Report {
    /// A message, already in the form of a log line.
    fn log(&mut self, line: &str);
    /// What the training loop does.
    fn event(&mut self, event: &Event);
    /// Rows of the final test done so far.
    fn testing(&mut self, done: usize, rows: usize);
}

/// Data and an initial model, ready to be trained.
#[derive(Debug)]
pub struct Prepared {
    pub dataset: Dataset,
    pub splits: Splits,
    pub model: SasRecD,
}

impl Prepared {
    /// Reads the data, seeds libtorch's generator and draws the model's initial values on the CPU, then moves it to the
    /// configured device.
    ///
    /// Libtorch has one generator a process. Nothing else may draw from it from here to the end of the training, or the
    /// run is another one.
    pub fn new(config: &RunConfig) -> Result<Self> {
        let device = set_up(config)?;
        let dataset = Dataset::load(&config.data)?;
        let splits = split(&dataset, &config.data)?;
        if splits.test.n() == 0 {
            return Err(Error::new(
                "expected users with at least three interactions, found none: nothing can be tested",
            )
            .at(&config.data.data_path)
            .hint("check the filters with `dif-sr data inspect`"));
        }
        tch::manual_seed(config.run.seed);
        let features = dataset.attributes.iter().map(|a| ItemFeature::new(a, Device::Cpu)).collect();
        let length = config.data.max_item_list_length as i64;
        let mut model = SasRecD::new(&config.model, dataset.items.len() as i64, length, features, tch::Kind::Float);
        model.initialize();
        model.to_device(device);
        Ok(Self { dataset, splits, model })
    }
}

/// Sets libtorch's threads and finds the device.
pub fn set_up(config: &RunConfig) -> Result<Device> {
    if let Some(threads) = config.run.threads {
        tch::set_num_threads(threads as i32);
    }
    device(&config.run)
}

/// `result.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunResult {
    pub model: &'static str,
    pub dataset: String,
    pub seed: i64,
    pub trainable_parameters: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch of the best evaluation, from 0.
    pub best_epoch: usize,
    pub best_valid: Option<MetricValues>,
    pub test: TestResult,
    pub train_seconds: f64,
}

/// Metrics of a split's targets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestResult {
    /// Rounded to `metric_decimal_place`.
    pub metrics: MetricValues,
    /// The same before rounding.
    pub exact: MetricValues,
    /// Targets that tie with another item.
    pub tied_rows: usize,
    /// The metrics if every tied item stood before the target; only where there are ties.
    pub worst_order: Option<MetricValues>,
}

/// Ranks the rows of a split and computes the metrics.
pub fn evaluate_rows(
    config: &RunConfig,
    model: &SasRecD,
    rows: &Rows,
    progress: impl FnMut(usize),
) -> Result<(Ranking, TestResult)> {
    let ranking = rank(model, &RowTensors::new(rows, model.device()), config.eval.eval_batch_size, progress)?;
    let exact = MetricValues::of(&config.eval, &ranking);
    let decimals = config.eval.metric_decimal_place;
    let worst_order =
        (ranking.tied_rows() > 0).then(|| MetricValues::of_worst_order(&config.eval, &ranking).rounded(decimals));
    let result = TestResult { metrics: exact.rounded(decimals), exact, tied_rows: ranking.tied_rows(), worst_order };
    Ok((ranking, result))
}

/// Trains what was prepared, tests the best epoch and writes the run folder.
pub fn run(
    config: &RunConfig,
    prepared: &Prepared,
    folder: &mut RunFolder,
    report: &mut dyn Report,
) -> Result<RunResult> {
    let Prepared { dataset, splits, model } = prepared;
    let mut log = Log { folder, report };
    log.say(&format!("\n{}", config.log_block()))?;
    introduce(config, dataset, model, &mut log)?;
    log.folder.calibration(&Calibration::measure(model.device()))?;

    let start = Instant::now();
    let fitted = match train(config, dataset, splits, model, &mut log) {
        Ok(fitted) => fitted,
        Err(error) => {
            // The folder is the evidence: it says why the run ended.
            log.folder.log(&log_line(&format!("stopped: {error}")))?;
            return Err(error);
        }
    };
    let train_seconds = start.elapsed().as_secs_f64();
    let best = log.folder.best();
    if !best.exists() {
        log.say("Nothing was validated (no user has a validation row, or no epoch reached eval_step): the last epoch stands")?;
        Checkpoint::save(&best, config, dataset, model, fitted.epochs.saturating_sub(1))?;
    }
    log.say(&format!("Loading model structure and parameters from {}", best.display()))?;
    let Checkpoint { mut model, epoch: best_epoch, .. } = Checkpoint::load(&best)?;
    model.to_device(prepared.model.device());

    // Once before and once after the training: whether the machine kept its speed shows in the difference.
    log.folder.calibration(&Calibration::measure(model.device()))?;

    let rows = &splits.test;
    let (ranking, test) = evaluate_rows(config, &model, rows, |done| log.report.testing(done, rows.n()))?;
    write_ranks(log.folder, dataset, rows, &ranking)?;
    let best_valid = fitted.best.map(|(_, valid)| valid);
    if let Some(valid) = &best_valid {
        log.say(&format!("best valid : {}", python_dict(valid)))?;
    }
    log.say(&format!("test result: {}", python_dict(&test.metrics)))?;
    if let Some(worst) = &test.worst_order {
        let tied = test.tied_rows;
        log.say(&format!("{tied} targets tie with other items; in the worst order: {}", python_dict(worst)))?;
    }
    let result = RunResult {
        model: "SASRecD",
        dataset: config.data.dataset.clone(),
        seed: config.run.seed,
        trainable_parameters: model.trainable_parameters(),
        epochs: fitted.epochs,
        best_epoch,
        best_valid,
        test,
        train_seconds,
    };
    log.folder.write_json("result.json", &result)?;
    Ok(result)
}

/// What RecBole logs before the first epoch.
fn introduce(config: &RunConfig, dataset: &Dataset, model: &SasRecD, log: &mut Log) -> Result<()> {
    log.say(&Summary::new(dataset).to_string())?;
    let sampling = match config.model.loss_type {
        Loss::Ce => "None",
        Loss::Bpr => "{'uniform': 1}",
    };
    log.say(&format!(
        "[Training]: train_batch_size = [{}] negative sampling: [{sampling}]",
        config.train.train_batch_size
    ))?;
    log.say(&format!(
        "[Evaluation]: eval_batch_size = [{}] eval_args: [{{'split': {{'LS': 'valid_and_test'}}, 'group_by': 'user', \
         'order': 'TO', 'mode': 'full'}}]",
        config.eval.eval_batch_size
    ))?;
    log.say(&format!("{}\nTrainable parameters: {}", model.tree(), model.trainable_parameters()))
}

/// The training loop with its evidence: log lines, `metrics.jsonl`, the best checkpoint.
fn train(config: &RunConfig, dataset: &Dataset, splits: &Splits, model: &SasRecD, log: &mut Log) -> Result<Fitted> {
    let decimals = config.run.loss_decimal_place;
    let fitted = fit(config, model, splits, |event| {
        log.report.event(&event);
        match event {
            Event::Batch { epoch, batch, losses, .. } => log.folder.losses(epoch, batch, losses),
            Event::Evaluating { .. } => Ok(()),
            Event::Epoch { epoch, losses, seconds } => {
                let BatchLosses { total, item, attributes } = losses;
                log.folder.metrics(&json!({
                    "epoch": epoch, "train_loss": total, "item_loss": item, "attribute_losses": attributes,
                    "seconds": seconds,
                }))?;
                let names =
                    ["total", "item"].into_iter().chain(config.data.selected_features.iter().map(String::as_str));
                let losses = [total, item].into_iter().chain(attributes);
                let scalars = names.zip(losses).map(|(name, &loss)| (format!("loss/{name}"), loss));
                log.folder.scalars(epoch, scalars.chain([("seconds/epoch".to_owned(), seconds)]))?;
                log.say(&format!("epoch {epoch} training [time: {seconds:.2}s, train loss: {total:.decimals$}]"))
            }
            Event::Evaluated { epoch, valid, score, seconds, best } => {
                log.folder.metrics(&json!({ "epoch": epoch, "valid": valid, "best": best, "seconds": seconds }))?;
                let scalars = valid.named().map(|(name, value)| (format!("valid/{name}"), value));
                log.folder.scalars(epoch, scalars.chain([("seconds/evaluation".to_owned(), seconds)]))?;
                log.say(&format!("epoch {epoch} evaluating [time: {seconds:.2}s, valid_score: {score:.6}]"))?;
                log.say(&format!("valid result: \n{valid}"))?;
                if best {
                    let path = log.folder.best();
                    Checkpoint::save(&path, config, dataset, model, epoch)?;
                    log.say(&format!("Saving current best: {}", path.display()))?;
                }
                Ok(())
            }
        }
    })?;
    if let Some((epoch, _)) = &fitted.best {
        log.say(&format!("Finished training, best eval result in epoch {epoch}"))?;
    }
    Ok(fitted)
}

/// `ranks.tsv`: the place of every test target, 0 being the first.
fn write_ranks(folder: &RunFolder, dataset: &Dataset, rows: &Rows, ranking: &Ranking) -> Result<()> {
    let mut text = String::from("user\titem\trank\tties\n");
    for (row, (rank, ties)) in ranking.rank.iter().zip(&ranking.ties).enumerate() {
        let token = |vocabulary: &crate::data::Vocabulary, id: i64| vocabulary.token(id).unwrap_or_default().to_owned();
        let (user, item) = (token(&dataset.users, rows.user[row]), token(&dataset.items, rows.target[row]));
        text += &format!("{user}\t{item}\t{rank}\t{ties}\n");
    }
    replace(&folder.path().join("ranks.tsv"), text.as_bytes())
}

/// Says everything twice: to the folder and to whoever listens.
struct Log<'a> {
    folder: &'a mut RunFolder,
    report: &'a mut dyn Report,
}

impl Log<'_> {
    fn say(&mut self, message: &str) -> Result<()> {
        let line = log_line(message);
        self.report.log(&line);
        self.folder.log(&line)
    }
}

/// RecBole's format: `19 Jan 18:11    INFO  message`.
fn log_line(message: &str) -> String {
    format!("{}    INFO  {message}", jiff::ZonedDateTime::now().strftime("%d %b %H:%M"))
}

/// Metrics as Python prints a dictionary, which is how RecBole logs results.
fn python_dict(metrics: &MetricValues) -> String {
    let parts: Vec<String> = metrics.named().map(|(name, value)| format!("'{name}': {value:?}")).collect();
    format!("{{{}}}", parts.join(", "))
}
