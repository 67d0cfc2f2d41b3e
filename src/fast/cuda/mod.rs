//! The fast path on a GPU: the lean program, a model's function in little more than half of the reference path's
//! operations.
//!
//! A step of the reference path is bound by its launches. Here it has fewer of them, with the savings of the fast path
//! on the CPU (docs/gpu.md): all are operations of libtorch, so that the program computes on any device, and is
//! held to the reference path on the CPU.
//!
//! | | |
//! | --- | --- |
//! | [`weights`] | the parameters by layer |
//! | [`classes`] | items with the same tokens of an attribute |
//! | [`inputs`] | masks and indices of a batch |
//! | [`scores`] | scores of positions and attributes, for all layers at once |
//! | [`input`] | what enters the first layer |
//! | [`encoder`] | the layers |
//! | [`loss`] | losses with explicit gradients |
//! | [`program`] | [`LeanProgram`]: a step, an evaluation |
//!
//! Nothing waits for the device within a step: no number is read, no shape depends on values.

mod classes;
mod encoder;
mod input;
mod inputs;
mod loss;
mod program;
mod scores;
mod weights;

pub use program::LeanProgram;
