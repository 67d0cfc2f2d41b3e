//! The BPR loss (Rendle et al. 2009): the mean of −log(σ(x · e₊ − x · e₋) + 1e-10), as RecBole has it.

use crate::fast::cpu::ops::simd::{axpy, dot};
use crate::fast::cpu::params::item_embedding::ItemEmbedding;

/// The positive and the negative item of every sequence.
#[derive(Debug, Clone, Copy)]
pub struct ItemPairs<'a> {
    /// `[B]`
    pub positive: &'a [i64],
    /// `[B]`
    pub negative: &'a [i64],
}

/// The loss. Writes the gradient of the sequences and adds that of the item embedding; look-ups give the padding item
/// none.
///
/// # Shapes
/// sequences, dsequences `[B, H]`, ditem_embedding `[n_items, H]`
pub fn bpr(
    items: ItemEmbedding,
    sequences: &[f32],
    pairs: ItemPairs,
    dsequences: &mut [f32],
    ditem_embedding: &mut [f32],
) -> f64 {
    let (h, n) = (items.h, pairs.positive.len());
    let row = |item: i64| items.row(item as usize);
    let mut loss = 0.0;
    let pairs = pairs.positive.iter().zip(pairs.negative);
    let rows = sequences.chunks_exact(h).zip(dsequences.chunks_exact_mut(h));
    for ((&positive, &negative), (sequence, dsequence)) in pairs.zip(rows) {
        let margin = dot(sequence, row(positive)) - dot(sequence, row(negative));
        let sigmoid = 1.0 / (1.0 + (-margin).exp());
        loss -= f64::from((sigmoid + 1e-10).ln());
        let dmargin = -sigmoid * (1.0 - sigmoid) / (sigmoid + 1e-10) / n as f32;
        dsequence.fill(0.0);
        for (item, sign) in [(positive, dmargin), (negative, -dmargin)] {
            axpy(sign, row(item), dsequence);
            if item != 0 {
                axpy(sign, sequence, &mut ditem_embedding[item as usize * h..][..h]);
            }
        }
    }
    loss / n as f64
}
