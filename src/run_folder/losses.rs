//! `losses.tsv`: the losses of every batch, under the names of their columns.

use crate::config::{Loss, Predictor, RunConfig};
use crate::model::Losses;

/// A row of the file: float32 values in the shortest form that tells any two apart.
#[derive(Debug, Clone, PartialEq)]
pub struct LossRow {
    /// From 0.
    pub epoch: usize,
    /// The batch of the epoch, from 1.
    pub batch: usize,
    /// Total, item, then one for each attribute.
    pub losses: Vec<f32>,
}

impl LossRow {
    pub(super) const FILE: &str = "losses.tsv";

    /// The losses of a batch.
    pub(super) fn new(epoch: usize, batch: usize, losses: &Losses<f64>) -> Self {
        let Losses { total, item, attributes } = losses;
        let losses = [total, item].into_iter().chain(attributes).map(|&loss| loss as f32).collect();
        Self { epoch, batch, losses }
    }

    /// The total loss.
    pub fn total(&self) -> f32 {
        self.losses[0]
    }

    /// The first line of the file of a run of this configuration.
    pub(super) fn header(config: &RunConfig) -> String {
        // Without a predictor, and under BPR, there are no attribute losses.
        let predicts = config.model.attribute_predictor == Predictor::Linear && config.model.loss_type == Loss::Ce;
        let attributes = config.data.selected_features.iter().map(String::as_str).filter(|_| predicts);
        let header: Vec<&str> = ["epoch", "batch", "total", "item"].into_iter().chain(attributes).collect();
        header.join("\t")
    }

    /// The row as a line of the file.
    pub(super) fn line(&self) -> String {
        let numbers = [self.epoch, self.batch].map(|n| n.to_string()).into_iter();
        numbers.chain(self.losses.iter().map(f32::to_string)).collect::<Vec<_>>().join("\t")
    }

    /// The row of a line; `None` of another line.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let (epoch, batch) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let losses: Vec<f32> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
        (losses.len() >= 2).then_some(Self { epoch, batch, losses })
    }
}
