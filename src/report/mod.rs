//! The evidence of runs for people: one page, or the notebook's form; and what is published of recorded runs.

mod chart;
mod figures;
mod notebook;
mod page;
mod published;
mod records;
mod run;
mod sweep;

pub use notebook::{NOTEBOOK_GENERATOR, notebook};
pub use page::{GENERATOR, page};
pub use published::{File, published};
pub use run::Run;
pub use sweep::{sweep_page, sweep_table};
