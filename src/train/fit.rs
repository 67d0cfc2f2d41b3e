//! The training loop: epochs, batches, evaluations, early stopping.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::stepper::rank_with;
use super::{EarlyStopping, Step, Stepper};
use crate::config::{Loss, RunConfig};
use crate::data::{Batch, NegativeSampler, RowTensors, Splits};
use crate::eval::MetricValues;
use crate::model::{Losses, Model};
use crate::{Error, Result};

/// What the loop tells as it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// A batch was trained on; `batch` counts from 1. The training can go on from here.
    Batch { epoch: usize, batch: usize, batches: usize, losses: &'a Losses<f64> },
    /// The loss of a batch is not a finite number, and the parameters are as they were before it. Training ends.
    Diverged { norms: &'a [(String, f64)] },
    /// An epoch is over; the losses are sums over its batches.
    Epoch { epoch: usize, losses: &'a Losses<f64>, seconds: f64 },
    /// Users evaluated so far.
    Evaluating { epoch: usize, done: usize, users: usize },
    /// An evaluation is over. `best` asks the listener to keep the model as it is now. The training can go on from here.
    Evaluated { epoch: usize, valid: &'a MetricValues, score: f64, seconds: f64, best: bool },
}

/// How training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch of the best evaluation, from 0, with its metrics; `None` where there was no evaluation.
    pub best: Option<(usize, MetricValues)>,
}

/// How far a training is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch in progress, from 0.
    pub epoch: usize,
    /// Batches of it that are done. With 0 its order of rows has yet to be drawn.
    pub batch: usize,
    /// The losses of these batches.
    pub sums: Losses<f64>,
    /// The time that these batches took.
    pub seconds: f64,
    pub stopping: EarlyStopping,
    /// The epoch of the best evaluation and its metrics in their order.
    pub best: Option<(usize, Vec<f64>)>,
}

/// A training in progress: with libtorch's generator, all that going on needs.
#[derive(Debug)]
pub struct Training<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) model: &'a Model,
    train: RowTensors,
    valid: RowTensors,
    /// `[n]`: the row of the training split that stands at each place. Permutations compound.
    pub(super) order: Tensor,
    pub(super) negatives: Option<NegativeSampler>,
    pub(super) stepper: Stepper<'a>,
    pub(super) position: Position,
}

