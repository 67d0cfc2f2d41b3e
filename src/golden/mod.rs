//! Golden values: cases on disk, and the model held to them. What is compared, and how closely, is [`judge`]'s.

mod against;
mod case;
mod compute;
mod fault;
mod rounding;
mod tensors;
mod verify;
mod what_if;

pub use against::against;
pub use case::Case;
pub use judge::{Comparison, Tolerance};
pub use rounding::rounding_noise;
pub use tensors::{compare, to_judge};
pub use verify::{CaseReport, judge_of, verify};
