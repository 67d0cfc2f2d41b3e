//! What a run of a configuration is expected to give, and the judgement of a result.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    valid: Map<String, Value>,
    test: Map<String, Value>,
}

/// The file's form: values in a golden file, or written out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: String,
    margin: Margin,
    /// A golden whole-run file, from this file's folder.
    golden: Option<std::path::PathBuf>,
    #[serde(default)]
    valid: Map<String, Value>,
    #[serde(default)]
    test: Map<String, Value>,
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
    valid: Vec<Map<String, Value>>,
    test: Map<String, Value>,
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
    pub ours: f64,
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

    /// Compares a result with every expected value that it has.
    pub fn judge(&self, result: &RunResult) -> Verdict {
        let mut rows = Vec::new();
        if let (Some(expected), Some(allowed)) = (self.best_epoch, self.margin.epoch) {
            let row = Row::new("best epoch".to_owned(), result.best_epoch as f64, expected as f64, allowed as f64, 0);
            rows.push(row);
        }
        let mut compare = |split: &str, ours: &MetricValues, expected: &Map<String, Value>| {
            for (name, ours) in ours.named() {
                if let Some(expected) = expected.get(&name).and_then(Value::as_f64) {
                    rows.push(Row::new(format!("{split} {name}"), ours, expected, self.margin.metric, 4));
                }
            }
        };
        if let Some(valid) = &result.best_valid {
            compare("valid", valid, &self.valid);
        }
        compare("test", &result.test.metrics, &self.test);

        let failed: Vec<&str> = rows.iter().filter(|row| !row.holds).map(|row| row.name.as_str()).collect();
        let holds = failed.is_empty() && !rows.is_empty();
        let sentence = if rows.is_empty() {
            "FAIL: the run has none of the expected metrics; set metrics and topk as they are expected".to_owned()
        } else if holds {
            format!("pass: all {} values are within their margin", rows.len())
        } else {
            format!("FAIL: {} of {} values are outside their margin: {}", failed.len(), rows.len(), failed.join(", "))
        };
        Verdict { holds, sentence, source: self.source.clone(), rows }
    }
}

impl Golden {
    /// The best epoch, the first with the highest `valid_metric`, with its metrics.
    fn best(&self) -> Option<(usize, Map<String, Value>)> {
        let metric = self.resolved_config.get("valid_metric")?.as_str()?.to_lowercase();
        let mut best: Option<(usize, f64)> = None;
        for (epoch, metrics) in self.valid.iter().enumerate() {
            let score = metrics.get(&metric)?.as_f64()?;
            if best.is_none_or(|(_, highest)| score > highest) {
                best = Some((epoch, score));
            }
        }
        best.map(|(epoch, _)| (epoch, self.valid[epoch].clone()))
    }
}

impl Row {
    fn new(name: String, ours: f64, expected: f64, allowed: f64, decimals: usize) -> Self {
        // Values are decimals of four places; half a unit of a further place absorbs their binary representation.
        let holds = (ours - expected).abs() <= allowed + 5e-6;
        Self { name, ours, expected, allowed, holds, decimals }
    }
}
