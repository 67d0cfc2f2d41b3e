//! A finding as a table of text, for terminals, job summaries and pages.

use super::{Finding, Row, Verdict};
use crate::Error;

impl Finding {
    /// The header, then a line for each row; columns in which no row has anything are left out.
    pub fn table(&self) -> Vec<Vec<String>> {
        let header = ["", "ours", "expected", "difference", "between", "and", "allowed", "p", ""].map(str::to_owned);
        used_columns(std::iter::once(header).chain(self.rows.iter().map(Row::cells)).collect())
    }
}

impl Row {
    /// `±0.0066`, or `+0.21` where only growth counts.
    pub fn allowed_in_words(&self) -> String {
        let sign = if self.one_sided { '+' } else { '±' };
        format!("{sign}{:.*}", self.decimals, self.allowed)
    }

    fn cells(&self) -> [String; 9] {
        let number = |x: f64| format!("{x:.*}", self.decimals);
        let signed = |x: f64| format!("{x:+.*}", self.decimals);
        let [low, high] = self.interval.map_or([String::new(), String::new()], |interval| interval.map(signed));
        [
            self.name.clone(),
            self.ours.map_or("none".to_owned(), number),
            number(self.expected),
            self.difference().map_or(String::new(), signed),
            low,
            high,
            self.allowed_in_words(),
            self.p.map_or(String::new(), |p| format!("{p:.3}")),
            self.outcome.word().to_owned(),
        ]
    }
}

impl Verdict {
    /// By this a job summary of this program is known.
    pub const MARKDOWN_GENERATOR: &str = "<!-- written by `dif-sr gate --markdown`, never by hand -->";

    /// A job summary of a verdict that there is not, with the reason.
    pub fn markdown_of(refusal: &Error) -> String {
        format!("{}\n**could not be judged: {refusal}**\n", Self::MARKDOWN_GENERATOR)
    }

    /// A job summary: the sentence, then a table for each finding.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n**{}**\n", Self::MARKDOWN_GENERATOR, self.sentence);
        for note in &self.notes {
            text += &format!("\nNote: {note}.\n");
        }
        for finding in &self.findings {
            let Finding { claim, outcome, source, sentence, .. } = finding;
            text += &format!("\n### {claim}: {}\n\nExpected: {source}\n\n{sentence}\n", outcome.word());
            if finding.rows.is_empty() {
                continue;
            }
            text += &format!("\n{}", markdown_table(&finding.table()));
        }
        text
    }
}

/// A header and rows as a table in Markdown.
pub(crate) fn markdown_table(rows: &[Vec<String>]) -> String {
    let line = |cells: &Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.insert(1, format!("|{}\n", " --- |".repeat(rows[0].len())));
    lines.concat()
}

/// The columns that say something: a header without a name, and those in which any row has something.
pub(super) fn used_columns<const N: usize>(rows: Vec<[String; N]>) -> Vec<Vec<String>> {
    let is_used = |&c: &usize| rows[0][c].is_empty() || rows[1..].iter().any(|row| !row[c].is_empty());
    let used: Vec<usize> = (0..N).filter(is_used).collect();
    rows.iter().map(|row| used.iter().map(|&c| row[c].clone()).collect()).collect()
}
