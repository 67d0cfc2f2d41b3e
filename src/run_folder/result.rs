//! `result.json`: what a run gave, the last of the run's own files.

use serde::{Deserialize, Serialize};

use super::Origin;
use crate::eval::MetricValues;

/// The file's content. A run folder that holds it is that of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// RecBole's name of the model.
    pub model: String,
    /// The data set's name.
    pub dataset: String,
    /// The seed of initial values, shuffles and dropout.
    pub seed: i64,
    /// RecBole's count of trained parameters.
    pub trainable_parameters: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// The epoch of the best evaluation, from 0.
    pub best_epoch: usize,
    /// The validation's metrics after it; `None` where nothing was validated.
    pub best_valid: Option<MetricValues>,
    /// The test of the model of that epoch.
    pub test: TestResult,
    /// Seconds from the first batch to the end of the training, evaluations included, without those of the run that it began from.
    pub train_seconds: f64,
    /// What was lost of the data or is out of order on the way, one sentence each ([`Dataset::warnings`](crate::data::Dataset)).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Where it began, if not at the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
}

impl RunResult {
    pub(crate) const FILE: &str = "result.json";
}

/// Metrics of a split's targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestResult {
    /// Rounded to `metric_decimal_place`.
    pub metrics: MetricValues,
    /// The same before rounding.
    pub exact: MetricValues,
    /// Targets that tie with another item.
    pub tied_rows: usize,
    /// The metrics if every tied item stood before the target; only where there are ties.
    pub worst_order: Option<MetricValues>,
}
