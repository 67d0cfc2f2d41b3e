//! Whether finished runs are what is expected: pass, fail or undecided, from the evidence that runs leave.
//!
//! ```text
//! run folder ─► Record ─┐
//! expectations/*.yaml ──┴► Expectation::judge ─► Verdict ─► JUnit, text
//! ```

mod bench;
mod compare;
mod convergence;
mod expectation;
mod figures;
mod junit;
mod power;
mod record;
mod reference;
pub mod statistics;
mod table;
mod time;

use serde::Serialize;

pub use bench::{Bench, Benches, judge_benches};
pub use compare::{Compared, Comparison, compare};
pub use expectation::Expectation;
pub use figures::{GoldenRun, Tally};
pub use power::{Power, Simulation, power};
pub use record::Record;
pub use reference::Reference;
pub(crate) use table::markdown_table;

/// What a verdict says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Ours is what is expected.
    Pass,
    /// The evidence leaves both possible.
    #[default]
    Undecided,
    /// It is not.
    Fail,
}

impl Outcome {
    /// As it is printed: what needs attention in capitals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Undecided => "undecided",
            Self::Fail => "FAIL",
        }
    }
}

/// All findings, and the whole in one sentence.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The worst outcome of the findings.
    pub outcome: Outcome,
    /// The outcome and what decided it.
    pub sentence: String,
    /// One for each claim.
    pub findings: Vec<Finding>,
    /// What a reader must know beside it.
    pub notes: Vec<String>,
}

/// One claim and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// `figures`, `recorded runs`, `convergence`, `time`, `benchmarks`.
    pub claim: &'static str,
    /// Where the expected values come from.
    pub source: String,
    /// What became of the claim.
    pub outcome: Outcome,
    /// The reason in one sentence.
    pub sentence: String,
    /// The values that were compared.
    pub rows: Vec<Row>,
}

/// One value beside what is expected.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Row {
    /// What the value is.
    pub name: String,
    /// The mean of the runs; `None` where a run has no such value.
    pub ours: Option<f64>,
    /// The recorded or published value.
    pub expected: f64,
    /// The allowed difference in the value's unit.
    pub allowed: f64,
    /// Whether only what lies above the expected value is held to what is allowed, as a time.
    pub one_sided: bool,
    /// The interval of the difference, where there is a spread to judge by.
    pub interval: Option<[f64; 2]>,
    /// The probability of so large a difference of this value where there is none. The interval is wider where several values
    /// share the error.
    pub p: Option<f64>,
    /// What became of it.
    pub outcome: Outcome,
    /// How many a reader is shown.
    #[serde(skip)]
    pub decimals: usize,
}

impl Verdict {
    /// The whole of several findings: the worst counts, and its findings make the sentence; without any, the notes do.
    pub fn of(findings: Vec<Finding>, mut notes: Vec<String>) -> Self {
        // Without a finding nothing was shown.
        let outcome = findings.iter().map(|finding| finding.outcome).max().unwrap_or_default();
        let sentences: Vec<&str> =
            findings.iter().filter(|f| f.outcome == outcome).map(|finding| finding.sentence.as_str()).collect();
        let sentence = match sentences[..] {
            [] => std::mem::take(&mut notes).join("; "),
            _ => sentences.join("; "),
        };
        Self { outcome, sentence: format!("{}: {sentence}", outcome.word()), findings, notes }
    }
}

/// The worst outcome of the rows; without any nothing was shown.
fn worst(rows: &[Row]) -> Outcome {
    rows.iter().map(|row| row.outcome).max().unwrap_or_default()
}

/// The names of the rows with this outcome.
fn named(rows: &[Row], outcome: Outcome) -> Vec<&str> {
    rows.iter().filter(|row| row.outcome == outcome).map(|row| row.name.as_str()).collect()
}

/// How many there are, in words: `1 run`, `2 runs`.
pub fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A share of a whole as a reader reads it: `+4.1 %`.
fn percent(share: f64) -> String {
    format!("{:+.1} %", 100.0 * share)
}
