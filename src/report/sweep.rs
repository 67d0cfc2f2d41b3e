//! A sweep at a glance: a row for each group, and the verdicts.

use maud::{Markup, html};

use super::page::{class, document, table};
use super::records::{METRICS, address, spread, test};
use crate::sweep::{GroupSummary, Missing, Summary};

/// The header, then a line for each group: mean ± deviation over its finished runs, and the verdict.
pub fn sweep_table(summary: &Summary) -> Vec<Vec<String>> {
    let mut valid: Vec<&str> = summary.groups.iter().filter_map(|group| group.valid_metric.as_deref()).collect();
    valid.dedup();
    let valid = match valid[..] {
        [metric] => format!("valid {metric}"),
        _ => "valid".to_owned(),
    };
    let metrics = METRICS.map(|metric| format!("test {metric}"));
    let mut rows =
        vec![[vec!["group".to_owned(), "n".to_owned(), valid], metrics.into(), vec!["verdict".to_owned()]].concat()];
    for group in &summary.groups {
        let test =
            METRICS.map(|metric| spread(&group.records.iter().map(|record| test(record, metric)).collect::<Vec<_>>()));
        let n = match group.records.len() {
            n if n == group.planned => n.to_string(),
            n => format!("{n} of {}", group.planned),
        };
        rows.push(
            [vec![group.group.clone(), n, spread(&group.valid)], test.into(), vec![verdict(group).to_owned()]].concat(),
        );
    }
    rows
}

fn verdict(group: &GroupSummary) -> &'static str {
    match &group.verdict {
        Some(verdict) => verdict.outcome.word(),
        None if group.is_held => "waits",
        None => "none",
    }
}

/// The page of a sweep, with links to those of its groups.
pub fn sweep_page(name: &str, summary: &Summary) -> String {
    let (planned, done) = summary.counts();
    let title = format!("Sweep {name}");
    let under = html! { p { (done) " of " (planned) " runs are finished" } };
    let main = html! {
        section { h2 { "Groups" } (groups(summary)) }
        section {
            h2 { "Verdicts" }
            @for group in &summary.groups {
                @if let Some(verdict) = &group.verdict {
                    h3 { (group.group) }
                    p.verdict.(class(verdict.outcome)) { strong { (verdict.sentence) } }
                    @for note in &verdict.notes { p { "Note: " (note) "." } }
                }
            }
            @if summary.groups.iter().all(|group| !group.is_held) {
                p { "None: no group names what is expected (" code { "expect" } " in sweep.yaml)." }
            } @else if summary.outcome().is_none() {
                p { "None yet: a group is judged once all of its runs are finished." }
            }
        }
        @if !summary.missing.is_empty() { section { h2 { "Missing runs" } (missing(&summary.missing)) } }
    };
    document(&title, &under, &main)
}

fn groups(summary: &Summary) -> Markup {
    let mut rows = sweep_table(summary);
    let header = rows.remove(0);
    let name = |group: &GroupSummary| match group.records.is_empty() {
        true => html! { (group.group) },
        false => html! { a href=(link(&group.group)) { (group.group) } },
    };
    let row = |(row, group): (&Vec<String>, &GroupSummary)| {
        std::iter::once(name(group)).chain(row[1..].iter().map(|cell| html! { (cell) })).collect()
    };
    let rows: Vec<Vec<Markup>> = rows.iter().zip(&summary.groups).map(row).collect();
    let caption = "Mean ± deviation over seeds. Choose a configuration by the validation, and report its test.";
    table("groups", caption, &header, &rows)
}

fn missing(missing: &[Missing]) -> Markup {
    let row = |Missing { task, state }: &Missing| {
        vec![task.group.clone(), task.seed.to_string(), task.task.to_string(), state.in_words()]
    };
    let header = ["group", "seed", "task", "state"].map(str::to_owned);
    table("missing runs", "", &header, &missing.iter().map(row).collect::<Vec<_>>())
}

/// The address of a group's page, from the sweep's.
fn link(group: &str) -> String {
    // A first part such as `a:b` would be taken for a scheme.
    format!("./{}/report.html", address(group))
}
