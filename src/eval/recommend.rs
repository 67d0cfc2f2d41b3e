//! The items that a model expects next.

use std::collections::HashSet;
use std::ops::ControlFlow;

use tch::{Kind, Tensor, no_grad};

use super::not_finite;
use crate::model::Model;
use crate::{Error, Result};

/// Scores held at once: 32 MiB of float32. Those of all users of a data set take gigabytes.
const SCORES: usize = 8 << 20;
/// Histories computed at once, at most: attention takes memory for each of them, too.
const HISTORIES: usize = 256;

/// What is asked of every history.
#[derive(Debug, Clone, Copy)]
pub struct Recommend {
    /// Items of a history that count, the last ones, as in training.
    pub length: usize,
    /// Items wanted; fewer come if there are fewer.
    pub k: usize,
    /// Whether the items of the whole history are left out.
    pub unseen: bool,
    /// Histories computed at once, at most.
    pub batch_size: usize,
}

impl Recommend {
    /// Tells `each` the number of every history, from 0, and its `k` items of highest score, best first, as (item id, score).
    /// Few histories and one list are in memory at a time.
    ///
    /// Histories are item ids, oldest first. Item 0, the padding, is never among the items. Items of equal score stand in the
    /// order of their ids. `each` says whether to go on.
    ///
    /// # Errors
    /// An empty history, scores that are not finite, and what `each` returns.
    pub fn run(
        &self,
        model: &Model,
        histories: impl IntoIterator<Item = Vec<i64>>,
        mut each: impl FnMut(usize, &[(i64, f64)]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let most = (SCORES / model.n_items() as usize).min(HISTORIES).min(self.batch_size).max(1);
        let mut histories = histories.into_iter();
        let mut room = Vec::with_capacity(model.n_items() as usize);
        let mut done = 0;
        loop {
            let batch: Vec<Vec<i64>> = histories.by_ref().take(most).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let scores = self.scores(model, &batch, done)?;
            for (row, history) in batch.iter().enumerate() {
                let scores = Vec::<f64>::try_from(scores.get(row as i64).to_kind(Kind::Double))?;
                let items = best(&scores, self.k, if self.unseen { history } else { &[] }, &mut room);
                if each(done + row, items)?.is_break() {
                    return Ok(());
                }
            }
            done += batch.len();
        }
    }

    /// The scores of all items for some histories, before which there were `done` others: `[B, n_items]` on the CPU.
    fn scores(&self, model: &Model, histories: &[Vec<i64>], done: usize) -> Result<Tensor> {
        let (n, length) = (histories.len() as i64, self.length);
        let mut seq = Vec::with_capacity(histories.len() * length);
        let mut lengths = Vec::with_capacity(histories.len());
        for (i, history) in histories.iter().enumerate() {
            let kept = &history[history.len().saturating_sub(length)..];
            if kept.is_empty() {
                let number = done + i + 1;
                return Err(Error::new(format!(
                    "expected a history of at least one item, found none in number {number}"
                )));
            }
            seq.extend(kept);
            seq.resize((i + 1) * length, 0);
            lengths.push(kept.len() as i64);
        }
        let seq = Tensor::from_slice(&seq).view([n, length as i64]).to_device(model.device());
        let lengths = Tensor::from_slice(&lengths).to_device(model.device());
        let scores = no_grad(|| model.scores(&model.forward(&seq, &lengths, false).seq_output));
        if !bool::try_from(scores.isfinite().all())? {
            return Err(not_finite());
        }
        Ok(scores.to_device(tch::Device::Cpu))
    }
}

/// The `k` best items but for item 0 and those left out, at the beginning of `room`, which is used again and again.
fn best<'a>(scores: &[f64], k: usize, without: &[i64], room: &'a mut Vec<(i64, f64)>) -> &'a [(i64, f64)] {
    let without: HashSet<i64> = without.iter().copied().collect();
    room.clear();
    room.extend((1..).zip(scores.iter().copied().skip(1)).filter(|(item, _)| !without.contains(item)));
    let order = |a: &(i64, f64), b: &(i64, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < room.len() && k > 0 {
        room.select_nth_unstable_by(k - 1, order);
    }
    room.truncate(k);
    room.sort_by(order);
    room
}

#[cfg(test)]
mod tests {
    fn best(scores: &[f64], k: usize, without: &[i64]) -> Vec<(i64, f64)> {
        super::best(scores, k, without, &mut Vec::new()).to_vec()
    }

    #[test]
    fn none_are_the_best_of_none() {
        assert!(best(&[0.0, 1.0, 2.0], 0, &[]).is_empty());
    }

    #[test]
    fn the_best_come_first_ties_in_the_order_of_ids_and_padding_never() {
        let scores = [9.0, 1.0, 3.0, 2.0, 3.0];
        assert_eq!(best(&scores, 3, &[]), [(2, 3.0), (4, 3.0), (3, 2.0)]);
        assert_eq!(best(&scores, 3, &[2, 3]), [(4, 3.0), (1, 1.0)]);
        assert_eq!(best(&scores, 9, &[]).len(), 4);
    }
}
