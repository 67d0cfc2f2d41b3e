//! Golden values: cases on disk, and the model held to them. What is compared, and how closely, is [`judge`]'s.

mod case;
mod compute;
mod rounding;
mod tensors;
mod verify;

pub use case::Case;
pub use judge::{Comparison, Tolerance};
pub use rounding::rounding_noise;
pub use tensors::to_judge;
pub use verify::{CaseReport, judge_of, verify, verify_lean};
