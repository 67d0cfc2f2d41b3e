//! RecBole YAML → checked, typed configuration. Raw maps end here.
//!
//! [`RunConfig::load`] reads files and command-line values in RecBole's order, [`ModelConfig::from_case`] the
//! configuration of a golden case. What keys there are stands in one table, from which `docs/configuration.md` is made.

mod build;
mod case;
mod check;
mod defaults;
mod keys;
mod metric;
mod print;
pub(crate) mod python;
mod raw;
mod read;
mod resume;
mod types;

pub use build::refuse_ini;
pub use case::{CaseAttribute, CaseShape};
pub use keys::{key_names, keys_markdown};
pub use metric::{MetricAt, MetricKind};
pub use raw::Section;
pub use types::*;
