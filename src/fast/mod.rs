//! The fast path: the models' functions in less time, equal to [`crate::model`] within float error.
//!
//! | device | |
//! | --- | --- |
//! | CPU | [`FastPath`]: explicit gradients and own kernels (`src/fast/cpu/`, whose `mod.rs` is the map) |
//! | GPU | [`LeanProgram`]: fewer operations of libtorch (`src/fast/cuda/`) |
//!
//! [`Fast`] is that of a model's device.

mod cpu;
mod cuda;

#[doc(hidden)]
pub use cpu::kernels;
pub use cpu::{AdamFactors, CacheAligned, DropoutSeed, FastPath, backend_name};
pub use cuda::LeanProgram;
use tch::Device;

use crate::config::Precision;
use crate::data::OrderedRows;
use crate::eval::Ranking;
use crate::model::Model;
use crate::ranks::Ranks;
use crate::{Error, Result};

/// The fast path of a model, wherever it is.
#[derive(Debug)]
pub enum Fast {
    /// On the CPU.
    Cpu(Box<FastPath>),
    /// On a GPU.
    Gpu(Box<LeanProgram>),
}

impl Fast {
    /// The fast path of the model's device, over ranks on the CPU alone.
    ///
    /// # Errors
    /// As [`FastPath::over`]; ranks of a model on a GPU.
    pub fn over(model: &Model, precision: Precision, ranks: Ranks) -> Result<Self> {
        match model.device() {
            Device::Cpu => Ok(Self::Cpu(Box::new(FastPath::over(model, precision, ranks)?))),
            _ if ranks.is_alone() => Ok(Self::Gpu(Box::new(LeanProgram::new(model, precision)))),
            device => {
                let problem =
                    format!("compute_path is fast, whose ranks train on the CPU, and this one has {device:?}");
                Err(Error::new(problem).hint("set `use_gpu: False` or `compute_path: reference`, or leave --ranks out"))
            }
        }
    }

    /// Takes the attribute vectors anew from a model whose tables another file's have replaced.
    pub fn reload(&mut self, model: &Model) {
        match self {
            Self::Cpu(path) => path.reload(model),
            Self::Gpu(program) => program.reload(model),
        }
    }

    /// Ranks the target of every row, as [`crate::eval::rank`] does; `progress` gets the number of rows done now and then.
    ///
    /// # Errors
    /// As [`FastPath::rank`].
    pub fn rank(&mut self, rows: &OrderedRows, progress: impl FnMut(usize) -> Result<()>) -> Result<Ranking> {
        match self {
            Self::Cpu(path) => path.rank(rows, progress),
            Self::Gpu(program) => program.rank(rows, progress),
        }
    }
}
