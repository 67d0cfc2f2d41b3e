//! How a verdict is printed, for all commands that come to one.

use dif_sr::verdict::{Finding, Verdict};

use super::output;

/// Every finding with its table and, where there are several, what it says; the notes, and the sentence.
pub fn text(verdict: &Verdict) -> String {
    let finding = |finding: &Finding| {
        let Finding { claim, source, outcome, sentence, rows } = finding;
        let table = if rows.is_empty() { String::new() } else { output::table(&finding.table()) + "\n" };
        let own = match verdict.findings.len() {
            1 => String::new(),
            _ => format!("{}: {sentence}\n", outcome.word()),
        };
        format!("{claim}, expected: {source}\n\n{table}{own}")
    };
    let findings = verdict.findings.iter().map(finding);
    let notes = verdict.notes.iter().map(|note| format!("note: {note}"));
    findings.chain(notes).chain([verdict.sentence.clone()]).collect::<Vec<_>>().join("\n")
}
