//! A finding as a table of text, for terminals, job summaries and pages.

use super::{Finding, Row, Verdict};
use crate::Error;

impl Finding {
    /// The header, then a line for each row; columns in which no row has anything are left out.
    pub fn table(&self) -> Vec<Vec<String>> {
        let header = ["", "ours", "expected", "difference", "between", "and", "allowed", "p", ""].map(str::to_owned);
        let lines: Vec<[String; 9]> = std::iter::once(header).chain(self.rows.iter().map(Row::cells)).collect();
        // Name and outcome have no header.
        let used: Vec<usize> =
            (0..9).filter(|&c| c == 0 || c == 8 || lines[1..].iter().any(|line| !line[c].is_empty())).collect();
        lines.into_iter().map(|line| used.iter().map(|&c| line[c].clone()).collect()).collect()
    }
}

impl Row {
    /// `±0.0066`, or `+0.21` where only growth counts.
    pub fn allowed_in_words(&self) -> Option<String> {
        let sign = if self.one_sided { '+' } else { '±' };
        self.allowed.map(|allowed| format!("{sign}{allowed:.*}", self.decimals))
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
            self.allowed_in_words().unwrap_or_default(),
            self.p.map_or(String::new(), |p| format!("{p:.3}")),
            self.outcome.map_or("told", |outcome| outcome.word()).to_owned(),
        ]
    }
}

impl Verdict {
    /// A job summary of a verdict that there is not, with the reason.
    pub fn markdown_of(refusal: &Error) -> String {
        format!("**could not be judged: {refusal}**\n")
    }

    /// A job summary: the sentence, then a table for each finding.
    pub fn markdown(&self) -> String {
        let mut text = format!("**{}**\n", self.sentence);
        for note in &self.notes {
            text += &format!("\nNote: {note}.\n");
        }
        for finding in &self.findings {
            let Finding { claim, outcome, source, sentence, .. } = finding;
            text += &format!("\n### {claim}: {}\n\nExpected: {source}\n\n{sentence}\n", outcome.word());
            if finding.rows.is_empty() {
                continue;
            }
            text += "\n";
            for (i, line) in finding.table().iter().enumerate() {
                text += &format!("| {} |\n", line.join(" | "));
                if i == 0 {
                    text += &format!("|{}\n", " --- |".repeat(line.len()));
                }
            }
        }
        text
    }
}
