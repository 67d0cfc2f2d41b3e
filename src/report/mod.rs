//! The evidence of runs for people: one page, or the notebook's form.

mod chart;
mod notebook;
mod page;
mod run;

pub use notebook::{NOTEBOOK_GENERATOR, notebook};
pub use page::{GENERATOR, page};
pub use run::Run;
