//! The fast path: the models' functions with explicit gradients, equal to [`crate::model`] within float error.
//!
//! There is one for the CPU (`src/fast/cpu/`, whose `mod.rs` is the map). On a GPU the reference path trains:
//! [`FastPath::new`] refuses a model that is not on the CPU.

mod cpu;

#[doc(hidden)]
pub use cpu::kernels;
pub use cpu::{AdamFactors, FastPath, Masks, backend_name};
