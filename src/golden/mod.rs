//! Golden values: cases on disk, the one comparison, the model held to a case, and any implementation held to one.

mod against;
mod case;
mod cause;
mod compare;
mod compute;
mod fault;
mod judge;
mod rounding;
mod stage;
mod verify;
mod what_if;

pub use against::{AgainstReport, Departure, Dump, against};
pub use case::Case;
pub use cause::Cause;
pub use compare::{Comparison, Tolerance, compare};
pub use fault::Fault;
pub use rounding::rounding_noise;
pub use stage::{Group, Part, Stage};
pub use verify::{CaseReport, verify};
