//! The rank of every user's target among all items.

use tch::{Kind, Tensor, no_grad};

use crate::data::{Batch, OrderedRows};
use crate::model::Model;
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

/// Ranks the target of every row with the model in evaluation mode.
///
/// `progress` is told the rows done after every batch; an error of its ends the ranking.
///
/// # Errors
/// A score that is not finite, and what `progress` returns.
pub fn rank(
    model: &Model,
    rows: &OrderedRows,
    batch_size: usize,
    progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    let scores = |batch: &Batch| model.scores(&model.forward(&batch.item_seq, &batch.item_seq_len, false).seq_output);
    rank_by(scores, rows, batch_size, progress)
}

/// Ranks the target of every row by its score among those of all items, `[B, n_items]` of a batch.
///
/// # Errors
/// As [`rank`].
pub(crate) fn rank_by(
    scores: impl Fn(&Batch) -> Tensor,
    rows: &OrderedRows,
    batch_size: usize,
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Ranking> {
    let mut all = Ranking { rank: Vec::with_capacity(rows.n() as usize), ties: Vec::with_capacity(rows.n() as usize) };
    no_grad(|| {
        for batch in rows.batches(batch_size) {
            let scores = scores(&batch);
            // No score is higher than NaN, so that a broken model would rank every target first.
            if !bool::try_from(scores.isfinite().all())? {
                return Err(not_finite());
            }
            let Ranking { rank, ties } = Ranking::of_scores(&scores, &batch.pos_items);
            all.rank.extend(rank);
            all.ties.extend(ties);
            progress(all.rank.len())?;
        }
        Ok(all)
    })
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
