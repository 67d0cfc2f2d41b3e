//! One training step on the configured computing path: losses, gradients, clipping, Adam.

use super::Adam;
use super::clip::clip_grad_norm;
use super::data_parallel::DataParallel;
use crate::Result;
use crate::config::{ComputePath, Precision, RunConfig, TrainConfig};
use crate::data::{Batch, OrderedRows, Rows};
use crate::eval::{Ranking, rank_over};
use crate::fast::{FastPath, Masks};
use crate::libtorch::in_bfloat16;
use crate::model::{Losses, Model};
use crate::ranks::Ranks;

/// A model in training.
#[derive(Debug)]
pub struct Stepper<'a> {
    model: &'a Model,
    settings: &'a TrainConfig,
    seed: u64,
    precision: Precision,
    eval_batch_size: usize,
    pub(super) adam: Adam,
    pub(super) ranks: Ranks,
    /// `None` in one process and on the fast path.
    parallel: Option<DataParallel>,
    /// `None` on the reference path.
    pub(super) fast: Option<FastPath>,
}

impl<'a> Stepper<'a> {
    /// A stepper at its start.
    ///
    /// # Errors
    /// As [`FastPath::new`].
    pub fn new(config: &'a RunConfig, model: &'a Model) -> Result<Self> {
        Self::over(config, model, &Ranks::alone())
    }

    /// The same over ranks, who all take the same steps.
    ///
    /// # Errors
    /// As [`FastPath::new`].
    pub fn over(config: &'a RunConfig, model: &'a Model, ranks: &Ranks) -> Result<Self> {
        let (settings, seed) = (&config.train, config.run.seed as u64);
        let fast = fast(config, model, ranks)?;
        let is_shared = fast.is_none() && !ranks.is_alone();
        Ok(Self {
            model,
            settings,
            seed,
            precision: config.run.precision,
            eval_batch_size: config.eval.eval_batch_size,
            adam: Adam::new(model.named_parameters(), settings.learning_rate, settings.weight_decay),
            parallel: is_shared.then(|| DataParallel::new(ranks, seed, model.device())),
            ranks: ranks.clone(),
            fast,
        })
    }

    /// The losses of a batch, with dropout, on the model's device; leaves their gradients for [`Stepper::update`].
    ///
    /// # Errors
    /// A lost rank.
    pub fn losses(&mut self, batch: &Batch) -> Result<Losses> {
        match &mut self.fast {
            None => {
                self.adam.zero_grad();
                let compute = |batch: &Batch| match self.precision {
                    Precision::Float32 => self.model.losses(batch, true),
                    Precision::Bf16 => in_bfloat16(self.model.device(), || self.model.losses(batch, true)),
                };
                if let Some(parallel) = &self.parallel {
                    return parallel.losses(batch, &self.adam, compute);
                }
                let losses = compute(batch);
                losses.total.backward();
                Ok(losses.detach())
            }
            Some(fast) => {
                let masks = Masks { seed: self.seed, step: self.adam.steps() };
                Ok(fast.try_losses(batch, Some(masks))?.tensors())
            }
        }
    }

    /// Moves the parameters along the gradients of [`Stepper::losses`].
    ///
    /// # Errors
    /// A lost rank.
    pub fn update(&mut self) -> Result<()> {
        let clip = self.settings.clip_grad_norm;
        match &mut self.fast {
            None => {
                if let Some(clip) = clip {
                    clip_grad_norm(self.adam.parameters().map(|(_, parameter)| parameter.grad()), clip);
                }
                self.adam.step();
            }
            Some(fast) => {
                if let Some(clip) = clip {
                    fast.clip_gradients(clip)?;
                }
                self.adam.step_fast(fast);
            }
        }
        Ok(())
    }

    /// Ranks the target of every row with the model as it is now.
    ///
    /// # Errors
    /// As [`crate::eval::rank`].
    pub fn rank(&mut self, rows: &OrderedRows) -> Result<Ranking> {
        rank_with(self.fast.as_mut(), self.model, &self.ranks, rows, self.eval_batch_size, |_| Ok(()))
    }
}

/// Ranks the target of every row of a split on the configured path.
///
/// # Errors
/// As [`Stepper::new`] and [`rank_over`].
pub(super) fn rank_rows(
    config: &RunConfig,
    model: &Model,
    rows: &Rows,
    ranks: &Ranks,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    let rows = OrderedRows::new(rows, model.device());
    rank_with(fast(config, model, ranks)?.as_mut(), model, ranks, &rows, config.eval.eval_batch_size, progress)
}

/// Ranks on the fast path if there is one.
pub(super) fn rank_with(
    fast: Option<&mut FastPath>,
    model: &Model,
    ranks: &Ranks,
    rows: &OrderedRows,
    batch_size: usize,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    match fast {
        None => rank_over(ranks, model, rows, batch_size, progress),
        Some(fast) => fast.rank(rows, progress),
    }
}

fn fast(config: &RunConfig, model: &Model, ranks: &Ranks) -> Result<Option<FastPath>> {
    match config.run.compute_path {
        ComputePath::Reference => Ok(None),
        ComputePath::Fast => FastPath::over(model, config.run.precision, ranks.clone()).map(Some),
    }
}
