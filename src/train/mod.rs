//! Training: the optimizer, the loop with its early stopping, checkpoints, and a whole run with its folder, which goes on
//! where it was interrupted.

mod adam;
mod calibration;
mod checkpoint;
mod clip;
mod device;
mod early_stopping;
mod environment;
mod events;
mod fit;
mod folder;
mod record;
mod run;
mod saved;
mod stepper;

pub use adam::Adam;
pub use calibration::Calibration;
pub use checkpoint::Checkpoint;
pub use device::{device, gpu, load_cuda, wait_for};
pub use early_stopping::EarlyStopping;
pub use fit::{Event, Fitted, Position, Training};
pub use folder::RunFolder;
pub use run::{Prepared, Report, RunResult, TestResult, evaluate_rows, run, set_up};
pub use stepper::{Stepper, rank_rows};
