//! How a verdict is printed and which exit code it gives, for all commands that come to one.

use dif_sr::verdict::{self, Verdict};

use super::{Outcome, output};

/// Every finding with its table, the notes, and the sentence.
pub fn text(verdict: &Verdict) -> String {
    let finding = |finding: &verdict::Finding| {
        let table = if finding.rows.is_empty() { String::new() } else { output::table(&finding.table()) + "\n" };
        format!("{}, expected: {}\n\n{table}", finding.claim, finding.source)
    };
    let findings = verdict.findings.iter().map(finding);
    let notes = verdict.notes.iter().map(|note| format!("note: {note}"));
    findings.chain(notes).chain([verdict.sentence.clone()]).collect::<Vec<_>>().join("\n")
}

impl From<verdict::Outcome> for Outcome {
    fn from(outcome: verdict::Outcome) -> Self {
        match outcome {
            verdict::Outcome::Pass => Self::Holds,
            verdict::Outcome::Fail => Self::DoesNotHold,
            verdict::Outcome::Undecided => Self::Undecided,
        }
    }
}
