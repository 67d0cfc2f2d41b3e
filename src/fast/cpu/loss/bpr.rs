//! The BPR loss (Rendle et al. 2009): the mean of −log(σ(x · e₊ − x · e₋) + 1e-10), as RecBole has it.

use std::ops::Range;

use crate::Result;
use crate::fast::cpu::ops::simd::{axpy, dot};
use crate::fast::cpu::params::look_up::LookUp;
use crate::ranks::Team;

/// The sequences of a batch, each with a positive and a negative item.
#[derive(Debug, Clone, Copy)]
pub struct ItemPairs<'a> {
    /// `[B, H]`
    pub sequences: &'a [f32],
    /// `[B]`
    pub positive: &'a [i64],
    /// `[B]`
    pub negative: &'a [i64],
    /// The sequences whose gradient each rank gets.
    pub wanted: &'a [Range<usize>],
}

/// The gradient of the item embedding, of the items that a rank has.
#[derive(Debug)]
pub struct OwnItems<'a> {
    pub items: Range<usize>,
    /// `[items, H]`
    pub grad: &'a mut [f32],
}

/// The loss. Writes the gradient of the sequences that are wanted here and adds that of the items; look-ups give the
/// padding item none.
///
/// # Shapes
/// dsequences `[B, H]`
///
/// # Errors
/// A lost rank.
pub fn bpr(team: &Team, items: &LookUp, pairs: ItemPairs, dsequences: &mut [f32], own: OwnItems) -> Result<f64> {
    let ItemPairs { sequences, positive, negative, wanted } = pairs;
    let (n, rows) = (positive.len(), wanted[team.rank()].clone());
    let h = sequences.len() / n;
    let (mut losses, mut dmargins) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for i in rows {
        let (sequence, dsequence) = (&sequences[i * h..][..h], &mut dsequences[i * h..][..h]);
        let [plus, minus] = [positive, negative].map(|item| items.row(item[i] as usize));
        let margin = dot(sequence, plus) - dot(sequence, minus);
        let sigmoid = 1.0 / (1.0 + (-margin).exp());
        losses.push(f64::from((sigmoid + 1e-10).ln()));
        let dmargin = -sigmoid * (1.0 - sigmoid) / (sigmoid + 1e-10) / n as f32;
        dsequence.fill(0.0);
        axpy(dmargin, plus, dsequence);
        axpy(-dmargin, minus, dsequence);
        dmargins.push(dmargin);
    }
    let (losses, dmargins) = (team.gather(losses, wanted)?, team.gather(dmargins, wanted)?);
    for (i, (sequence, dmargin)) in sequences.chunks_exact(h).zip(dmargins).enumerate() {
        for (item, sign) in [(positive[i] as usize, dmargin), (negative[i] as usize, -dmargin)] {
            if item != 0 && own.items.contains(&item) {
                axpy(sign, sequence, &mut own.grad[(item - own.items.start) * h..][..h]);
            }
        }
    }
    Ok(losses.into_iter().fold(0.0, |loss, one| loss - one) / n as f64)
}
