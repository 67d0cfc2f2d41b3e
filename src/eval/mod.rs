//! Full-ranking evaluation: every item is scored, the target's rank is counted, and metrics follow from ranks alone.

mod metrics;
mod ranking;
mod recommend;

pub use crate::config::MetricAt;
pub use metrics::{MetricValues, metric};
pub use ranking::{Ranking, rank};
pub(crate) use ranking::{gather_places, not_finite, places, rank_by};
pub use recommend::Recommend;
