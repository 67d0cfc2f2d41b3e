//! Two models side by side: what each user got from either, and what the difference of the means is worth.

use serde::Serialize;

use super::Record;
use super::statistics::{deviation, mean, of_users, user_means};
use super::table::used_columns;
use crate::eval::MetricAt;
use crate::{Error, Result};

/// The chance that [`Compared::interval`] leaves the true difference out.
const ERROR: f64 = 0.05;

/// Runs of one model beside runs of another on the same targets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// How many users have a target.
    pub users: usize,
    /// The runs on this side.
    pub runs: usize,
    /// The runs on the other.
    pub other_runs: usize,
    /// For every metric and cut-off of the runs' tests.
    pub rows: Vec<Compared>,
}

/// One metric of both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    /// Such as `recall@20`.
    pub metric: String,
    /// The mean over runs and users.
    pub mean: f64,
    /// The other side's.
    pub other_mean: f64,
    /// `mean` less `other_mean`.
    pub difference: f64,
    /// The standard error over users of that difference, each user's value being its mean over the runs of a side: what another
    /// draw of users would change, with these very runs.
    pub standard_error: f64,
    /// The standard deviation between the means of the runs; `None` of a single run.
    pub deviation: Option<f64>,
    /// The other side's.
    pub other_deviation: Option<f64>,
    /// The 95% interval of the difference where seeds are drawn anew too ([`of_users`]); `None` with fewer than three runs in
    /// all, which show no spread.
    pub interval: Option<[f64; 2]>,
}

