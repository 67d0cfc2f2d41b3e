//! DIF-SR (Xie, Zhou, Kim: *Decoupled Side Information Fusion for Sequential Recommendation*, SIGIR 2022; RecBole's
//! `SASRecD`) on libtorch, and the harness that proves that it is DIF-SR.
//!
//! Data flows through the modules in one direction, each arrow one type:
//!
//! ```text
//! RecBole YAML ─► config::RunConfig ───────────────────────────────────────┐
//! *.inter *.item ─► data::Dataset ─► data::Splits ─► data::Batch ─► model, fast ─┴► train::Training ─► train::Checkpoint
//!                                                                              │
//!                                        eval::Ranking ─► eval::MetricValues ◄─┘ ─► run_folder
//! run_folder ─► verdict::Record ─► verdict::Verdict ─► report
//! sweep.yaml ─► sweep::SweepFolder ─► run folders ─► sweep::Summary ─► report
//! golden/ ─► golden::Case ─► golden::verify ─► judge (a crate of its own: any implementation's dumps)
//! ranks: several processes that train one model
//! public archives ─► fetch::fetch ─► *.inter *.item
//! ```
//!
//! Imports have no circle. [`tensors`] reads and writes named tensors for all of them.
//!
//! Scores and losses of a batch:
//!
//! ```
//! use dif_sr::config::RunConfig;
//! use dif_sr::data::OrderedRows;
//! use dif_sr::train::Prepared;
//!
//! let config = RunConfig::load(&["configs/ml-100k.yaml".into()], &[])?;
//! let Prepared { model, splits, .. } = Prepared::new(&config)?; // with its initial values
//! let batch = OrderedRows::new(&splits.test, model.device()).batches(32).next().expect("rows to test");
//! let encoded = model.forward(&batch.item_seq, &batch.item_seq_len, false);
//! assert_eq!(model.scores(&encoded.seq_output).size(), [32, model.n_items()]);
//! assert_eq!(model.losses(&batch, true).item.size(), [0; 0]); // with dropout
//! # Ok::<(), dif_sr::Error>(())
//! ```
//!
//! [`train::run()`] trains it, and leaves a run folder; [`train::Checkpoint`] reads its best model.
//!
//! The model is the authors' model if it computes what theirs computed (paths are those of the repository):
//!
//! ```
//! use dif_sr::config::ComputePath;
//! use dif_sr::golden::{Case, verify};
//! use tch::Device;
//!
//! let case = Case::load("golden/gate".as_ref())?;
//! let report = verify(&case, ComputePath::Reference, Device::Cpu)?;
//! assert!(report.holds());
//! # Ok::<(), dif_sr::Error>(())
//! ```

pub mod config;
pub mod cuda;
pub mod data;
pub mod device;
mod error;
pub mod eval;
mod excerpt;
#[allow(
    missing_docs,
    clippy::undocumented_unsafe_blocks,
    rustdoc::private_intra_doc_links,
    reason = "its kernels are public to benches alone"
)]
pub mod fast;
pub mod fetch;
pub mod golden;
mod libtorch;
pub mod model;
mod python;
pub mod ranks;
pub mod report;
pub mod run_folder;
mod splitmix;
pub mod sweep;
pub mod tensors;
pub mod train;
pub mod verdict;
mod yaml;

pub use error::{Error, Result};
