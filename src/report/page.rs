//! The page: one HTML file that needs neither network nor script.

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use super::chart::{COLOURS, Chart};
use super::run::{Run, draws, title};
use crate::Result;
use crate::config::MetricKind;
use crate::eval::MetricAt;
use crate::verdict::statistics::{deviation, mean, median};
use crate::verdict::{Expectation, Finding, Outcome, Verdict};

/// By this a page of this program is known.
pub const GENERATOR: &str = "<meta name=\"generator\" content=\"dif-sr report\">";

const STYLE: &str = include_str!("page.css");

/// The page of one or several runs; with an expectation its verdict, and its figures as lines in the charts.
///
/// # Errors
/// A chart that cannot be drawn.
pub fn page(runs: &[Run], expected: Option<(&Expectation, &Verdict)>) -> Result<String> {
    let title = title(runs);
    let charts = charts(runs, expected.map(|(expectation, _)| expectation));
    let charts = charts.iter().map(|chart| figure(chart, runs)).collect::<Result<Vec<_>>>()?;
    let main = html! {
        @if let Some((_, verdict)) = expected { (verdict_section(verdict)) }
        section { h2 { "Results" } (results(runs)) }
        section { h2 { "Curves" } div.charts { @for chart in &charts { (chart) } } }
        section { h2 { "Times" } (times(runs)) }
        @if runs.len() > 1 { section { h2 { "Differences between the runs" } (differences(runs)) } }
        section {
            h2 { "Environment and configuration" }
            @for run in runs { (run_details(run)) }
        }
    };
    Ok(document(&title, &legend(runs), &main))
}

/// A page of this program.
pub(super) fn document(title: &str, under_title: &Markup, main: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                (PreEscaped(GENERATOR))
                // Nothing is fetched, whatever a name in the data looks like.
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { (title) } (under_title) }
                main { (main) }
            }
        }
    };
    page.into_string()
}

fn legend(runs: &[Run]) -> Markup {
    html! {
        ul.legend {
            @for (i, run) in runs.iter().enumerate() {
                li {
                    svg class="swatch" viewBox="0 0 24 8" aria-hidden="true" {
                        line x1="0" y1="4" x2="24" y2="4" stroke=(hex(i)) stroke-width="3" {}
                    }
                    (run.name()) " (seed " (run.record.seed) ")"
                }
            }
        }
    }
}

fn verdict_section(verdict: &Verdict) -> Markup {
    html! {
        section {
            h2 { "Verdict" }
            p.verdict.(class(verdict.outcome)) { strong { (verdict.sentence) } }
            @for note in &verdict.notes { p { "Note: " (note) "." } }
            @for finding in &verdict.findings { (finding_table(finding)) }
        }
    }
}

fn finding_table(finding: &Finding) -> Markup {
    let mut rows = finding.table();
    let mut header = rows.remove(0);
    // Name and outcome have no header elsewhere.
    header[0] = "value".to_owned();
    header.last_mut().expect("an outcome").push_str("verdict");
    html! {
        h3 { (finding.claim) ": " (finding.outcome.word()) }
        p { "Expected: " (finding.source) }
        p { (finding.sentence) }
        @if !rows.is_empty() { (table(finding.claim, "", &header, &rows)) }
    }
}

/// A table in a box that scrolls where it is too wide. The first cell of a row names it; an empty caption is none.
pub(super) fn table<T: Render>(label: &str, caption: &str, header: &[String], rows: &[Vec<T>]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(format!("Table: {label}")) {
            table {
                @if !caption.is_empty() { caption { (caption) } }
                thead { tr { @for cell in header { th scope="col" { (cell) } } } }
                tbody { @for row in rows { tr {
                    @for (c, cell) in row.iter().enumerate() {
                        @if c == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                    }
                } } }
            }
        }
    }
}

/// The name of the first column, and a column for each run.
fn columns(first: &str, runs: &[Run]) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(runs.iter().map(Run::name)).collect()
}

/// Test metrics, a column for each run; of several seeds of one configuration their mean and deviation.
fn results(runs: &[Run]) -> Markup {
    let is_spread = runs.len() > 1 && draws(runs).len() == 1;
    let mut header = columns("metric", runs);
    let mut best = vec!["best epoch".to_owned()];
    best.extend(runs.iter().map(|run| format!("{} of {}", run.record.best_epoch, run.record.epochs)));
    if is_spread {
        header.extend(["mean".to_owned(), format!("deviation, n = {}", runs.len())]);
        best.extend([String::new(), String::new()]);
    }
    let number = |value: f64| format!("{value:.4}");
    let metric = |metric: MetricAt| {
        let of = runs.iter().map(|run| run.record.test.get(metric));
        let values: Vec<f64> = of.clone().flatten().collect();
        let mut row = vec![metric.to_string()];
        row.extend(of.map(|value| value.map_or(String::new(), number)));
        if is_spread {
            row.extend([mean(&values), deviation(&values)].map(number));
        }
        row
    };
    let metrics = runs.iter().take(1).flat_map(|run| run.record.test.names());
    let rows: Vec<Vec<String>> = std::iter::once(best).chain(metrics.map(metric)).collect();
    table("results", "Metrics of the test part at the best epoch", &header, &rows)
}

