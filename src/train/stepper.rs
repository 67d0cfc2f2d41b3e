//! One training step on the configured computing path: losses, gradients, clipping, Adam.

use super::Adam;
use super::clip::clip_grad_norm;
use crate::config::{ComputePath, Precision, RunConfig, TrainConfig};
use crate::cuda::Executor;
use crate::data::{Batch, OrderedRows, Rows};
use crate::eval::{Ranking, rank};
use crate::fast::{FastPath, Masks};
use crate::libtorch::in_bfloat16;
use crate::model::{Losses, Model};
use crate::ranks::Ranks;
use crate::{Error, Result};
use tch::Device;

/// A model in training.
#[derive(Debug)]
pub struct Stepper<'a> {
    model: &'a Model,
    settings: &'a TrainConfig,
    seed: u64,
    precision: Precision,
    eval_batch_size: usize,
    pub(super) adam: Adam,
    /// `None` on the reference path.
    pub(super) fast: Option<FastPath>,
    graphs: Graphs,
}

/// Whether steps are CUDA graphs.
#[derive(Debug)]
enum Graphs {
    On(Executor),
    /// They shall be, and cannot be; the reason, until it is taken.
    Failed(Option<Error>),
    Off,
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
        let settings = &config.train;
        Ok(Self {
            model,
            settings,
            seed: config.run.seed as u64,
            precision: config.run.precision,
            eval_batch_size: config.eval.eval_batch_size,
            adam: Adam::new(model.named_parameters(), settings.learning_rate, settings.weight_decay),
            fast: fast(config, model, ranks)?,
            graphs: match model.device() {
                device @ Device::Cuda(_) if config.run.cuda_graphs => {
                    Executor::new(device).map_or_else(|e| Graphs::Failed(Some(e)), Graphs::On)
                }
                _ => Graphs::Off,
            },
        })
    }

    /// One whole step, as a CUDA graph where the configuration and the device allow it. Gives the losses before it.
    ///
    /// # Errors
    /// A lost rank.
    pub fn step(&mut self, batch: &Batch) -> Result<Losses> {
        if let Graphs::On(mut executor) = std::mem::replace(&mut self.graphs, Graphs::Off) {
            match self.replay(&mut executor, batch) {
                Ok(losses) => {
                    self.graphs = Graphs::On(executor);
                    return Ok(losses);
                }
                Err(e) => self.graphs = Graphs::Failed(Some(e)),
            }
        }
        let losses = self.losses(batch)?;
        self.update();
        Ok(losses)
    }

    fn replay(&mut self, executor: &mut Executor, batch: &Batch) -> Result<Losses> {
        let state = self.adam.tensors();
        let losses = executor.run(&batch.columns(), &state, &mut |columns| {
            let losses = self.losses(&Batch::of_columns(columns))?;
            self.update();
            Ok(losses.stacked())
        })?;
        Ok(Losses::unstacked(&losses))
    }

    /// Why steps are not CUDA graphs although they should be; told once.
    pub fn take_failure(&mut self) -> Option<Error> {
        match &mut self.graphs {
            Graphs::Failed(reason) => reason.take(),
            _ => None,
        }
    }

    /// The number of operations in each CUDA graph so far.
    pub fn operations(&self) -> Vec<usize> {
        match &self.graphs {
            Graphs::On(executor) => executor.operations(),
            _ => Vec::new(),
        }
    }

    /// The losses of a batch, with dropout, on the model's device; leaves their gradients for [`Stepper::update`].
    ///
    /// # Errors
    /// A lost rank.
    pub fn losses(&mut self, batch: &Batch) -> Result<Losses> {
        match &mut self.fast {
            None => {
                self.adam.zero_grad();
                let compute = || self.model.losses(batch, true);
                let losses = match self.precision {
                    Precision::Float32 => compute(),
                    Precision::Bf16 => in_bfloat16(self.model.device(), compute),
                };
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
    pub fn update(&mut self) {
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
                    let (own, all) = (fast.team().threads() as i32, fast.team().all() as i32);
                    // Libtorch divides the sum of a norm among its threads: here as one process would.
                    if own != all {
                        tch::set_num_threads(all);
                    }
                    clip_grad_norm(fast.gradients().into_iter(), clip);
                    if own != all {
                        tch::set_num_threads(own);
                    }
                }
                self.adam.step_fast(fast);
            }
        }
    }

    /// Ranks the target of every row with the model as it is now.
    ///
    /// # Errors
    /// As [`rank`].
    pub fn rank(&mut self, rows: &OrderedRows) -> Result<Ranking> {
        rank_with(self.fast.as_mut(), self.model, rows, self.eval_batch_size, |_| Ok(()))
    }
}

/// Ranks the target of every row of a split on the configured path.
///
/// # Errors
/// As [`Stepper::new`] and [`rank`].
pub(super) fn rank_rows(
    config: &RunConfig,
    model: &Model,
    rows: &Rows,
    ranks: &Ranks,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    let rows = OrderedRows::new(rows, model.device());
    rank_with(fast(config, model, ranks)?.as_mut(), model, &rows, config.eval.eval_batch_size, progress)
}

/// Ranks on the fast path if there is one.
pub(super) fn rank_with(
    fast: Option<&mut FastPath>,
    model: &Model,
    rows: &OrderedRows,
    batch_size: usize,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    match fast {
        None => {
            let batch_size = match model.device() {
                Device::Cuda(_) => batch_size.max(rows_on_gpu(model, rows)),
                _ => batch_size,
            };
            rank(model, rows, batch_size, progress)
        }
        Some(fast) => fast.rank(rows, progress),
    }
}

/// How many rows a GPU ranks at a time: enough that the card and not the host decides how long it takes, as far as the largest
/// tensors have 256 million numbers: scores, `[B, n_items]`, and those of attention, `[B, heads, L, L]`.
fn rows_on_gpu(model: &Model, rows: &OrderedRows) -> usize {
    const ROWS: i64 = 4096;
    const NUMBERS: i64 = 1 << 28;
    let attention = model.config().n_heads * rows.l() * rows.l();
    (NUMBERS / model.n_items().max(attention)).clamp(1, ROWS) as usize
}

fn fast(config: &RunConfig, model: &Model, ranks: &Ranks) -> Result<Option<FastPath>> {
    match config.run.compute_path {
        ComputePath::Reference => Ok(None),
        ComputePath::Fast => FastPath::over(model, config.run.precision, ranks.clone()).map(Some),
    }
}
