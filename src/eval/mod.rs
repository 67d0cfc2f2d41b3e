//! Full-ranking evaluation: every item is scored, the target's rank is counted, and metrics follow from ranks alone.

mod metrics;
mod ranking;
mod recommend;

pub use metrics::{MetricAt, MetricValues, metric};
pub(crate) use ranking::not_finite;
pub use ranking::{Ranking, rank, rank_over};
pub use recommend::Recommend;
