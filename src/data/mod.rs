//! From RecBole's atomic files to batches, one step a module:
//! [`atomic`] parses into a [`table`], [`interactions`] and [`items`] read and filter the two kinds of file, [`dataset`]
//! numbers, [`split`] cuts into [`rows`], or [`presplit`] where the files are cut already ([`parts`]), [`batch`] makes
//! tensors; [`inspect`] describes, [`copies`] knows the copy that published figures are of.
//!
//! Ids are `i64` and start at 1; id 0 is `[PAD]`, which stands for padding and for a missing token alike.

pub mod atomic;
pub mod batch;
pub mod copies;
pub mod dataset;
pub mod filter;
pub mod inspect;
pub mod interactions;
pub mod items;
pub mod parts;
pub mod presplit;
pub mod rows;
#[cfg(test)]
mod sample;
pub mod split;
pub mod table;
pub mod vocabulary;
mod warnings;

pub use batch::{Batch, NegativeSampler, OrderedRows};
pub use dataset::Dataset;
pub use inspect::{Inspection, Summary};
pub use items::Attribute;
pub use rows::Rows;
pub use split::Splits;
pub use vocabulary::Vocabulary;
