//! The training loop: epochs, batches, evaluations, early stopping.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::{EarlyStopping, Step, Stepper};
use crate::config::{Loss, RunConfig};
use crate::data::{NegativeSampler, RowTensors, Splits};
use crate::eval::MetricValues;
use crate::model::SasRecD;
use crate::{Error, Result};

/// What the loop tells as it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// A batch was trained on; `batch` counts from 1.
    Batch { epoch: usize, batch: usize, batches: usize, losses: &'a BatchLosses },
    /// An epoch is over; the losses are sums over its batches.
    Epoch { epoch: usize, losses: &'a BatchLosses, seconds: f64 },
    /// Users evaluated so far.
    Evaluating { epoch: usize, done: usize, users: usize },
    /// An evaluation is over. `best` asks the listener to keep the model as it is now.
    Evaluated { epoch: usize, valid: &'a MetricValues, score: f64, seconds: f64, best: bool },
}

/// The losses of a batch, or their sums over an epoch.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct BatchLosses {
    pub total: f64,
    pub item: f64,
    /// In the order of `selected_features`.
    pub attributes: Vec<f64>,
}

/// How training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch of the best evaluation, from 0, with its metrics; `None` where there was no evaluation.
    pub best: Option<(usize, MetricValues)>,
}

/// Trains `model` from where it is.
///
/// Libtorch's generator is drawn from in the reference's order: one permutation at the start of each epoch, then the
/// dropout masks batch by batch.
///
/// # Errors
/// A loss that is not a finite number, a user who has seen every item (BPR), and what `listen` returns.
pub fn fit(
    config: &RunConfig,
    model: &SasRecD,
    splits: &Splits,
    mut listen: impl FnMut(Event) -> Result<()>,
) -> Result<Fitted> {
    let settings = &config.train;
    let mut train = RowTensors::new(&splits.train, model.device());
    let valid = RowTensors::new(&splits.valid, model.device());
    let mut negatives = (config.model.loss_type == Loss::Bpr)
        .then(|| NegativeSampler::new(&splits.train, model.n_items() as usize, config.run.seed as u64));
    let mut stepper = Stepper::new(config, model)?;
    let mut stopping = EarlyStopping::new(settings.stopping_step);
    let mut fitted = Fitted { epochs: 0, best: None };

    for epoch in 0..settings.epochs {
        let start = Instant::now();
        train.permute(&Tensor::randperm(train.n(), (Kind::Int64, Device::Cpu)).to_device(model.device()));
        let mut sums = BatchLosses::default();
        let batches = train.batches(settings.train_batch_size);
        let count = batches.len();
        for (i, batch) in batches.enumerate() {
            let batch = match &mut negatives {
                Some(sampler) => batch.with_negatives(sampler)?,
                None => batch,
            };
            let values = stepper.losses(&batch);
            values.check(epoch, i + 1, count)?;
            stepper.update();
            sums.add(&values);
            listen(Event::Batch { epoch, batch: i + 1, batches: count, losses: &values })?;
        }
        fitted.epochs = epoch + 1;
        listen(Event::Epoch { epoch, losses: &sums, seconds: start.elapsed().as_secs_f64() })?;

        if (epoch + 1) % settings.eval_step != 0 || valid.n() == 0 {
            continue;
        }
        let start = Instant::now();
        let mut told = Ok(());
        let ranking = stepper.rank(&valid, |done| {
            if told.is_ok() {
                told = listen(Event::Evaluating { epoch, done, users: valid.n() as usize });
            }
        })?;
        told?;
        let metrics = MetricValues::of(&config.eval, &ranking).rounded(config.eval.metric_decimal_place);
        let (kind, k) = config.eval.valid_metric;
        let score = metrics.get(kind, k).ok_or_else(|| Error::new("valid_metric is not among metrics and topk"))?;
        let step = stopping.update(score);
        let best = step == Step::Improved;
        let seconds = start.elapsed().as_secs_f64();
        listen(Event::Evaluated { epoch, valid: &metrics, score, seconds, best })?;
        if best {
            fitted.best = Some((epoch, metrics));
        }
        if step == Step::Stop {
            break;
        }
    }
    Ok(fitted)
}

impl BatchLosses {
    fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.item += other.item;
        self.attributes.resize(other.attributes.len(), 0.0);
        self.attributes.iter_mut().zip(&other.attributes).for_each(|(sum, loss)| *sum += loss);
    }

    fn check(&self, epoch: usize, batch: usize, batches: usize) -> Result<()> {
        if self.total.is_finite() {
            return Ok(());
        }
        let place = format!("epoch {epoch}, batch {batch} of {batches}");
        Err(Error::new(format!("the loss of {place} is {}, expected a finite number", self.total)).hint(
            "lower learning_rate or set clip_grad_norm; the best model so far, if an epoch was evaluated, is kept",
        ))
    }
}
