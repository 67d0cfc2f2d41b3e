//! RecBole's ranking metrics, from the ranks of the relevant items.

use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Ranking;
use crate::config::{EvalConfig, MetricKind};

/// A metric at cut-off `k` for one user.
///
/// `ranks` are the 0-based ranks of **all** of the user's relevant items, ascending; how many there are is the
/// denominator of Recall and bounds those of NDCG and MAP. Each value lies in [0, 1].
///
/// ```
/// use dif_sr::config::MetricKind;
/// use dif_sr::eval::metric;
/// assert_eq!(metric(MetricKind::Recall, &[2], 10), 1.0);
/// assert_eq!(metric(MetricKind::Ndcg, &[2], 10), 0.5); // 1 / log₂(2 + 2)
/// assert_eq!(metric(MetricKind::Mrr, &[2], 2), 0.0);
/// ```
pub fn metric(kind: MetricKind, ranks: &[usize], k: usize) -> f64 {
    let hits = || ranks.iter().copied().take_while(|&rank| rank < k);
    let relevant = ranks.len().min(k);
    match kind {
        MetricKind::Hit => f64::from(u8::from(hits().next().is_some())),
        MetricKind::Mrr => hits().next().map_or(0.0, |rank| 1.0 / (rank + 1) as f64),
        MetricKind::Recall => ratio(hits().count() as f64, ranks.len()),
        MetricKind::Precision => ratio(hits().count() as f64, k),
        MetricKind::Ndcg => {
            let gain = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
            if relevant == 0 { 0.0 } else { total(hits().map(gain)) / total((0..relevant).map(gain)) }
        }
        MetricKind::Map => {
            let precisions = hits().enumerate().map(|(found, rank)| (found + 1) as f64 / (rank + 1) as f64);
            ratio(total(precisions), relevant)
        }
    }
}

/// A sum that is 0 and not −0, which `Iterator::sum` gives, where there is nothing to add.
fn total(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, std::ops::Add::add)
}

fn ratio(numerator: f64, denominator: usize) -> f64 {
    if denominator == 0 { 0.0 } else { numerator / denominator as f64 }
}

/// The configured metrics of one evaluation, in RecBole's order, each a mean over users.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricValues(Vec<(MetricKind, usize, f64)>);

impl MetricValues {
    /// Means over users, each with the ranks of their relevant items.
    pub fn of_ranks<'a>(config: &EvalConfig, users: impl ExactSizeIterator<Item = &'a [usize]> + Clone) -> Self {
        let n = users.len();
        let names = config.metrics.iter().flat_map(|&kind| config.topk.iter().map(move |&k| (kind, k)));
        let mean = |kind, k| ratio(total(users.clone().map(|ranks| metric(kind, ranks, k))), n);
        Self(names.map(|(kind, k)| (kind, k, mean(kind, k))).collect())
    }

    /// Metrics of a ranking: ties with the target do not count against it, as in the reference.
    pub fn of(config: &EvalConfig, ranking: &Ranking) -> Self {
        Self::of_ranks(config, ranking.rank.iter().map(std::slice::from_ref))
    }

    /// Metrics of a ranking if every item that ties with the target stood before it.
    pub fn of_worst_order(config: &EvalConfig, ranking: &Ranking) -> Self {
        let worst: Vec<usize> = ranking.rank.iter().zip(&ranking.ties).map(|(rank, ties)| rank + ties).collect();
        Self::of_ranks(config, worst.iter().map(std::slice::from_ref))
    }

    /// The values that [`MetricValues::named`] gave under the same configuration; `None` if there are more or fewer.
    pub fn restored(config: &EvalConfig, values: &[f64]) -> Option<Self> {
        let names = config.metrics.iter().flat_map(|&kind| config.topk.iter().map(move |&k| (kind, k)));
        let all = names.zip(values).map(|((kind, k), &value)| (kind, k, value));
        (values.len() == config.metrics.len() * config.topk.len()).then(|| Self(all.collect()))
    }

    /// Rounded to so many decimals, as the reference does **before** it compares.
    pub fn rounded(&self, decimals: usize) -> Self {
        // Through the decimal text, which rounds the exact binary value as Python's `round` does.
        let round = |x: f64| format!("{x:.decimals$}").parse().expect("a formatted float is a float");
        Self(self.0.iter().map(|&(kind, k, x)| (kind, k, round(x))).collect())
    }

    /// One metric; `None` where it is not configured.
    pub fn get(&self, kind: MetricKind, k: usize) -> Option<f64> {
        self.0.iter().find(|&&(other, at, _)| (other, at) == (kind, k)).map(|&(_, _, value)| value)
    }

    /// Names as RecBole prints them, with their values.
    pub fn named(&self) -> impl Iterator<Item = (String, f64)> {
        self.0.iter().map(|&(kind, k, value)| (format!("{}@{k}", kind.name()), value))
    }
}

/// As RecBole prints a result: `recall@5 : 0.0223    recall@10 : 0.0414`.
impl fmt::Display for MetricValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.named().map(|(name, value)| format!("{name} : {value}")).collect();
        f.write_str(&parts.join("    "))
    }
}

impl Serialize for MetricValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.named() {
            map.serialize_entry(&name, &value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_a_hit_counts_as_zero_and_not_as_minus_zero() {
        use MetricKind::{Hit, Map, Mrr, Ndcg, Precision, Recall};
        for kind in [Recall, Ndcg, Mrr, Hit, Precision, Map] {
            assert!(metric(kind, &[7], 5).is_sign_positive(), "{kind:?}");
        }
    }

    #[test]
    fn values_are_restored_under_their_own_configuration_alone() {
        let config = |metrics: &[MetricKind], topk: &[usize]| EvalConfig {
            metrics: metrics.to_vec(),
            topk: topk.to_vec(),
            valid_metric: (metrics[0], topk[0]),
            eval_batch_size: 1,
            metric_decimal_place: 4,
        };
        let two_by_three = config(&[MetricKind::Recall, MetricKind::Ndcg], &[1, 2, 3]);
        let of = MetricValues::of_ranks(&two_by_three, [&[0][..], &[2], &[5]].into_iter());
        let values: Vec<f64> = of.named().map(|(_, value)| value).collect();
        assert_eq!(MetricValues::restored(&two_by_three, &values), Some(of));
        assert_eq!(MetricValues::restored(&config(&[MetricKind::Recall], &[1, 2, 3]), &values), None);
        assert_eq!(MetricValues::restored(&two_by_three, &values[1..]), None);
    }
}
