//! Sweeps: the runs of several configurations on several data sets with several seeds, which a verdict needs.
//!
//! ```text
//! sweep.yaml ─► Sweep ─► SweepFolder (tasks.jsonl) ─► a run folder for each Task ─► Summary
//! ```
//!
//! Nothing here schedules: a task is skipped if its run is finished, goes on if it has begun, and else begins. So any engine
//! can run the tasks, several times and in any order ([`slurm`] hands them to one). A folder of a sweep holds
//!
//! | file | what it holds |
//! | --- | --- |
//! | `sweep.yaml` | the file that was planned last |
//! | `tasks.jsonl` | a line for each run ([`Task`]) |
//! | `<group>/config.yaml`, `expectation.yaml` | what the group's runs compute, and what is expected of them |
//! | `<group>/seed-<seed>/` | a run folder |
//! | `<group>/seed-<seed>.lock` | locked as long as a process is at work at the run |
//! | `<group>/seed-<seed>.failed.json` | why the last process that was at work there failed ([`Failure`]) |
//! | `logs/` | what tasks that run in the background say |

mod file;
mod folder;
pub mod slurm;
mod summary;
mod task;

pub use file::{Group, Sweep};
pub use folder::{Planned, SweepFolder};
pub use summary::{GroupSummary, Missing, Summary};
pub use task::{Failure, State, Task};
