//! The fast paths: the models' functions with explicit gradients, equal to [`crate::model`] within float error.
//!
//! [`cpu`] holds the one for the CPU.

mod cpu;

pub use cpu::{Factors, FastPath, Masks};
