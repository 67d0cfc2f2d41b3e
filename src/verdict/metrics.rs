//! Metrics as files hold them: RecBole's names with values, in the order of the file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::MetricKind;
use crate::eval::metric;
use crate::{Error, Result};

/// Names such as `recall@10` with finite values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct Metrics(pub Vec<(String, f64)>);

impl Metrics {
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(other, _)| other == name).map(|&(_, value)| value)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Map<String, Value>> for Metrics {
    type Error = String;

    fn try_from(map: Map<String, Value>) -> Result<Self, String> {
        let number = |(name, value): (String, Value)| match value.as_f64() {
            Some(value) => Ok((name, value)),
            None => Err(format!("`{name}`: expected a finite number, found {value}")),
        };
        map.into_iter().map(number).collect::<Result<_, _>>().map(Self)
    }
}

impl From<Metrics> for Map<String, Value> {
    fn from(metrics: Metrics) -> Self {
        metrics.0.into_iter().map(|(name, value)| (name, Value::from(value))).collect()
    }
}

/// A metric that can be computed from ranks: `recall@20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricAt {
    kind: MetricKind,
    k: usize,
}

impl MetricAt {
    /// Reads a name; upper and lower case are one.
    pub fn parse(name: &str) -> Result<Self> {
        let lower = name.to_lowercase();
        let parsed = lower.split_once('@').and_then(|(kind, k)| {
            let kind = serde_json::from_value(Value::from(kind)).ok()?;
            Some(Self { kind, k: k.parse().ok().filter(|&k| k > 0)? })
        });
        parsed.ok_or_else(|| Error::new(format!("expected a metric such as recall@20, found `{name}`")))
    }

    pub fn name(self) -> String {
        format!("{}@{}", self.kind.name(), self.k)
    }

    /// Its value for each user whose one target has this rank.
    pub fn of_users(self, ranks: &[usize]) -> Vec<f64> {
        ranks.iter().map(|rank| metric(self.kind, std::slice::from_ref(rank), self.k)).collect()
    }
}
