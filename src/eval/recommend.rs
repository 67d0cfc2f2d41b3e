//! The items that a model expects next.

use tch::{Kind, Tensor, no_grad};

use super::not_finite;
use crate::model::Model;
use crate::{Error, Result};

/// The `k` items of highest score for each history, best first, as (item id, score); fewer if there are fewer items.
///
/// Histories are item ids, oldest first; of a longer one the last `length` count, as in training. Item 0, the padding, is
/// never among the items, and with `unseen` nor are those of the whole history. Items of equal score stand in the order
/// of their ids.
///
/// # Errors
/// An empty history, and scores that are not finite.
pub fn recommend(
    model: &Model,
    histories: &[Vec<i64>],
    length: usize,
    k: usize,
    unseen: bool,
    batch_size: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Vec<(i64, f64)>>> {
    let mut all = Vec::with_capacity(histories.len());
    for batch in histories.chunks(batch_size.max(1)) {
        let mut seq = Vec::with_capacity(batch.len() * length);
        let mut lengths = Vec::with_capacity(batch.len());
        for (i, history) in batch.iter().enumerate() {
            let kept = &history[history.len().saturating_sub(length)..];
            if kept.is_empty() {
                return Err(Error::new(format!(
                    "expected a history of at least one item, found none in number {}",
                    all.len() + i + 1
                )));
            }
            seq.extend(kept);
            seq.resize((i + 1) * length, 0);
            lengths.push(kept.len() as i64);
        }
        let seq = Tensor::from_slice(&seq).view([batch.len() as i64, length as i64]).to_device(model.device());
        let lengths = Tensor::from_slice(&lengths).to_device(model.device());
        let scores = no_grad(|| model.scores(&model.forward(&seq, &lengths, false).seq_output));
        if !bool::try_from(scores.isfinite().all())? {
            return Err(not_finite());
        }
        let scores = scores.to_kind(Kind::Double).to_device(tch::Device::Cpu).contiguous();
        for (row, history) in batch.iter().enumerate() {
            let scores = Vec::<f64>::try_from(scores.get(row as i64))?;
            all.push(best(&scores, k, if unseen { history } else { &[] }));
        }
        progress(all.len());
    }
    Ok(all)
}

/// The `k` best items but for item 0 and those left out.
fn best(scores: &[f64], k: usize, without: &[i64]) -> Vec<(i64, f64)> {
    let mut items: Vec<(i64, f64)> = (1..).zip(scores.iter().copied().skip(1)).collect();
    items.retain(|(item, _)| !without.contains(item));
    let order = |a: &(i64, f64), b: &(i64, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k < items.len() && k > 0 {
        items.select_nth_unstable_by(k - 1, order);
    }
    items.truncate(k);
    items.sort_by(order);
    items
}

#[cfg(test)]
mod tests {
    use super::*;

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
