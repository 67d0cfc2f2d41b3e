//! One training step on the configured computing path: losses, gradients, clipping, Adam.

use tch::Device;

use super::Adam;
use super::clip::clip_grad_norm;
use super::data_parallel::DataParallel;
use crate::config::{ComputePath, Precision, RunConfig, TrainConfig};
use crate::cuda::Executor;
use crate::data::{Batch, OrderedRows};
use crate::eval::{Ranking, rank};
use crate::fast::{DropoutSeed, Fast};
use crate::libtorch::in_bfloat16;
use crate::model::{Losses, Model};
use crate::ranks::Ranks;
use crate::{Error, Result};

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
    pub(super) fast: Option<Fast>,
    /// `None` where steps are no CUDA graphs.
    graphs: Option<Executor>,
    /// Why they are none although the configuration asks for them, until it is taken.
    graph_failure: Option<Error>,
}

impl<'a> Stepper<'a> {
    /// A stepper at its start.
    ///
    /// # Errors
    /// As [`Fast::over`].
    pub fn new(config: &'a RunConfig, model: &'a Model) -> Result<Self> {
        Self::over(config, model, &Ranks::alone())
    }

    /// The same over ranks, who all take the same steps.
    ///
    /// # Errors
    /// As [`Fast::over`].
    pub fn over(config: &'a RunConfig, model: &'a Model, ranks: &Ranks) -> Result<Self> {
        let (settings, seed) = (&config.train, config.run.seed as u64);
        let fast = fast(config, model, ranks)?;
        let is_parallel = fast.is_none() && !ranks.is_alone();
        // Ranks exchange gradients through the host.
        let has_graphs = model.device().is_cuda() && config.run.cuda_graphs && ranks.is_alone();
        let graphs = has_graphs.then(|| Executor::new(model.device())).transpose();
        let (graphs, graph_failure) = graphs.map_or_else(|e| (None, Some(e)), |graphs| (graphs, None));
        Ok(Self {
            model,
            settings,
            seed,
            precision: config.run.precision,
            eval_batch_size: config.eval.eval_batch_size,
            adam: Adam::new(model.named_parameters(), settings.learning_rate, settings.weight_decay),
            parallel: is_parallel.then(|| DataParallel::new(ranks, seed, model.device())),
            ranks: ranks.clone(),
            fast,
            graphs,
            graph_failure,
        })
    }

    /// One whole step, as a CUDA graph where the configuration and the device allow it. Gives the losses before it.
    ///
    /// # Errors
    /// A lost rank.
    pub fn step(&mut self, batch: &Batch) -> Result<Losses> {
        // A step that cannot be recorded leaves no trace (`Executor::run`): it is taken below, without a graph.
        if let Some(mut executor) = self.graphs.take() {
            match self.replay(&mut executor, batch) {
                Ok(losses) => {
                    self.graphs = Some(executor);
                    return Ok(losses);
                }
                Err(e) => self.graph_failure = Some(e),
            }
        }
        let losses = self.losses(batch)?;
        self.update()?;
        Ok(losses)
    }

    fn replay(&mut self, executor: &mut Executor, batch: &Batch) -> Result<Losses> {
        let state = self.adam.tensors();
        let losses = executor.run(&batch.columns(), &state, &mut |columns| {
            let losses = self.losses(&Batch::of_columns(columns))?;
            self.update()?;
            Ok(losses.stacked())
        })?;
        Ok(Losses::unstacked(&losses))
    }

    /// Why steps are not CUDA graphs although they should be; told once.
    pub fn take_graph_failure(&mut self) -> Option<Error> {
        self.graph_failure.take()
    }

