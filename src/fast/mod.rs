//! The fast path: the models' functions in less time, equal to [`crate::model`] within float error.
//!
//! | device | |
//! | --- | --- |
//! | CPU | [`FastPath`]: explicit gradients and own kernels (`src/fast/cpu/`, whose `mod.rs` is the map) |
//! | GPU | [`LeanProgram`]: fewer operations of libtorch (`src/fast/cuda/`) |

mod cpu;
mod cuda;

#[doc(hidden)]
pub use cpu::kernels;
pub use cpu::{AdamFactors, FastPath, Masks, backend_name};
pub use cuda::LeanProgram;
