//! Training: the optimizer, the loop with its early stopping, checkpoints, and a whole run with its folder, which goes on
//! where it was interrupted.

mod adam;
mod checkpoint;
mod clip;
mod data_parallel;
mod early_stopping;
mod fit;
mod follow;
mod over_ranks;
mod record;
mod run;
mod saved;
mod shares;
mod start;
mod stepper;

pub use adam::Adam;
pub use checkpoint::Checkpoint;
pub use early_stopping::EarlyStopping;
pub use fit::{Event, Fitted, Position, Training};
pub use follow::{agree, follow};
pub use record::Report;
pub use run::{Prepared, evaluate_rows, read_data, run, set_up};
pub use start::Start;
pub use stepper::Stepper;