    /// The number of operations in each CUDA graph so far.
    pub fn operations(&self) -> Vec<usize> {
        self.graphs.as_ref().map_or_else(Vec::new, Executor::operations)
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
                if let Some(parallel) = &mut self.parallel {
                    return parallel.losses(batch, &self.adam, compute);
                }
                let losses = compute(batch);
                losses.total.backward();
                Ok(losses.detach())
            }
            Some(Fast::Gpu(program)) => Ok(program.losses(batch, true).detach()),
            Some(Fast::Cpu(fast)) => {
                let masks = DropoutSeed { seed: self.seed, step: self.adam.steps() };
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
            None | Some(Fast::Gpu(_)) => {
                if let Some(clip) = clip {
                    clip_grad_norm(self.adam.parameters().map(|(_, parameter)| parameter.grad()), clip);
                }
                self.adam.step();
            }
            Some(Fast::Cpu(fast)) => {
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

/// Ranks on the fast path if there is one.
pub(super) fn rank_with(
    fast: Option<&mut Fast>,
    model: &Model,
    ranks: &Ranks,
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
            rank(ranks, model, rows, batch_size, progress)
        }
        Some(fast) => fast.rank(rows, progress),
    }
}

/// How many rows a GPU ranks at a time: enough that the card and not the host decides how long it takes, as far as these
/// have 256 million numbers together: scores, `[B, n_items]`, or maps of attention, `[B, heads, L, L]`, of which each layer
/// keeps two, and a fusion has some three for each stream.
fn rows_on_gpu(model: &Model, rows: &OrderedRows) -> usize {
    const ROWS: i64 = 4096;
    const NUMBERS: i64 = 1 << 28;
    let config = model.config();
    let maps = 2 * config.n_layers + 3 * (2 + config.attribute_hidden_size.len() as i64);
    let attention = maps * config.n_heads * rows.l() * rows.l();
    (NUMBERS / model.n_items().max(attention)).clamp(1, ROWS) as usize
}

pub(super) fn fast(config: &RunConfig, model: &Model, ranks: &Ranks) -> Result<Option<Fast>> {
    match config.run.compute_path {
        ComputePath::Reference => Ok(None),
        ComputePath::Fast => Fast::over(model, config.run.precision, ranks.clone()).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tch::Kind;

    use super::*;
    use crate::fast::LeanProgram;
    use crate::golden::Case;
    use crate::libtorch::turn;

    /// The total losses of some steps on a golden batch, by the reference path or the lean program.
    fn losses(config: &RunConfig, case: &Case, lean: bool) -> Vec<f64> {
        let model = case.model.copy_as(Kind::Float);
        let mut stepper = Stepper::new(config, &model).unwrap_or_else(|e| panic!("{e}"));
        if lean {
            let program = LeanProgram::new(&model, config.run.precision);
            stepper.fast = Some(Fast::Gpu(Box::new(program)));
        }
        let step = |_| {
            let losses = stepper.losses(&case.batch).expect("one rank");
            stepper.update().expect("one rank");
            losses.values().total
        };
        (0..5).map(step).collect()
    }

    /// What a GPU trains on the fast path, here on the CPU: with the gradients that clipping and Adam take from it.
    #[test]
    fn the_lean_program_takes_the_steps_of_the_reference_path() {
        let _turn = turn();
        for (case, keys, tolerance) in [
            ("gate_two_attributes", "", 1e-5),
            ("gate_two_attributes", "clip_grad_norm: {max_norm: 0.1}\nweight_decay: 0.01", 1e-5),
            ("bpr", "", 1e-5),
            ("concat", "precision: bf16", 0.02),
        ] {
            let text = format!("model: SASRec\ndataset: none\nlearning_rate: 0.01\n{keys}");
            let config = RunConfig::from_yaml(&text, "here".as_ref()).unwrap_or_else(|e| panic!("{e}"));
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(case);
            let case = Case::load(&path).unwrap_or_else(|e| panic!("{e}"));
            let [expected, found] = [false, true].map(|lean| losses(&config, &case, lean));
            for (expected, found) in expected.iter().zip(&found) {
                assert!((found - expected).abs() <= tolerance * expected, "{path:?} {keys}: {found} {expected}");
            }
            assert!(found[4] < found[0], "it learns");
        }
    }
}
