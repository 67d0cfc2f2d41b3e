//! RecBole's ranking metrics, from the ranks of the relevant items.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Ranking;
use crate::config::{EvalConfig, MetricAt, MetricKind};
use crate::{Error, Result, python};

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

impl MetricAt {
    /// The configured metrics, in RecBole's order.
    pub fn all(config: &EvalConfig) -> impl Iterator<Item = Self> {
        config.metrics.iter().flat_map(|&kind| config.topk.iter().map(move |&k| Self { kind, k }))
    }

    /// Its value for each user whose one target has this rank.
    pub fn of_users(self, ranks: &[usize]) -> Vec<f64> {
        ranks.iter().map(|rank| metric(self.kind, std::slice::from_ref(rank), self.k)).collect()
    }
}

/// The metrics of one evaluation in their order, each a finite mean over users. A file holds them as a map of names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct MetricValues(Vec<(MetricAt, f64)>);

impl MetricValues {
    /// Means over users, each with the ranks of their relevant items.
    pub fn of_ranks<'a>(config: &EvalConfig, users: impl ExactSizeIterator<Item = &'a [usize]> + Clone) -> Self {
        let n = users.len();
        let mean = |at: MetricAt| ratio(total(users.clone().map(|ranks| metric(at.kind, ranks, at.k))), n);
        MetricAt::all(config).map(|at| (at, mean(at))).collect()
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

    /// The metrics that had these values under the same configuration; `None` if there are more or fewer.
    pub fn restored(config: &EvalConfig, values: &[f64]) -> Option<Self> {
        let all = MetricAt::all(config).zip(values.iter().copied());
        (values.len() == config.metrics.len() * config.topk.len()).then(|| all.collect())
    }

    /// Rounded to so many decimals, as the reference does **before** it compares.
    pub fn rounded(&self, decimals: usize) -> Self {
        // Through the decimal text, which rounds the exact binary value as Python's `round` does.
        let round = |x: f64| format!("{x:.decimals$}").parse().expect("a formatted float is a float");
        self.iter().map(|(at, x)| (at, round(x))).collect()
    }

    /// One metric; `None` where it is not among them.
    pub fn get(&self, at: MetricAt) -> Option<f64> {
        self.iter().find(|&(other, _)| other == at).map(|(_, value)| value)
    }

    /// The metrics with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (MetricAt, f64)> {
        self.0.iter().copied()
    }

    /// The metrics, in order.
    pub fn names(&self) -> impl Iterator<Item = MetricAt> {
        self.iter().map(|(at, _)| at)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(MetricAt, f64)> for MetricValues {
    fn from_iter<I: IntoIterator<Item = (MetricAt, f64)>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// As RecBole prints a result, values as Python does: `recall@5 : 0.0223    recall@10 : 0.0`.
impl fmt::Display for MetricValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.iter().map(|(at, value)| format!("{at} : {}", python::float(value))).collect();
        f.write_str(&parts.join("    "))
    }
}

impl TryFrom<Map<String, Value>> for MetricValues {
    type Error = Error;

    fn try_from(map: Map<String, Value>) -> Result<Self> {
        let number = |(name, value): (String, Value)| match value.as_f64() {
            Some(value) => Ok((name.parse()?, value)),
            None => Err(Error::new(format!("`{name}`: expected a finite number, found {value}"))),
        };
        map.into_iter().map(number).collect()
    }
}

impl From<MetricValues> for Map<String, Value> {
    fn from(metrics: MetricValues) -> Self {
        metrics.iter().map(|(at, value)| (at.to_string(), Value::from(value))).collect()
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
    fn a_result_is_printed_as_python_prints_its_values() {
        let values = [(1, 0.0), (2, 1e-5), (3, 0.0414), (10, 1.0)];
        let values = values.map(|(k, value)| (MetricAt { kind: MetricKind::Recall, k }, value));
        let printed = "recall@1 : 0.0    recall@2 : 1e-05    recall@3 : 0.0414    recall@10 : 1.0";
        assert_eq!(MetricValues::from_iter(values).to_string(), printed);
    }

    #[test]
    fn values_are_restored_under_their_own_configuration_alone() {
        let config = |metrics: &[MetricKind], topk: &[usize]| EvalConfig {
            metrics: metrics.to_vec(),
            topk: topk.to_vec(),
            valid_metric: MetricAt { kind: metrics[0], k: topk[0] },
            eval_batch_size: 1,
            metric_decimal_place: 4,
        };
        let two_by_three = config(&[MetricKind::Recall, MetricKind::Ndcg], &[1, 2, 3]);
        let of = MetricValues::of_ranks(&two_by_three, [&[0][..], &[2], &[5]].into_iter());
        let values: Vec<f64> = of.iter().map(|(_, value)| value).collect();
        assert_eq!(MetricValues::restored(&two_by_three, &values), Some(of));
        assert_eq!(MetricValues::restored(&config(&[MetricKind::Recall], &[1, 2, 3]), &values), None);
        assert_eq!(MetricValues::restored(&two_by_three, &values[1..]), None);
    }
}
