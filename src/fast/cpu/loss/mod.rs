//! The losses of encoded sequences, with their gradients.
//!
//! The item loss is [`cross_entropy`] or [`bpr`]; each attribute predictor adds [`attribute`]'s.

pub mod attribute;
pub mod bpr;
pub mod cross_entropy;