/// The losses, the metrics that decide, and the seconds of each epoch.
fn charts(runs: &[Run], expectation: Option<&Expectation>) -> Vec<Chart> {
    let loss = Chart {
        title: "Training loss, summed over the batches".to_owned(),
        curves: runs.iter().map(|run| run.training(|epoch| epoch.train_loss)).collect(),
        expected: Vec::new(),
    };
    let mut charts = vec![loss];
    let valid_metric = runs.first().map(|run| run.record.valid_metric);
    let at_20 = [MetricKind::Recall, MetricKind::Ndcg].map(|kind| MetricAt { kind, k: 20 });
    let metrics = runs.first().and_then(|run| run.valid.values().next()).into_iter().flat_map(|valid| valid.names());
    for metric in metrics.filter(|metric| Some(*metric) == valid_metric || at_20.contains(metric)) {
        let figures = expectation.iter().flat_map(|expectation| expectation.valid_figures());
        charts.push(Chart {
            title: format!("Validation {metric}"),
            curves: runs.iter().map(|run| run.curve(metric)).collect(),
            expected: figures
                .filter(|&(other, _)| other == metric)
                .map(|(_, value)| (format!("expected {value}"), value))
                .collect(),
        });
    }
    charts.push(Chart {
        title: "Seconds of an epoch".to_owned(),
        curves: runs.iter().map(|run| run.training(|epoch| epoch.seconds)).collect(),
        expected: Vec::new(),
    });
    charts.retain(|chart| !chart.is_empty());
    charts
}

/// A chart with what it shows in words, and its numbers.
fn figure(chart: &Chart, runs: &[Run]) -> Result<Markup> {
    let svg = chart.svg()?;
    let words = in_words(chart, runs);
    // The element's own attributes: an image to assistive technology, with this description.
    let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(&words)), 1);
    let epochs: BTreeSet<u64> = chart.curves.iter().flatten().map(|&(epoch, _)| epoch as u64).collect();
    let at = |curve: &Vec<(f64, f64)>, epoch: u64| curve.iter().find(|&&(x, _)| x as u64 == epoch).map(|&(_, y)| y);
    let row = |epoch: u64| {
        let values = chart.curves.iter().map(|curve| at(curve, epoch).map_or(String::new(), |y| format!("{y:.4}")));
        std::iter::once(epoch.to_string()).chain(values).collect()
    };
    let rows: Vec<Vec<String>> = epochs.into_iter().map(row).collect();
    Ok(html! {
        figure {
            figcaption { (chart.title) }
            (PreEscaped(svg))
            details { summary { "Numbers" } (table(&chart.title, "", &columns("epoch", runs), &rows)) }
        }
    })
}

fn in_words(chart: &Chart, runs: &[Run]) -> String {
    let curve = |(run, curve): (&Run, &Vec<(f64, f64)>)| {
        let (first, last) = (curve.first()?, curve.last()?);
        Some(format!("{} from {:.4} in epoch {} to {:.4} in epoch {}", run.name(), first.1, first.0, last.1, last.0))
    };
    let curves: Vec<String> = runs.iter().zip(&chart.curves).filter_map(curve).collect();
    let expected: Vec<String> = chart.expected.iter().map(|(label, _)| label.clone()).collect();
    [vec![format!("{}: {}", chart.title, curves.join("; "))], expected].concat().join("; ")
}

fn times(runs: &[Run]) -> Markup {
    let header = ["run", "median epoch, s", "median evaluation, s", "median calibration, ms", "epoch / calibration"];
    let row = |run: &Run| {
        let Run { record, .. } = run;
        vec![
            run.name(),
            middle(&record.epoch_seconds, 1.0),
            middle(&record.evaluation_seconds, 1.0),
            middle(&record.calibration_seconds, 1e3),
            record.relative_epoch_time().map_or(String::new(), |ratio| format!("{ratio:.1}")),
        ]
    };
    table("times", "", &header.map(str::to_owned), &runs.iter().map(row).collect::<Vec<_>>())
}

/// The median in `unit`s of a second; nothing of nothing.
fn middle(seconds: &[f64], unit: f64) -> String {
    if seconds.is_empty() { String::new() } else { format!("{:.3}", unit * median(seconds)) }
}

/// Every key of configuration and environment in which not all runs agree.
fn differences(runs: &[Run]) -> Markup {
    let row = |key: &String, of: &dyn Fn(&Run, &str) -> String| {
        std::iter::once(key.clone()).chain(runs.iter().map(|run| of(run, key))).collect::<Vec<_>>()
    };
    let config = |run: &Run, key: &str| run.record.config.get(key).map_or("—".to_owned(), ToString::to_string);
    let environment = |run: &Run, key: &str| run.record.environment(key);
    let keys = runs.iter().flat_map(|run| run.record.config.keys()).collect::<BTreeSet<_>>();
    let mut rows: Vec<Vec<String>> = keys.into_iter().map(|key| row(key, &config)).collect();
    let keys = runs.iter().flat_map(|run| run.record.environment.keys()).collect::<BTreeSet<_>>();
    rows.extend(keys.into_iter().map(|key| row(key, &environment)));
    rows.retain(|row| row[1..].iter().any(|value| value != &row[1]));
    match rows.is_empty() {
        true => html! { p { "None, in configuration and environment." } },
        false => table("differences", "", &columns("key", runs), &rows),
    }
}

fn run_details(run: &Run) -> Markup {
    let Run { record, folder, .. } = run;
    html! {
        details {
            summary { (run.name()) ": " (record.environment("cpu")) ", commit " (record.environment("commit")) }
            p { "Run folder: " code { (folder.display()) } }
            div.scroll {
                table.keys {
                    tbody {
                        @for key in record.environment.keys() { tr { th scope="row" { (key) } td { (record.environment(key)) } } }
                        @for (key, value) in &record.config { tr { th scope="row" { (key) } td { (value) } } }
                    }
                }
            }
        }
    }
}

fn hex(run: usize) -> String {
    let colour = COLOURS[run % COLOURS.len()];
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

pub(super) fn class(outcome: Outcome) -> String {
    outcome.word().to_lowercase()
}

/// Text inside of HTML, or as the value of an attribute.
pub(super) fn escaped(text: &str) -> String {
    html! { (text) }.into_string()
}