impl<'a> Training<'a> {
    /// A training at its start, with `model` as it is.
    ///
    /// # Errors
    /// As [`Stepper::new`].
    pub fn new(config: &'a RunConfig, model: &'a Model, splits: &Splits) -> Result<Self> {
        let settings = &config.train;
        let train = RowTensors::new(&splits.train, model.device());
        let stopping = EarlyStopping::new(settings.stopping_step);
        Ok(Self {
            config,
            model,
            valid: RowTensors::new(&splits.valid, model.device()),
            order: Tensor::arange(train.n(), (Kind::Int64, Device::Cpu)),
            train,
            negatives: (config.model.loss_type == Loss::Bpr)
                .then(|| NegativeSampler::new(&splits.train, model.n_items() as usize, config.run.seed as u64)),
            stepper: Stepper::new(config, model)?,
            position: Position { epoch: 0, batch: 0, sums: Losses::default(), seconds: 0.0, stopping, best: None },
        })
    }

    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        self.train.batches(self.config.train.train_batch_size).len()
    }

    /// Puts the rows, which must be in their first order, into the order `order`: `[n]`, a permutation of 0..n.
    pub(super) fn reorder(&mut self, order: Tensor) {
        self.order = self.order.index_select(0, &order);
        self.train.permute(&order.to_device(self.model.device()));
    }

    /// Trains to the end. `listen` is told each event with the training as it then stands.
    ///
    /// Libtorch's generator is drawn from in the reference's order: one permutation at the start of each epoch, then the
    /// dropout masks batch by batch.
    ///
    /// # Errors
    /// A loss that is not a finite number, and what `listen` returns.
    pub fn run(&mut self, mut listen: impl FnMut(Event, &Self) -> Result<()>) -> Result<Fitted> {
        while self.position.epoch < self.config.train.epochs && !self.position.stopping.is_over() {
            self.epoch(&mut listen)?;
            if (self.position.epoch + 1).is_multiple_of(self.config.train.eval_step) && self.valid.n() > 0 {
                self.evaluate(&mut listen)?;
            } else {
                self.advance();
            }
        }
        let best = self.position.best.as_ref();
        let best = best.and_then(|(epoch, values)| Some((*epoch, MetricValues::restored(&self.config.eval, values)?)));
        Ok(Fitted { epochs: self.position.epoch, best })
    }

    /// The batches of the epoch that are left.
    fn epoch(&mut self, listen: &mut impl FnMut(Event, &Self) -> Result<()>) -> Result<()> {
        let Position { epoch, batch: done, seconds, .. } = self.position;
        let begin = Instant::now();
        if done == 0 {
            self.reorder(Tensor::randperm(self.train.n(), (Kind::Int64, Device::Cpu)));
        }
        // Views, so that the rows are free for the steps.
        let batches: Vec<Batch> = self.train.batches(self.config.train.train_batch_size).collect();
        let count = batches.len();
        for (i, batch) in batches.into_iter().enumerate().skip(done) {
            let batch = match &mut self.negatives {
                Some(sampler) => batch.with_negatives(sampler)?,
                None => batch,
            };
            let losses = self.step(&batch);
            if !losses.total.is_finite() {
                let norms = self.norms();
                listen(Event::Diverged { norms: &norms }, self)?;
                return Err(diverged(&losses, &format!("epoch {epoch}, batch {} of {count}", i + 1), &norms));
            }
            let position = &mut self.position;
            position.sums.add(&losses);
            position.batch = i + 1;
            position.seconds = seconds + begin.elapsed().as_secs_f64();
            listen(Event::Batch { epoch, batch: i + 1, batches: count, losses: &losses }, self)?;
        }
        let Position { sums, seconds, .. } = &self.position;
        listen(Event::Epoch { epoch, losses: sums, seconds: *seconds }, self)
    }

    /// One step of the optimizer; none where the loss is not a finite number.
    fn step(&mut self, batch: &Batch) -> Losses<f64> {
        let losses = self.stepper.losses(batch);
        if losses.total.is_finite() {
            self.stepper.update();
        }
        losses
    }

    fn evaluate(&mut self, listen: &mut impl FnMut(Event, &Self) -> Result<()>) -> Result<()> {
        let epoch = self.position.epoch;
        let settings = &self.config.eval;
        let start = Instant::now();
        let users = self.valid.n() as usize;
        // Aside, so that the listener can see the training meanwhile.
        let mut fast = self.stepper.fast.take();
        let ranking = rank_with(fast.as_mut(), self.model, &self.valid, settings.eval_batch_size, |done| {
            listen(Event::Evaluating { epoch, done, users }, self)
        })?;
        self.stepper.fast = fast;
        let valid = MetricValues::of(settings, &ranking).rounded(settings.metric_decimal_place);
        let (kind, k) = settings.valid_metric;
        let score = valid.get(kind, k).ok_or_else(|| Error::new("valid_metric is not among metrics and topk"))?;
        let best = self.position.stopping.update(score) == Step::Improved;
        if best {
            self.position.best = Some((epoch, valid.named().map(|(_, value)| value).collect()));
        }
        self.advance();
        let seconds = start.elapsed().as_secs_f64();
        listen(Event::Evaluated { epoch, valid: &valid, score, seconds, best }, self)
    }

    /// To the start of the next epoch.
    fn advance(&mut self) {
        let position = &mut self.position;
        (position.epoch, position.batch) = (position.epoch + 1, 0);
        (position.sums, position.seconds) = (Losses::default(), 0.0);
    }

    /// The 2-norm of each parameter, the largest first and NaN before all.
    fn norms(&self) -> Vec<(String, f64)> {
        let norm = |parameter: &Tensor| parameter.detach().to_kind(Kind::Double).norm().double_value(&[]);
        let mut norms: Vec<_> = self.stepper.adam.parameters().map(|(name, p)| (name.to_owned(), norm(p))).collect();
        norms.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
        norms
    }
}

fn diverged(losses: &Losses<f64>, place: &str, norms: &[(String, f64)]) -> Error {
    let largest: Vec<String> = norms.iter().take(3).map(|(name, norm)| format!("{norm:.3e} {name}")).collect();
    Error::new(format!(
        "the loss of {place} is {}, expected a finite number; the largest norms of parameters are {}",
        losses.total,
        largest.join(", ")
    ))
    .hint("lower learning_rate or set clip_grad_norm")
}
