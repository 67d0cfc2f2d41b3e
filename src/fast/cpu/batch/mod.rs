//! Micro-batches: the sequences that one thread takes through all layers, and which rows are computed for them.

pub mod attribute;
pub mod micro_batch;
pub mod sequence;
pub mod tokens;
