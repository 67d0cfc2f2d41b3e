//! DIF-SR in Rust on libtorch, and the harness that proves that it is DIF-SR.

pub mod config;
pub mod data;
mod error;
pub mod eval;
pub mod golden;
pub mod model;
pub mod tensors;
pub mod train;
pub mod verdict;

pub use error::{Error, Result};
