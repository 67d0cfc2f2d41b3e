//! Training steps as CUDA graphs: a step's operations are recorded once and then asked for as one, so that a GPU does not
//! wait for the host between them.
//!
//! | | |
//! | --- | --- |
//! | [`Executor`] | records a step for each shape of its inputs, and replays it |
//! | `shim` | libtorch's graphs and streams, which tch does not bind |
//!
//! Any step can be run: what it computes is a function from input tensors to a tensor of losses. What it must keep to
//! stands at [`Executor::run`].

mod graph;
mod shim;

pub use graph::Executor;
