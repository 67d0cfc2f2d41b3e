//! What holds for every model, loss, metric and file, on random small ones.
//!
//! proptest prints the smallest failing input. It holds a seed, from which alone the values of the tensors follow:
//! libtorch's generator belongs to the whole process, and these tests run side by side.

#[path = "../common/mod.rs"]
mod common;

mod checkpoint;
mod fast;
mod gradients;
mod lean;
mod loss;
mod metrics;
mod model;
mod padding;
mod plain;
mod pooling;
mod sample;
mod training;
