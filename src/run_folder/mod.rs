//! The run folder: every file that a run leaves, each with one type that writes and reads it.
//!
//! | file | what it holds | type |
//! | --- | --- | --- |
//! | `config.yaml` | the resolved configuration | [`RunConfig`](crate::config::RunConfig) |
//! | `environment.json` | machine, versions and time, of the begin and of each resumption | [`Environment`] |
//! | `calibration.jsonl` | the machine's speed | [`Calibration`] |
//! | `log.txt` | RecBole's log | text |
//! | `losses.tsv` | the losses of every batch | [`LossRow`] |
//! | `metrics.jsonl` | the losses of every epoch, the metrics of every evaluation | [`MetricsLine`] |
//! | `events.out.tfevents.*` | both, for TensorBoard | |
//! | `last.safetensors` | the training as it stands | [`Training`](crate::train::Training) |
//! | `best.safetensors` | the model of the best epoch | [`Checkpoint`](crate::train::Checkpoint) |
//! | `ranks.tsv` | where every target of the test stands | [`RankRow`] |
//! | `result.json` | the metrics of the test | [`RunResult`] |
//! | `verdict.json`, `report.html` | what `reproduce` finds | [`Verdict`](crate::verdict::Verdict) |

mod calibration;
mod environment;
mod events;
mod files;
mod folder;
mod losses;
mod metrics;
mod origin;
mod ranks;
mod read;
mod result;

pub use calibration::Calibration;
pub use environment::Environment;
pub(crate) use files::{try_lock, watch};
pub use folder::RunFolder;
pub(crate) use folder::{CONFIG, LOG, Mark, log_line};
pub use losses::LossRow;
pub use metrics::{EpochLine, EvaluationLine, MetricsLine};
pub use origin::Origin;
pub use ranks::RankRow;
pub(crate) use read::{TASKS, text};
pub use result::{RunResult, TestResult};
