//! What a judge finds, for people and for machines.

use std::fmt;

use serde::Serialize;

use crate::outside::Fact;
use crate::{Cause, Comparison, Group, Stage};

/// A dump beside its case. Its `Display` is the report that `dif-sr verify --against` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The case's name.
    pub case: String,
    /// The dump's file.
    pub dump: String,
    /// The less precise of the dump's and the case's, whose tolerance holds for all tensors.
    pub precision: &'static str,
    pub verdict: Verdict,
    /// In the order of the computation.
    pub stages: Vec<Group>,
    /// What was checked outside of the golden tensors.
    pub facts: Vec<Fact>,
    /// What absent and additional keys say.
    pub evidence: Vec<String>,
    /// Deliberate deviations.
    pub accepted: Vec<Accepted>,
    /// What is required and not in the dump.
    pub missing: Vec<Missing>,
    /// Stages of the case of which the dump holds nothing.
    pub not_dumped: Vec<Stage>,
    /// Keys of the dump that mean nothing to the judge.
    pub unknown: Vec<String>,
    /// Where it departs first, and why.
    pub departure: Option<Departure>,
}

/// Whether a dump is that of a DIF-SR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All that is required is there, and right or accepted.
    Pass,
    /// Something is wrong.
    Departs,
    /// What is there is right; something that is required is not there.
    Incomplete,
}

/// Where a dump departs first, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Departure {
    pub stage: Stage,
    pub tensor: Comparison,
    pub cause: Cause,
}

/// A deliberate deviation.
#[derive(Debug, Clone, Serialize)]
pub struct Accepted {
    pub name: String,
    pub reason: String,
    /// What the fault of that name is.
    pub text: Option<String>,
    /// How many tensors depart by it; 0: it was not seen.
    pub tensors: usize,
}

/// What is required and not in the dump.
#[derive(Debug, Clone, Serialize)]
pub struct Missing {
    /// The name that `--require` takes.
    pub stage: String,
    /// How many of `needed` tensors.
    pub missing: usize,
    pub needed: usize,
    /// Their keys, `*` for a layer's number and for `weight` or `bias`.
    pub keys: Vec<String>,
}

impl Report {
    /// Whether all that is required is there, and right or accepted.
    pub fn holds(&self) -> bool {
        self.verdict == Verdict::Pass
    }

    /// The last paragraph: the verdict in words.
    fn sentence(&self) -> String {
        let accepted = self.accepted.iter().filter(|accepted| accepted.tensors > 0).count();
        let but = if accepted > 0 { format!(" but for {accepted} accepted deviation(s)") } else { String::new() };
        match (self.verdict, &self.departure) {
            (Verdict::Pass, _) => format!("pass: every tensor of the dump is within tolerance{but}"),
            (Verdict::Departs, Some(departure)) => departure.to_string(),
            (Verdict::Departs, None) => {
                let wrong: Vec<&str> = self.facts.iter().filter(|f| f.departs()).map(|f| f.name.as_str()).collect();
                format!(
                    "departs outside of the case: {}; every golden tensor of the dump is within tolerance{but}",
                    wrong.join(", ")
                )
            }
            (Verdict::Incomplete, _) => {
                let lacking: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
                let there: Vec<String> = self.dumped().collect();
                let require = match &there[..] {
                    [] => String::new(),
                    names => format!(", or ask for less: --require {}", names.join(",")),
                };
                format!(
                    "incomplete: what is in the dump is within tolerance{but}, and does not yet make it DIF-SR; missing: {}; dump \
                     it{require}",
                    lacking.join("; ")
                )
            }
        }
    }

    /// The computed stages of which nothing that is required is missing.
    fn dumped(&self) -> impl Iterator<Item = String> + '_ {
        let computed = self.stages.iter().map(|group| group.name).filter(|name| *name > Stage::Parameters);
        let last = computed.map(Stage::id).filter(|id| self.missing.iter().all(|missing| missing.stage != *id));
        last.filter(|id| !id.starts_with("layer."))
    }
}

impl Fact {
    /// Whether it is wrong and not accepted.
    pub fn departs(&self) -> bool {
        !self.holds && !self.accepted
    }

    fn verdict(&self) -> &'static str {
        if self.holds {
            "pass"
        } else if self.accepted {
            "accepted"
        } else {
            "departs"
        }
    }
}

impl Group {
    /// Whether every tensor is within tolerance, or accepted.
    pub fn holds(&self) -> bool {
        self.first_departure.is_none()
    }

    /// One word.
    pub fn verdict(&self) -> &'static str {
        match self.holds() {
            false => "departs",
            true if self.accepted > 0 => "accepted",
            true => "pass",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, held to {} in {}", self.dump, self.case, self.precision)?;
        writeln!(f, "{}", aligned(&stage_rows(&self.stages, |group| group.verdict().to_owned())))?;
        let listed = |names: Vec<String>| names.join(", ");
        if !self.not_dumped.is_empty() {
            let names = self.not_dumped.iter().map(ToString::to_string).collect();
            writeln!(f, "  not in the dump: {}", listed(names))?;
        }
        if !self.unknown.is_empty() {
            writeln!(f, "  not in the case, passed over: {}", listed(self.unknown.clone()))?;
        }
        for fact in &self.facts {
            writeln!(f, "  {}: {}: {}", fact.name, fact.found, fact.verdict())?;
        }
        for said in &self.evidence {
            writeln!(f, "  {said}")?;
        }
        for accepted in &self.accepted {
            writeln!(f, "  {accepted}")?;
        }
        write!(f, "\n{}", self.sentence())
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "departs first at {} ({}): {}", self.stage, self.tensor, self.cause)
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.text.as_ref().map_or(String::new(), |text| format!(" ({text})"));
        let seen = match self.tensors {
            0 => "not seen in this dump".to_owned(),
            1 => "1 tensor departs by it".to_owned(),
            n => format!("{n} tensors depart by it"),
        };
        write!(f, "accepted: {}{what}: {}; {seen}", self.name, self.reason)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, missing, needed, keys } = self;
        let shown = keys.iter().take(3).map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let more = if keys.len() > 3 { ", …" } else { "" };
        match missing == needed {
            true => write!(f, "{stage} ({shown}{more})"),
            false => write!(f, "{missing} of {needed} tensors of {stage} ({shown}{more})"),
        }
    }
}

/// A header, and a row for each stage: how many tensors, the largest error beside what is allowed, and the verdict.
pub fn stage_rows(stages: &[Group], verdict: impl Fn(&Group) -> String) -> Vec<Vec<String>> {
    let header = ["  stage", "tensors", "error", "allowed", "verdict"].map(str::to_owned);
    let row = |group: &Group| {
        let (error, allowed) = group.worst.error_and_bound();
        let numbers = [group.tensors.to_string(), format!("{error:.1e}"), format!("{allowed:.1e}")];
        [vec![format!("  {}", group.name)], numbers.into(), vec![verdict(group)]].concat()
    };
    std::iter::once(header.into()).chain(stages.iter().map(row)).collect()
}

/// Rows of columns, each as wide as its widest cell: the first to the left, the others to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(c, (cell, &w))| if c == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
