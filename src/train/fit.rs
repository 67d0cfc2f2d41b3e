//! The training loop: epochs, batches, evaluations, early stopping.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::shares::Shares;
use super::stepper::rank_with;
use super::{EarlyStopping, Stepper};
use crate::config::{Loss, RunConfig};
use crate::data::{NegativeSampler, OrderedRows, Splits};
use crate::eval::MetricValues;
use crate::model::{Losses, Model};
use crate::ranks::Ranks;
use crate::{Error, Result};

/// What the loop tells as it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// Batches were trained on, the last of which is `batch` of the epoch's `batches`, counted from 1; one, or on a GPU several
    /// whose losses are read at once. The training can go on from here.
    Batches {
        /// From 0.
        epoch: usize,
        /// The last of them, from 1.
        batch: usize,
        /// Batches of the epoch.
        batches: usize,
        /// Of each of them.
        losses: &'a [Losses<f64>],
    },
    /// The loss of `batch` is not a finite number; `losses` are those of the batches before it that were not told yet. The
    /// parameters are as they were before it, or on a GPU as up to sixteen batches later. Training ends.
    Diverged {
        /// From 0.
        epoch: usize,
        /// From 1.
        batch: usize,
        /// Of the batches before it.
        losses: &'a [Losses<f64>],
        /// The 2-norm of each parameter, the largest first.
        norms: &'a [(String, f64)],
    },
    /// Steps are taken one operation at a time on a GPU where they should be CUDA graphs; told once. The numbers are the same.
    NoGraphs {
        /// Why.
        reason: &'a Error,
    },
    /// An epoch is over; the losses are sums over its batches.
    Epoch {
        /// From 0.
        epoch: usize,
        /// Summed.
        losses: &'a Losses<f64>,
        /// Of its batches.
        seconds: f64,
    },
    /// Users evaluated so far.
    Evaluating {
        /// From 0.
        epoch: usize,
        /// Users evaluated.
        done: usize,
        /// All users.
        users: usize,
    },
    /// An evaluation is over. `best` asks the listener to keep the model as it is now. The training can go on from here.
    Evaluated {
        /// From 0.
        epoch: usize,
        /// Rounded to `metric_decimal_place`.
        valid: &'a MetricValues,
        /// `valid_metric`'s.
        score: f64,
        /// Of the evaluation.
        seconds: f64,
        /// Whether no evaluation before it was as good.
        best: bool,
    },
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
    /// What the early stopping has counted.
    pub stopping: EarlyStopping,
    /// The epoch of the best evaluation and its metrics in their order.
    pub best: Option<(usize, Vec<f64>)>,
}

/// A training in progress: with libtorch's generator, all that going on needs.
#[derive(Debug)]
pub struct Training<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) model: &'a Model,
    pub(super) train: OrderedRows,
    valid: OrderedRows,
    pub(super) negatives: Option<NegativeSampler>,
    pub(super) stepper: Stepper<'a>,
    /// What ranks share out of it.
    pub(super) shares: Option<Shares>,
    pub(super) position: Position,
    /// Batches whose losses are read together.
    read_together: usize,
}

/// Batches whose losses are read together on a GPU, where reading one waits for all that was asked before. On the CPU each
/// is read before the parameters move, and over ranks, who wait for each other's gradients anyway.
const READ_TOGETHER: usize = 16;

impl<'a> Training<'a> {
    /// A training at its start, with `model` as it is.
    ///
    /// # Errors
    /// As [`Stepper::new`].
    pub fn new(config: &'a RunConfig, model: &'a Model, splits: &Splits) -> Result<Self> {
        Self::over(config, model, splits, &Ranks::alone())
    }

    /// The same over ranks, each of which has the whole training, and a part of every step.
    ///
    /// # Errors
    /// As [`Stepper::new`].
    pub fn over(config: &'a RunConfig, model: &'a Model, splits: &Splits, ranks: &Ranks) -> Result<Self> {
        let settings = &config.train;
        let stopping = EarlyStopping::new(settings.stopping_step);
        let stepper = Stepper::over(config, model, ranks)?;
        Ok(Self {
            config,
            model,
            valid: OrderedRows::new(&splits.valid, model.device()),
            train: OrderedRows::new(&splits.train, model.device()),
            negatives: (config.model.loss_type == Loss::Bpr)
                .then(|| NegativeSampler::new(&splits.train, model.n_items() as usize, config.run.seed as u64)),
            shares: Shares::new(&stepper, ranks),
            stepper,
            position: Position { epoch: 0, batch: 0, sums: Losses::default(), seconds: 0.0, stopping, best: None },
            read_together: if model.device() == Device::Cpu || !ranks.is_alone() { 1 } else { READ_TOGETHER },
        })
    }

