//! The encoder.

pub mod input;
pub mod item_cache;
pub mod layer;
pub mod step;
