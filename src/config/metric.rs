//! RecBole's ranking metrics by their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// RecBole's ranking metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// The share of the relevant items that are found.
    Recall,
    /// Normalised discounted cumulative gain.
    Ndcg,
    /// 1 / place of the first relevant item.
    Mrr,
    /// Whether any relevant item is found.
    Hit,
    /// The share of the first k items that are relevant.
    Precision,
    /// Mean average precision.
    Map,
}

impl MetricKind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Recall, Self::Ndcg, Self::Mrr, Self::Hit, Self::Precision, Self::Map];

    /// RecBole's name in a configuration. Before a result it prints it in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recall => "Recall",
            Self::Ndcg => "NDCG",
            Self::Mrr => "MRR",
            Self::Hit => "Hit",
            Self::Precision => "Precision",
            Self::Map => "MAP",
        }
    }

    /// The metric of that name; upper and lower case are one.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// A metric at a cut-off: `recall@20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MetricAt {
    /// Which metric.
    pub kind: MetricKind,
    /// How many of the first items count.
    pub k: usize,
}

/// As RecBole prints it before the value.
impl fmt::Display for MetricAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind.name().to_lowercase(), self.k)
    }
}

/// Upper and lower case are one.
impl FromStr for MetricAt {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let parsed = name
            .split_once('@')
            .and_then(|(kind, k)| Some(Self { kind: MetricKind::named(kind)?, k: k.parse().ok().filter(|&k| k > 0)? }));
        parsed.ok_or_else(|| Error::new(format!("expected a metric such as recall@20, found `{name}`")))
    }
}

impl TryFrom<String> for MetricAt {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<MetricAt> for String {
    fn from(metric: MetricAt) -> Self {
        metric.to_string()
    }
}
