//! What is computed side by side.

pub mod micro_batch;
