//! The rank of every user's target among all items.

use std::ops::Range;

use tch::{Kind, Tensor, no_grad};

use crate::data::{Batch, OrderedRows};
use crate::model::Model;
use crate::ranks::team::of_elements;
use crate::ranks::{Ranks, Team};
use crate::{Error, Result};

/// Where the targets of a split stand, in the order of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking {
    /// Items scored strictly higher than the target.
    pub rank: Vec<usize>,
    /// Other items scored exactly as the target.
    pub ties: Vec<usize>,
}

impl Ranking {
    /// Rows whose target ties with another item: with any, the order among equals would decide the metrics.
    pub fn tied_rows(&self) -> usize {
        self.ties.iter().filter(|&&ties| ties > 0).count()
    }

    /// Ranks from a matrix of scores. Item 0 is padding and stands behind all others; history is not masked.
    ///
    /// # Shapes
    /// scores `[B, n_items]`, targets `[B]`
    pub fn of_scores(scores: &Tensor, targets: &Tensor) -> Self {
        let scores = scores.detach().copy();
        let _ = scores.select(1, 0).fill_(f64::NEG_INFINITY);
        let target = scores.gather(1, &targets.unsqueeze(1), false);
        let count = |which: Tensor| -> Vec<usize> {
            let counts = Vec::<i64>::try_from(which.sum_dim_intlist(1, false, Kind::Int64)).expect("counts are int64");
            counts.into_iter().map(|n| n as usize).collect()
        };
        let rank = count(scores.gt_tensor(&target));
        let ties = count(scores.eq_tensor(&target)).into_iter().map(|n| n - 1).collect();
        Self { rank, ties }
    }
}

/// Ranks the target of every row with the model in evaluation mode. Each process of `ranks` scores a part of the batches,
/// and all return the ranking of all rows.
///
/// After every batch `progress` gets the number of rows that all processes have done, equally often at each; its error ends
/// the ranking.
///
/// # Errors
/// A score that is not finite; what `progress` returns; a lost rank.
pub fn rank(
    ranks: &Ranks,
    model: &Model,
    rows: &OrderedRows,
    batch_size: usize,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    let scores = |batch: &Batch| model.scores(&model.forward(&batch.item_seq, &batch.item_seq_len, false).seq_output);
    rank_by(ranks, scores, rows, batch_size, progress)
}

/// As [`rank`], with the scores of all items, `[B, n_items]`, that `scores` computes for a batch.
///
/// # Errors
/// As [`rank`].
pub(crate) fn rank_by(
    ranks: &Ranks,
    scores: impl Fn(&Batch) -> Tensor,
    rows: &OrderedRows,
    batch_size: usize,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    let (n, team) = (rows.n() as usize, Team::new(ranks.clone(), 1));
    let parts = team.even(rows.n_batches(batch_size));
    let of_rows = |batches: Range<usize>| (batches.start * batch_size).min(n)..(batches.end * batch_size).min(n);
    let mut own = parts[ranks.rank()].clone();
    let mut places = Vec::with_capacity(2 * of_rows(own.clone()).len());
    for round in 1..=parts.iter().map(Range::len).max().unwrap_or(0) {
        if let Some(batch) = own.next() {
            let batch = rows.batch(batch, batch_size);
            places.extend(no_grad(|| places_of(&scores(&batch), &batch.pos_items))?);
        }
        let done = parts.iter().map(|part| of_rows(part.start..(part.start + round).min(part.end)).len());
        progress(done.sum())?;
    }
    let parts: Vec<Range<usize>> = parts.into_iter().map(of_rows).collect();
    gather_places(&team, places, &parts)
}

/// The ranking of all rows, of which this rank has the [`places`] of its part.
///
/// # Errors
/// A score that is not finite, at any rank; a lost rank.
pub(crate) fn gather_places(team: &Team, own: Vec<u64>, parts: &[Range<usize>]) -> Result<Ranking> {
    let all = team.gather(own, &of_elements(parts, 2))?;
    if all.contains(&NOT_FINITE) {
        return Err(not_finite());
    }
    let (rank, ties) = all.chunks_exact(2).map(|place| (place[0] as usize, place[1] as usize)).unzip();
    Ok(Ranking { rank, ties })
}

/// In the place of a rank where a score is no finite number: all ranks then end with the same error.
const NOT_FINITE: u64 = u64::MAX;

/// Rank and ties of every row, one after the other; `None` where a score is not finite.
pub(crate) fn places(ranking: Option<Ranking>, rows: usize) -> Vec<u64> {
    let Some(Ranking { rank, ties }) = ranking else { return vec![NOT_FINITE; 2 * rows] };
    rank.into_iter().zip(ties).flat_map(|(rank, ties)| [rank as u64, ties as u64]).collect()
}

fn places_of(scores: &Tensor, targets: &Tensor) -> Result<Vec<u64>> {
    // No score is higher than NaN, so that a broken model would rank every target first.
    let is_finite = bool::try_from(scores.isfinite().all())?;
    Ok(places(is_finite.then(|| Ranking::of_scores(scores, targets)), targets.size()[0] as usize))
}

/// What is said of scores that cannot be ranked.
pub(crate) fn not_finite() -> Error {
    Error::new("the model's scores are not all finite numbers")
        .hint("the parameters hold NaN or infinity: train again with a smaller learning_rate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_a_tie_are_counted_once_each() {
        let ranking = Ranking { rank: vec![0, 5, 2], ties: vec![0, 3, 1] };
        assert_eq!(ranking.tied_rows(), 2);
    }
}
