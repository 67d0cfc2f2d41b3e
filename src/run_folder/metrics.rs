//! `metrics.jsonl`: a line for each epoch, and one for each evaluation.

use serde::{Deserialize, Serialize};

use crate::eval::MetricValues;

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum MetricsLine {
    /// An epoch of training.
    Epoch(EpochLine),
    /// An evaluation on the validation part.
    Evaluation(EvaluationLine),
}

impl MetricsLine {
    pub(super) const FILE: &str = "metrics.jsonl";
}

/// The losses of an epoch, summed over its batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochLine {
    /// From 0.
    pub epoch: usize,
    /// The total loss.
    pub train_loss: f64,
    /// The items' part of it.
    pub item_loss: f64,
    /// One for each attribute, unweighted, in the order of `selected_features`; empty without a predictor.
    pub attribute_losses: Vec<f64>,
    /// Seconds of its batches.
    pub seconds: f64,
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationLine {
    /// The epoch after which it was done, from 0.
    pub epoch: usize,
    /// Rounded to `metric_decimal_place`.
    pub valid: MetricValues,
    /// Whether no evaluation before it was as good.
    pub best: bool,
    /// Seconds of the evaluation.
    pub seconds: f64,
}
