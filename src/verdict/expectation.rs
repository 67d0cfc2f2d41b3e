//! What a run of a configuration is expected to give, and the judgement of a result.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::EvalConfig;
use crate::eval::MetricValues;
use crate::train::RunResult;
use crate::{Error, Result};

/// An expectation file, `configs/expectations/<config>.yaml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// Where the values come from.
    pub source: String,
    margin: Margin,
    best_epoch: Option<usize>,
    valid: Metrics,
    test: Metrics,
}

/// Expected values under RecBole's names, `recall@10`.
type Metrics = BTreeMap<String, f64>;

/// The file's form: values in a golden file, or written out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: String,
    margin: Margin,
    /// A golden whole-run file, from this file's folder.
    golden: Option<std::path::PathBuf>,
    #[serde(default)]
    valid: Metrics,
    #[serde(default)]
    test: Metrics,
}

/// How far a result may lie from what is expected, either way.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Margin {
    /// For every metric, in its own unit.
    metric: f64,
    /// For the best epoch.
    epoch: Option<usize>,
}

/// The parts of a golden whole-run file that are needed here.
#[derive(Debug, Deserialize)]
struct Golden {
    valid: Vec<Metrics>,
    test: Metrics,
    resolved_config: Map<String, Value>,
}

/// Every comparison, and the whole in one sentence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub holds: bool,
    pub sentence: String,
    pub source: String,
    pub rows: Vec<Row>,
}

/// One value beside what is expected.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    /// `None` where the run has no such value.
    pub ours: Option<f64>,
    pub expected: f64,
    pub allowed: f64,
    pub holds: bool,
    #[serde(skip)]
    pub decimals: usize,
}

impl Expectation {
    /// Reads an expectation and the golden file that it names.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| {
            Error::io(path, "read what is expected", e)
                .hint("name it with --expect FILE, or use `dif-sr train`, which expects nothing")
        })?;
        let file: File = serde_yaml::from_str(&text).map_err(|e| {
            Error::new(format!("expected an expectation, found {e}")).at(path).hint("see docs/verdict.md for the form")
        })?;
        let File { source, margin, golden, valid, test } = file;
        let wrong =
            |problem: String| Error::new(problem).at(path).hint("correct the file; docs/verdict.md has its form");
        if !(margin.metric.is_finite() && margin.metric >= 0.0) {
            return Err(wrong(format!("`margin.metric`: expected a number of at least 0, found {}", margin.metric)));
        }
        if let Some((name, value)) = valid.iter().chain(&test).find(|(_, value)| !value.is_finite()) {
            return Err(wrong(format!("`{name}`: expected a finite number, found {value}")));
        }
        if golden.is_some() != (valid.is_empty() && test.is_empty()) {
            return Err(wrong(
                "expected either `golden` or values under `valid` and `test`, found both or neither".into(),
            ));
        }
        if golden.is_none() && margin.epoch.is_some() {
            return Err(wrong("expected `margin.epoch` beside `golden` alone, which has a best epoch".into()));
        }
        let Some(golden) = golden else {
            return Ok(Self { source, margin, best_epoch: None, valid, test });
        };
        let golden_path = path.parent().unwrap_or(Path::new("")).join(golden);
        let text = fs::read_to_string(&golden_path).map_err(|e| Error::io(&golden_path, "read the golden file", e))?;
        let golden: Golden = serde_json::from_str(&text)
            .map_err(|e| Error::new(format!("expected a golden file, found {e}")).at(&golden_path))?;
        let (best_epoch, valid) = golden.best().ok_or_else(|| {
            Error::new("expected metrics under `valid` and their `valid_metric`, found none").at(&golden_path)
        })?;
        Ok(Self { source, margin, best_epoch: Some(best_epoch), valid, test: golden.test })
    }

    /// Checks, before a training, that it will compute every expected metric: a smaller claim is another claim.
    pub fn check(&self, config: &EvalConfig) -> Result<()> {
        let computed: Vec<String> = (config.metrics.iter())
            .flat_map(|metric| config.topk.iter().map(|k| format!("{}@{k}", metric.name())))
            .collect();
        match self.valid.keys().chain(self.test.keys()).find(|name| !computed.contains(name)) {
            None => Ok(()),
            Some(name) => {
                Err(Error::new(format!("`{name}` is expected, but the run computes {}", computed.join(", ")))
                    .hint("add it to metrics and topk, or expect something else with --expect"))
            }
        }
    }

    /// Compares a result with every expected value; one that the result lacks is a failure.
    pub fn judge(&self, result: &RunResult) -> Verdict {
        let mut rows = Vec::new();
        if let (Some(expected), Some(allowed)) = (self.best_epoch, self.margin.epoch) {
            let (ours, expected) = (Some(result.best_epoch as f64), expected as f64);
            rows.push(Row::new("best epoch".to_owned(), ours, expected, allowed as f64, 0));
        }
        let splits =
            [("valid", &self.valid, result.best_valid.as_ref()), ("test", &self.test, Some(&result.test.metrics))];
        for (split, expected, ours) in splits {
            // In the order of the run's metrics; then what it does not have.
            let has = |name: &str| ours.is_some_and(|ours| ours.named().any(|(other, _)| other == name));
            let found = ours.into_iter().flat_map(MetricValues::named).map(|(name, value)| (name, Some(value)));
            let lacking = expected.keys().filter(|name| !has(name)).map(|name| (name.clone(), None));
            for (name, ours) in found.chain(lacking) {
                if let Some(&expected) = expected.get(&name) {
                    rows.push(Row::new(format!("{split} {name}"), ours, expected, self.margin.metric, 4));
                }
            }
        }

        let failed: Vec<&str> = rows.iter().filter(|row| !row.holds).map(|row| row.name.as_str()).collect();
        let holds = failed.is_empty();
        let sentence = if holds {
            format!("pass: all {} values are within their margin", rows.len())
        } else {
            format!("FAIL: {} of {} values are outside their margin: {}", failed.len(), rows.len(), failed.join(", "))
        };
        Verdict { holds, sentence, source: self.source.clone(), rows }
    }
}

impl Golden {
    /// The best epoch, the first with the highest `valid_metric`, with its metrics.
    fn best(&self) -> Option<(usize, Metrics)> {
        let metric = self.resolved_config.get("valid_metric")?.as_str()?.to_lowercase();
        let mut best: Option<(usize, f64)> = None;
        for (epoch, metrics) in self.valid.iter().enumerate() {
            let score = *metrics.get(&metric)?;
            if best.is_none_or(|(_, highest)| score > highest) {
                best = Some((epoch, score));
            }
        }
        best.map(|(epoch, _)| (epoch, self.valid[epoch].clone()))
    }
}

impl Row {
    fn new(name: String, ours: Option<f64>, expected: f64, allowed: f64, decimals: usize) -> Self {
        // Values are decimals of four places; half a unit of a further place absorbs their binary representation.
        let holds = ours.is_some_and(|ours| (ours - expected).abs() <= allowed + 5e-6);
        Self { name, ours, expected, allowed, holds, decimals }
    }
}
