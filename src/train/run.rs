//! A whole run: data, model, training, the test on the best epoch, and the evidence of it all.

use std::sync::atomic::AtomicBool;

use tch::{Device, Kind};

use super::over_ranks::{Accord, ended, share_state};
use super::record::Recorder;
use super::saved::fingerprint;
use super::shares::Shares;
use super::stepper::{fast, rank_with};
use super::{Checkpoint, Fitted, Report, Start, Training};
use crate::config::{ComputePath, Loss, RunConfig};
use crate::data::{Dataset, NegativeSampler, OrderedRows, Rows, Splits, Summary, split};
use crate::device::device;
use crate::eval::{MetricValues, Ranking};
use crate::libtorch::deterministic;
use crate::model::{ItemFeature, Model};
use crate::ranks::{Ranks, Team};
use crate::run_folder::{RankRow, RunFolder, RunResult, TestResult};
use crate::{Error, Result};

/// Data and an initial model, ready to be trained.
#[derive(Debug)]
pub struct Prepared {
    /// The data, filtered and numbered.
    pub dataset: Dataset,
    /// What is trained on, validated and tested.
    pub splits: Splits,
    /// A SHA-256 of all that a training takes from both: a run goes on with the data that it was begun on.
    pub fingerprint: String,
    /// With its initial values, on the configured device.
    pub model: Model,
    /// The state of another run that the training begins from.
    pub start: Option<Start>,
    /// The processes that train it together; one, unless it is said otherwise.
    pub ranks: Ranks,
}

impl Prepared {
    /// Reads the data, seeds libtorch's generator and draws the model's initial values on the CPU, then moves it to the
    /// configured device.
    ///
    /// Libtorch has one generator a process. Nothing else may draw from it from here to the end of the training, or the
    /// run is another one.
    ///
    /// # Errors
    /// Data that cannot be read, or of which nothing can be tested; no such device.
    pub fn new(config: &RunConfig) -> Result<Self> {
        Self::over(config, &Ranks::alone())
    }

    /// The same over ranks, who must all do so. With `shard_items` each has its own rows of the item embedding alone.
    ///
    /// # Errors
    /// As [`Prepared::new`]; a path that does not share items out.
    pub fn over(config: &RunConfig, ranks: &Ranks) -> Result<Self> {
        let device = set_up(config)?;
        let is_shared = config.run.shard_items && !ranks.is_alone();
        if is_shared && (config.run.compute_path != ComputePath::Fast || device.is_cuda()) {
            return Err(Error::new(
                "shard_items is True, and only the fast path of the CPU shares items out among ranks",
            )
            .hint("set `compute_path: fast` and `use_gpu: False`, or `shard_items: False`"));
        }
        let (dataset, splits) = read_data(config)?;
        tch::manual_seed(config.run.seed);
        let features = dataset.attributes.iter().map(|a| ItemFeature::new(a, Device::Cpu)).collect();
        let (n_items, length) = (dataset.items.len(), config.data.max_item_list_length as i64);
        let held = is_shared.then(|| {
            let team = Team::new(ranks.clone(), tch::get_num_threads().max(1) as usize);
            let held = team.shares(n_items)[ranks.rank()].clone();
            held.start as i64..held.end as i64
        });
        let mut model = Model::part(&config.model, n_items as i64, held, length, features, Kind::Float);
        model.initialize();
        model.to_device(device);
        let fingerprint = fingerprint(&dataset, &splits);
        Ok(Self { dataset, splits, fingerprint, model, start: None, ranks: ranks.clone() })
    }
}

/// Reads the data of a training and checks that it can be done with them.
///
/// # Errors
/// Data that cannot be read, or of which nothing can be tested; a user who has chosen every item, with BPR.
pub fn read_data(config: &RunConfig) -> Result<(Dataset, Splits)> {
    let (dataset, splits) = split::load(&config.data)?;
    if splits.test.n() == 0 {
        return Err(Error::new("expected users with at least three interactions, found none: nothing can be tested")
            .at(config.data.file("inter"))
            .hint("check the filters with `dif-sr data inspect`"));
    }
    check_negatives(config, &dataset, &splits)?;
    Ok((dataset, splits))
}

/// BPR needs, for every user, an item that the user has not chosen.
fn check_negatives(config: &RunConfig, dataset: &Dataset, splits: &Splits) -> Result<()> {
    if config.model.loss_type != Loss::Bpr {
        return Ok(());
    }
    let n_items = dataset.items.len();
    let Some(user) = NegativeSampler::new(&splits.train, n_items, 0).without_negatives() else { return Ok(()) };
    let token = dataset.users.token(user).unwrap_or_default();
    Err(Error::new(format!(
        "expected an item that user `{token}` has not chosen, found all {} items in the user's training rows",
        n_items - 1
    ))
    .at(&config.data.data_path)
    .hint("use `loss_type: CE`, which needs no negative items, or remove the user"))
}