    /// How far the training is.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        self.train.n_batches(self.config.train.train_batch_size)
    }

    /// Trains to the end. `listen` is told each event with the training as it then stands.
    ///
    /// Libtorch's generator is drawn from in the reference's order: one permutation at the start of each epoch, then the
    /// dropout masks batch by batch.
    ///
    /// # Errors
    /// A loss that is not a finite number; a lost rank; what `listen` returns.
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
        let Position { epoch, batch: done, .. } = self.position;
        let mut begin = Instant::now();
        if done == 0 {
            self.shuffle()?;
        }
        let count = self.batches();
        let mut unread = Vec::new();
        for i in done..count {
            let batch = self.train.batch(i, self.config.train.train_batch_size);
            let batch = match &mut self.negatives {
                Some(sampler) => batch.with_negatives(sampler)?,
                None => batch,
            };
            // Where losses are read one by one, the update waits, so that a loss that is not finite leaves the parameters
            // as they were. Where they are read together, each step updates at once.
            let updates_first = self.read_together > 1;
            unread.push(if updates_first { self.stepper.step(&batch)? } else { self.stepper.losses(&batch)? });
            if let Some(reason) = self.stepper.take_graph_failure() {
                listen(Event::NoGraphs { reason: &reason }, self)?;
            }
            if unread.len() < self.read_together && i + 1 < count {
                continue;
            }
            let losses = Losses::values_of(&std::mem::take(&mut unread));
            if let Some(bad) = losses.iter().position(|losses| !losses.total.is_finite()) {
                let norms = self.norms()?;
                let first = i + 2 - losses.len();
                let batch = first + bad;
                listen(Event::Diverged { epoch, batch, losses: &losses[..bad], norms: &norms }, self)?;
                return Err(diverged(&losses[bad], &format!("epoch {epoch}, batch {batch} of {count}"), &norms));
            }
            if !updates_first {
                self.stepper.update()?;
            }
            let position = &mut self.position;
            losses.iter().for_each(|losses| position.sums.add(losses));
            position.batch = i + 1;
            position.seconds += begin.elapsed().as_secs_f64();
            listen(Event::Batches { epoch, batch: i + 1, batches: count, losses: &losses }, self)?;
            // What the listener does, a checkpoint say, is no time of the training.
            begin = Instant::now();
        }
        let Position { sums, seconds, .. } = &self.position;
        listen(Event::Epoch { epoch, losses: sums, seconds: *seconds }, self)
    }

    /// Draws the order of an epoch's rows; over ranks it is rank 0's.
    fn shuffle(&mut self) -> Result<()> {
        let mut drawn = Tensor::randperm(self.train.n(), (Kind::Int64, Device::Cpu));
        let ranks = &self.stepper.ranks;
        if !ranks.is_alone() {
            let mut places = Vec::<i64>::try_from(drawn)?;
            ranks.broadcast(&mut places)?;
            drawn = Tensor::from_slice(&places);
        }
        self.train.permute(&drawn);
        Ok(())
    }

    fn evaluate(&mut self, listen: &mut impl FnMut(Event, &Self) -> Result<()>) -> Result<()> {
        let epoch = self.position.epoch;
        let settings = &self.config.eval;
        let size = settings.eval_batch_size;
        let start = Instant::now();
        let users = self.valid.n() as usize;
        // Aside, so that the listener can see the training meanwhile.
        let mut fast = self.stepper.fast.take();
        let ranking = rank_with(fast.as_mut(), self.model, &self.stepper.ranks, &self.valid, size, |done| {
            listen(Event::Evaluating { epoch, done, users }, self)
        });
        self.stepper.fast = fast;
        let ranking = ranking?;
        let valid = MetricValues::of(settings, &ranking).rounded(settings.metric_decimal_place);
        let score =
            valid.get(settings.valid_metric).ok_or_else(|| Error::new("valid_metric is not among metrics and topk"))?;
        let best = self.position.stopping.update(score);
        if best {
            self.position.best = Some((epoch, valid.iter().map(|(_, value)| value).collect()));
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
    fn norms(&self) -> Result<Vec<(String, f64)>> {
        let norm = |(name, parameter): (&str, &Tensor)| {
            let own = parameter.detach().to_kind(Kind::Double).norm().double_value(&[]);
            let shares = self.shares.as_ref().filter(|shares| shares.has(name));
            Ok((name.to_owned(), shares.map_or(Ok(own), |shares| shares.norm(own))?))
        };
        let mut norms = self.stepper.adam.parameters().map(norm).collect::<Result<Vec<_>>>()?;
        norms.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
        Ok(norms)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Rows;
    use crate::libtorch::turn;

    /// SASRec on ten equal rows in batches of two, so that no shuffle shows.
    fn config(keys: &str) -> RunConfig {
        let text = format!(
            "model: SASRec\ndataset: none\nhidden_size: 8\nn_layers: 1\nhidden_dropout_prob: 0\nattn_dropout_prob: 0\n\
             train_batch_size: 2\nepochs: 1\n{keys}"
        );
        RunConfig::from_yaml(&text, "here".as_ref()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn trained(
        config: &RunConfig,
        model: &Model,
        read_together: usize,
    ) -> (Vec<usize>, Vec<Losses<f64>>, Result<Fitted>) {
        let rows = |n: usize| Rows::new(3, vec![(1, [1, 2], 4); n]);
        let splits = Splits { train: rows(10), valid: rows(0), test: rows(0), out_of_order: 0 };
        let mut training = Training::new(config, model, &splits).unwrap_or_else(|e| panic!("{e}"));
        training.read_together = read_together;
        let (mut read, mut losses) = (Vec::new(), Vec::new());
        let fitted = training.run(|event, training| {
            match event {
                Event::Batches { batch, losses: batches, .. } => {
                    assert_eq!(training.position().batch, batch);
                    read.push(batches.len());
                    losses.extend_from_slice(batches);
                }
                Event::Diverged { losses: batches, .. } => losses.extend_from_slice(batches),
                _ => {}
            }
            Ok(())
        });
        (read, losses, fitted)
    }

    fn model(config: &RunConfig) -> Model {
        let mut model = Model::new(&config.model, 6, 3, Vec::new(), Kind::Float);
        model.initialize();
        model
    }

    fn parameters(model: &Model) -> Vec<Vec<f32>> {
        let values = |p: &Tensor| Vec::try_from(p.detach().flatten(0, -1)).expect("float32");
        model.named_parameters().iter().map(|(_, p)| values(p)).collect()
    }

    #[test]
    fn losses_that_are_read_together_are_those_that_are_read_one_by_one() {
        let _turn = turn();
        let config = config("");
        let one_by_one = model(&config);
        let together = one_by_one.copy_as(Kind::Float);
        let (read, expected, fitted) = trained(&config, &one_by_one, 1);
        assert_eq!((read, fitted.is_ok()), (vec![1; 5], true));
        let (read, losses, fitted) = trained(&config, &together, 2);
        assert_eq!((read, fitted.is_ok()), (vec![2, 2, 1], true));
        assert_eq!(losses, expected);
        assert_eq!(parameters(&together), parameters(&one_by_one));
    }

    #[test]
    fn the_batch_that_diverged_is_named_among_those_that_are_read_with_it() {
        let _turn = turn();
        let config = config("learning_rate: 1e30");
        for read_together in 1..5 {
            let (_, losses, fitted) = trained(&config, &model(&config), read_together);
            assert_eq!(losses.len(), 1, "the loss before it is told");
            let error = fitted.expect_err("parameters of 1e30").to_string();
            assert!(error.contains("the loss of epoch 0, batch 2 of 5 is "), "{read_together}: {error}");
        }
    }

    #[test]
    fn the_reference_path_in_bfloat16_is_near_float32_and_leaves_float32_gradients() {
        let _turn = turn();
        let [exact, rough] = ["precision: float32", "precision: bf16"].map(config);
        let model = model(&exact);
        let copy = model.copy_as(Kind::Float);
        let [exact, rough] = [(&exact, &model), (&rough, &copy)].map(|(config, model)| trained(config, model, 1).1);
        assert_ne!(exact, rough);
        for (exact, rough) in exact.iter().zip(&rough) {
            assert!((exact.total - rough.total).abs() < 0.02 * exact.total, "{exact:?} {rough:?}");
        }
        assert!(copy.named_parameters().iter().all(|(_, p)| p.grad().kind() == Kind::Float));
    }
}
