//! Golden values: cases on disk, the one comparison helper, and the model held to a case.

mod case;
mod compare;
mod verify;

pub use case::Case;
pub use compare::{Comparison, Tolerance, compare};
pub use verify::{CaseReport, Group, verify};
