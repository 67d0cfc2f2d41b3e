//! The run folder: every file that a run leaves, each with one type that writes and reads it.

mod calibration;
mod environment;
mod events;
mod folder;

pub use calibration::Calibration;
pub use folder::RunFolder;
pub(crate) use folder::{Mark, log_line};
