//! Training: the optimizer, the loop with its early stopping, checkpoints and progress.

mod adam;

pub use adam::Adam;
