//! DIF-SR (Xie, Zhou, Kim: *Decoupled Side Information Fusion for Sequential Recommendation*, SIGIR 2022) on libtorch, and
//! the harness that proves that it is DIF-SR.
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
//! public archives ─► fetch::fetch ─► *.inter *.item
//! ```
//!
//! A module knows those to its left. [`tensors`] reads and writes named tensors for all of them.
//!
//! The model is the authors' model if it computes what theirs computed:
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
pub mod report;
pub mod run_folder;
mod splitmix;
pub mod sweep;
pub mod tensors;
pub mod train;
pub mod verdict;
mod yaml;

pub use error::{Error, Result};
