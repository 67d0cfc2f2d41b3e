//! Whether a run's result is what is expected.

mod expectation;

pub use expectation::{Expectation, Row, Verdict};
