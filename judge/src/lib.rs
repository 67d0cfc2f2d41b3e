//! Says whether an implementation of DIF-SR (Xie, Zhou, Kim: *Decoupled Side Information Fusion for Sequential
//! Recommendation*, SIGIR 2022), in any language, computes what the authors' code computes; if it does not, where it departs
//! first, and usually why. It needs no tensor library: tensors come as slices of `f64` or `f32`, or as a safetensors file.
//!
//! In a test of your own implementation:
//!
//! ```
//! use judge::{Case, Dump, Judge};
//!
//! let case = Case::bundled("gate")?;
//! let layer_input = &case.tensors["param.item_embedding.weight"]; // [n_items, H], and so on
//! # let my_scores: Vec<f64> = case.tensors["out.layer.0.fused_scores"].values().to_vec();
//! let mut dump = Dump::new();
//! // … compute with the case's `param.*` on its `in.*`, dropout 0, in float64; then hand over what you have:
//! dump.put("out.layer.0.fused_scores", &[6, 4, 7, 7], &my_scores)?;
//! // Panics with a report that names stage, element and cause.
//! Judge::of(&case).require(["layer.0.fused_scores"])?.assert_holds(&dump);
//! # let _ = layer_input;
//! # Ok::<(), judge::Error>(())
//! ```
//!
//! [`assert_holds`] requires all that makes DIF-SR: scores, the loss, gradients and five optimizer steps. The keys with
//! their shapes are in `docs/verify.md`; `judge/examples/candle` is a complete example in another tensor library.
//!
//! ```text
//! Case, Dump ─► keys (what is known, misspelt, absent) ─► rules, compare ─► stage ─► Report
//!                                           first departure ─► cause (table of known faults)
//!                                                          └─► derive (what the numbers say of themselves)
//! ```

/// Compiles what README.md shows.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod bundled;
mod case;
mod cause;
mod compare;
mod config;
mod context;
mod derive;
mod dump;
mod error;
mod judge;
mod keys;
mod numbers;
mod optimizer;
mod outside;
mod parts;
mod relations;
mod report;
mod rules;
mod stage;
mod table;
mod tensor;

pub use case::Case;
pub use cause::{Cause, Named};
pub use compare::{Comparison, Outcome, Tolerance, compare};
pub use config::{Attribute, Config};
pub use dump::Dump;
pub use error::{Error, Result};
pub use judge::{Judge, assert_holds};
pub use outside::{Fact, Kind};
pub use report::{Accepted, Departure, Missing, Report, Verdict, aligned, stage_rows};
pub use stage::{Group, Part, Stage};
pub use tensor::{Dtype, Element, Tensor};