/// Compares runs, pair by pair over the users.
///
/// ```
/// use dif_sr::verdict::{Record, compare};
/// let of = |model: &str| Record::load(format!("records/ml-100k/{model}_float32/212.json").as_ref());
/// let found = compare(&[of("sasrec_reference")?], &[of("sasrec_recbole")?])?;
/// let recall = found.rows.iter().find(|row| row.metric == "recall@20").expect("a metric of the test");
/// assert_eq!(format!("{:.4} ± {:.4}", recall.difference, recall.standard_error), "0.0042 ± 0.0073");
/// # Ok::<(), dif_sr::Error>(())
/// ```
///
/// # Errors
/// A side without a run, or with runs of several configurations or of one seed twice; runs on different targets.
pub fn compare(runs: &[Record], others: &[Record]) -> Result<Comparison> {
    for side in [runs, others] {
        Record::of_one_configuration(side)?;
    }
    let [Some(first), Some(_)] = [runs.first(), others.first()] else {
        return Err(Error::new("expected at least one run on either side, found none").hint("name runs on both sides"));
    };
    Record::of_the_targets(first, runs.iter().chain(others))?;
    let mut metrics: Vec<MetricAt> = Vec::new();
    for metric in runs.iter().chain(others).flat_map(|run| run.test.names()) {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    let rows = metrics.into_iter().map(|metric| row(metric, runs, others)).collect();
    Ok(Comparison { users: first.user_count(), runs: runs.len(), other_runs: others.len(), rows })
}

fn row(metric: MetricAt, runs: &[Record], others: &[Record]) -> Compared {
    let [runs, others] = [runs, others].map(|side| side.iter().map(|run| run.of_users(metric)).collect::<Vec<_>>());
    let more: Vec<f64> = user_means(&runs).iter().zip(user_means(&others)).map(|(own, other)| own - other).collect();
    let means = |side: &[Vec<f64>]| side.iter().map(|run| mean(run)).collect::<Vec<f64>>();
    let spread = |means: &[f64]| (means.len() > 1).then(|| deviation(means));
    let (own, other) = (means(&runs), means(&others));
    Compared {
        metric: metric.to_string(),
        mean: mean(&own),
        other_mean: mean(&other),
        difference: mean(&more),
        standard_error: deviation(&more) / (more.len() as f64).sqrt(),
        deviation: spread(&own),
        other_deviation: spread(&other),
        interval: of_users(&others, &runs, ERROR).map(|difference| [difference.low, difference.high]),
    }
}

impl Comparison {
    /// The header, then a line for each metric; columns in which no line has anything are left out.
    pub fn table(&self) -> Vec<Vec<String>> {
        let header = ["", "mean", "deviation", "other", "deviation", "difference", "± error", "between", "and"];
        used_columns(std::iter::once(header.map(str::to_owned)).chain(self.rows.iter().map(Compared::cells)).collect())
    }
}

impl Compared {
    fn cells(&self) -> [String; 9] {
        let number = |x: f64| format!("{x:.4}");
        let signed = |x: f64| format!("{x:+.4}");
        let [low, high] = self.interval.map_or([String::new(), String::new()], |interval| interval.map(signed));
        [
            self.metric.clone(),
            number(self.mean),
            self.deviation.map_or(String::new(), number),
            number(self.other_mean),
            self.other_deviation.map_or(String::new(), number),
            signed(self.difference),
            number(self.standard_error),
            low,
            high,
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A run whose four users found their targets at these ranks.
    fn run(seed: i64, ranks: &str) -> Record {
        let metrics = json!({ "recall@5": 0.5, "ndcg@5": 0.5 });
        let record = json!({
            "dataset": "tiny", "seed": seed, "epochs": 1, "best_epoch": 0, "best_valid": metrics, "test": metrics,
            "valid_metric": "recall@5", "evaluated": "0", "valid": "0.5", "epoch_seconds": "1", "evaluation_seconds": "1",
            "calibration_seconds": "", "environment": {}, "config": {}, "targets_sha256": "same", "ranks": ranks,
        });
        serde_json::from_value(record).expect("a record")
    }

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-6
    }

    /// Recall@5 of the users: 1 1 0 0 in both runs, 1 0 1 0 in the other, so that the differences are 0 1 −1 0.
    ///
    /// NDCG@5: 1 and 1/log₂6 = 0.386853 in the first run, 1/log₂3 = 0.630930 and 0.386853 in the second, so that the users'
    /// means are 0.815465 0.386853 0 0; 1 0 0.386853 0 in the other. Their differences −0.184535 0.386853 −0.386853 0 have the
    /// mean −0.046134 and the squares 0.324849 about it.
    #[test]
    fn users_are_averaged_over_runs_and_compared_one_by_one() {
        let found = compare(&[run(1, "0 4 9 30"), run(2, "1 4 30 30")], &[run(1, "0 9 4 30")]).expect("comparable");
        assert_eq!((found.users, found.runs, found.other_runs), (4, 2, 1));
        let [recall, ndcg] = &found.rows[..] else { panic!("two metrics") };
        assert_eq!((recall.metric.as_str(), ndcg.metric.as_str()), ("recall@5", "ndcg@5"));
        assert!(close(recall.mean, 0.5) && close(recall.other_mean, 0.5) && close(recall.difference, 0.0));
        // √(2/3) / √4.
        assert!(close(recall.standard_error, 0.408_248), "{recall:?}");
        assert_eq!((recall.deviation, recall.other_deviation), (Some(0.0), None));
        // √(0.324849 / 3) / √4, and the runs' means 0.346713 and 0.254446 lie 0.092268 apart: by √2.
        assert!(close(ndcg.difference, -0.046_134) && close(ndcg.standard_error, 0.164_532), "{ndcg:?}");
        assert!(ndcg.deviation.is_some_and(|deviation| close(deviation, 0.065_243)), "{ndcg:?}");
        let [low, high] = ndcg.interval.expect("three runs");
        assert!(low < ndcg.difference && ndcg.difference < high);
    }

    #[test]
    fn two_runs_have_no_spread_and_their_table_no_column_for_it() {
        let found = compare(&[run(1, "0 4 9 30")], &[run(2, "0 9 4 30")]).expect("comparable");
        assert!(found.rows.iter().all(|row| row.interval.is_none() && row.deviation.is_none()));
        assert_eq!(found.table()[0], ["", "mean", "other", "difference", "± error"]);
    }

    #[test]
    fn a_side_without_a_run_is_refused() {
        let told = compare(&[], &[run(1, "0 1 2 3")]).expect_err("nothing to compare").to_string();
        assert!(told.starts_with("expected at least one run on either side, found none"), "{told}");
    }
}
