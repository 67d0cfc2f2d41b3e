//! Ranks of targets among all items: a product, and a count of better items instead of a sort.
//!
//! [`int16`] decides almost all items in integers, where the processor has a kernel for that; [`float32`] computes all
//! scores. Ranks are those of float32 scores either way, whatever the precision of training: in bfloat16 items would
//! tie that are not equal.

pub mod float32;
pub mod int16;

use self::int16::Prefilter;
use super::params::item_embedding::ItemEmbedding;
use crate::eval::Ranking;

/// Where the targets of encoded sequences stand; `None` if a score is not a finite number.
///
/// # Shapes
/// sequences `[n, H]`, targets `[n]`
pub fn rank(
    items: ItemEmbedding,
    prefilter: Option<&Prefilter>,
    sequences: &[f32],
    targets: &[i64],
    scores: &mut Vec<f32>,
) -> Option<Ranking> {
    prefilter
        .and_then(|prefilter| prefilter.rank(items, sequences, targets))
        .or_else(|| float32::rank(items, sequences, targets, scores))
}