/// Sets libtorch up, its threads and its algorithms, and finds the device.
///
/// # Errors
/// As [`device`].
pub fn set_up(config: &RunConfig) -> Result<Device> {
    if let Some(threads) = config.run.threads {
        tch::set_num_threads(threads as i32);
    }
    deterministic();
    device(&config.run)
}

/// Ranks the rows of a split and computes the metrics; each of `ranks` ranks a part of the rows and gets the result of
/// all. An error of `progress`, which is told the rows done, ends it.
///
/// # Errors
/// As [`Stepper::new`](super::Stepper::new); a score that is not finite; what `progress` returns.
pub fn evaluate_rows(
    config: &RunConfig,
    model: &Model,
    rows: &Rows,
    ranks: &Ranks,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<(Ranking, TestResult)> {
    let rows = OrderedRows::new(rows, model.device());
    let batch_size = config.eval.eval_batch_size;
    let ranking = rank_with(fast(config, model, ranks)?.as_mut(), model, ranks, &rows, batch_size, progress)?;
    let exact = MetricValues::of(&config.eval, &ranking);
    let decimals = config.eval.metric_decimal_place;
    let worst_order =
        (ranking.tied_rows() > 0).then(|| MetricValues::of_worst_order(&config.eval, &ranking).rounded(decimals));
    let result = TestResult { metrics: exact.rounded(decimals), exact, tied_rows: ranking.tied_rows(), worst_order };
    Ok((ranking, result))
}

/// Trains what was prepared, tests the best epoch and fills the run folder, but for `result.json`
/// ([`RunFolder::finish`]). A run that had begun before goes on where it was last saved. Over ranks, rank 0 does this and
/// the others [`follow`](super::follow).
///
/// # Errors
/// What ends a training; a lost rank; an interruption ([`Error::is_interruption`]) once `stop` is set.
pub fn run(
    config: &RunConfig,
    prepared: &Prepared,
    folder: &mut RunFolder,
    report: &mut dyn Report,
    stop: &AtomicBool,
) -> Result<RunResult> {
    let Prepared { splits, model, ranks, .. } = prepared;
    let mut training = Training::over(config, model, splits, ranks)?;
    let accord = Accord::new(ranks, stop);
    let mut recorder = Recorder::new(config, prepared, folder, report, accord.flag());
    let begun = begin(prepared, &mut training, &mut recorder);
    let begun = Shares::done(training.shares.as_ref(), begun);
    // The others wait for rows, and see it end.
    let is_lost = training.shares.as_ref().is_some_and(Shares::is_broken);
    if is_lost { begun } else { ranks.together(begun) }?;
    let ready = share_state(ranks, &training, &recorder).and_then(|()| recorder.calibrate(model));
    ready.map_err(|error| recorder.ended_by(error))?;
    recorder.start_clock();
    let fitted = training.run(|event, training| {
        accord.hear(&event, training)?;
        Shares::done(training.shares.as_ref(), recorder.listen(event, training))
    });
    let shares = training.shares.as_ref();
    let fitted = fitted.and_then(|fitted| Shares::done(shares, recorder.finish(&training)).map(|()| fitted));
    let result = fitted.and_then(|fitted| test(prepared, &training, &fitted, &accord, &mut recorder));
    ended(ranks, result.map_err(|error| recorder.ended_by(error)))
}

/// Puts a training where it begins: where the run was last saved, where another run was, or at its start.
fn begin(prepared: &Prepared, training: &mut Training, recorder: &mut Recorder) -> Result<()> {
    if recorder.folder.is_resumed() && recorder.resume(training)? {
        return Ok(());
    }
    let Prepared { dataset, model, start, .. } = prepared;
    recorder.say(&format!("\n{}", recorder.config.log_block()))?;
    introduce(recorder.config, dataset, model, recorder)?;
    start.iter().try_for_each(|start| recorder.begin_from(start, training))
}

/// Tests the best model on the held-out rows.
fn test(
    prepared: &Prepared,
    training: &Training,
    fitted: &Fitted,
    accord: &Accord,
    recorder: &mut Recorder,
) -> Result<RunResult> {
    let Prepared { dataset, splits, model, ranks, .. } = prepared;
    let (config, train_seconds) = (recorder.config, recorder.seconds());
    let (best_epoch, other) = Shares::done(training.shares.as_ref(), best_model(training, dataset, fitted, recorder))?;
    let best = other.as_ref().unwrap_or(model);

    ranks.broadcast_parameters(best.common_parameters())?;

    recorder.calibrate(model)?;

    let rows = &splits.test;
    let (ranking, test) = evaluate_rows(config, best, rows, ranks, |done| {
        recorder.report.testing(done, rows.n());
        accord.ask()?;
        if recorder.is_asked_to_stop() { Err(recorder.interruption("in the test")) } else { Ok(()) }
    })?;
    recorder.folder.ranks(places(dataset, rows, &ranking))?;
    let best_valid = fitted.best.as_ref().map(|(_, valid)| valid.clone());
    if let Some(valid) = &best_valid {
        recorder.say(&format!("best valid : {}", python_dict(valid)))?;
    }
    recorder.say(&format!("test result: {}", python_dict(&test.metrics)))?;
    if let Some(worst) = &test.worst_order {
        let tied = test.tied_rows;
        recorder.say(&format!("{tied} targets tie with other items; in the worst order: {}", python_dict(worst)))?;
    }
    Ok(RunResult {
        model: config.model.model.name().to_owned(),
        dataset: config.data.dataset.clone(),
        seed: config.run.seed,
        trainable_parameters: best.trainable_parameters(),
        epochs: fitted.epochs,
        best_epoch,
        best_valid,
        test,
        train_seconds,
        warnings: dataset.warnings.clone(),
        from: recorder.folder.origin().cloned(),
    })
}

/// Reads the best model that was saved, or saves the last one where none was validated, and says its epoch. One that ranks
/// share out takes the place of the training's own: `None`.
fn best_model(
    training: &Training,
    dataset: &Dataset,
    fitted: &Fitted,
    recorder: &mut Recorder,
) -> Result<(usize, Option<Model>)> {
    let path = recorder.folder.best();
    match &fitted.best {
        Some((epoch, _)) => recorder.say(&format!("Finished training, best eval result in epoch {epoch}"))?,
        None => {
            recorder.say("Nothing was validated (no user has a validation row, or no epoch reached eval_step): the last epoch stands")?;
            let epoch = fitted.epochs.saturating_sub(1);
            let model = (training.model, training.shares.as_ref());
            Checkpoint::save_shared(&path, recorder.config, dataset, model, epoch)?;
        }
    }
    recorder.say(&format!("Loading model structure and parameters from {}", path.display()))?;
    if training.shares.is_some() {
        return Ok((Checkpoint::restore(&path, training)?, None));
    }
    let Checkpoint { mut model, epoch, .. } = Checkpoint::load(&path)?;
    model.to_device(training.model.device());
    Ok((epoch, Some(model)))
}

/// What RecBole logs before the first epoch.
fn introduce(config: &RunConfig, dataset: &Dataset, model: &Model, recorder: &mut Recorder) -> Result<()> {
    recorder.say(&Summary::new(dataset).to_string())?;
    dataset.warnings.iter().try_for_each(|warning| recorder.say(&format!("Warning: {warning}")))?;
    let sampling = match config.model.loss_type {
        Loss::Ce => "None",
        Loss::Bpr => "{'uniform': 1}",
    };
    recorder.say(&format!(
        "[Training]: train_batch_size = [{}] negative sampling: [{sampling}]",
        config.train.train_batch_size
    ))?;
    let split = match config.data.benchmark_filename {
        None => "'split': {'LS': 'valid_and_test'}, 'group_by': 'user', ",
        Some(_) => "",
    };
    recorder.say(&format!(
        "[Evaluation]: eval_batch_size = [{}] eval_args: [{{{split}'order': 'TO', 'mode': 'full'}}]",
        config.eval.eval_batch_size
    ))?;
    recorder.say(&format!("{}\nTrainable parameters: {}", model.tree(), model.trainable_parameters()))
}

/// The place of every test target.
fn places<'a>(dataset: &'a Dataset, rows: &'a Rows, ranking: &'a Ranking) -> impl Iterator<Item = RankRow> + 'a {
    ranking.rank.iter().zip(&ranking.ties).enumerate().map(|(row, (&rank, &ties))| {
        let user = dataset.users.token(rows.user(row)).unwrap_or_default().to_owned();
        let item = dataset.items.token(rows.target(row)).unwrap_or_default().to_owned();
        RankRow { user, item, rank, ties }
    })
}

/// Metrics as Python prints a dictionary, which is how RecBole logs results.
fn python_dict(metrics: &MetricValues) -> String {
    let parts: Vec<String> =
        metrics.iter().map(|(metric, value)| format!("'{metric}': {}", crate::python::float(value))).collect();
    format!("{{{}}}", parts.join(", "))
}
