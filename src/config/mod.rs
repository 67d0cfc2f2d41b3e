//! RecBole YAML → checked, typed configuration. Raw maps end here.

mod types;

pub use types::*;
mod case;
pub use case::*;
