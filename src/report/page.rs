//! The page: one HTML file that needs neither network nor script.

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Run;
use super::chart::{COLOURS, Chart};
use crate::Result;
use crate::config::MetricKind;
use crate::eval::MetricAt;
use crate::verdict::statistics::{deviation, mean, median};
use crate::verdict::{Expectation, Finding, Outcome, Record, Verdict};

/// By this a page of this program is known.
pub const GENERATOR: &str = "<meta name=\"generator\" content=\"dif-sr report\">";

const STYLE: &str = include_str!("page.css");

/// The page of one or several runs; with an expectation its verdict, and its figures as lines in the charts.
///
/// # Errors
/// A chart that cannot be drawn.
pub fn page(runs: &[Run], expected: Option<(&Expectation, &Verdict)>) -> Result<String> {
    let title = format!("DIF-SR on {}", runs.first().map_or("nothing", |run| run.record.dataset.as_str()));
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
    let table = finding.table();
    html! {
        h3 { (finding.claim) ": " (finding.outcome.word()) }
        p { "Expected: " (finding.source) }
        p { (finding.sentence) }
        @if let [header, lines @ ..] = &table[..] {
            @if !lines.is_empty() {
                div.scroll tabindex="0" role="region" aria-label=(format!("Table: {}", finding.claim)) {
                    table {
                        thead { tr { @for (c, cell) in header.iter().enumerate() {
                            th scope="col" { @if c == 0 { "value" } @else if cell.is_empty() { "verdict" } @else { (cell) } }
                        } } }
                        tbody { @for line in lines { tr {
                            @for (c, cell) in line.iter().enumerate() {
                                @if c == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        } } }
                    }
                }
            }
        }
    }
}

/// Test metrics, a column for each run; of several seeds of one configuration their mean and deviation.
fn results(runs: &[Run]) -> Markup {
    let seeds: BTreeSet<i64> = runs.iter().map(|run| run.record.seed).collect();
    let one_thing = Record::differing(runs.iter().map(|run| &run.record)).is_empty();
    let spread = runs.len() > 1 && seeds.len() == runs.len() && one_thing;
    let metrics: Vec<MetricAt> = runs.first().map_or_else(Vec::new, |run| run.record.test.names().collect());
    let values = |metric| runs.iter().filter_map(|run| run.record.test.get(metric)).collect::<Vec<f64>>();
    let best: Vec<String> =
        runs.iter().map(|run| format!("{} of {}", run.record.best_epoch, run.record.epochs)).collect();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table: results" {
            table {
                caption { "Metrics of the test part at the best epoch" }
                thead { tr {
                    th scope="col" { "metric" }
                    @for run in runs { th scope="col" { (run.name()) } }
                    @if spread { th scope="col" { "mean" } th scope="col" { "deviation, n = " (runs.len()) } }
                } }
                tbody {
                    tr { th scope="row" { "best epoch" } @for best in &best { td { (best) } } @if spread { td {} td {} } }
                    @for metric in metrics {
                        tr {
                            th scope="row" { (metric) }
                            @for run in runs { td { @if let Some(value) = run.record.test.get(metric) { (format!("{value:.4}")) } } }
                            @if spread {
                                td { (format!("{:.4}", mean(&values(metric)))) }
                                td { (format!("{:.4}", deviation(&values(metric)))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The losses, the metrics that decide, and the seconds of each epoch.
fn charts(runs: &[Run], expectation: Option<&Expectation>) -> Vec<Chart> {
    let loss = Chart {
        title: "Training loss, summed over the batches".to_owned(),
        curves: runs
            .iter()
            .map(|run| run.losses.iter().map(|(&epoch, loss)| (epoch as f64, loss.0)).collect())
            .collect(),
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
    let seconds = |run: &Run| run.record.epoch_seconds.iter().enumerate().map(|(i, &s)| (i as f64, s)).collect();
    charts.push(Chart {
        title: "Seconds of an epoch".to_owned(),
        curves: runs.iter().map(seconds).collect(),
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
    Ok(html! {
        figure {
            figcaption { (chart.title) }
            (PreEscaped(svg))
            details {
                summary { "Numbers" }
                div.scroll {
                    table {
                        thead { tr { th scope="col" { "epoch" } @for run in runs { th scope="col" { (run.name()) } } } }
                        tbody { @for epoch in epochs { tr {
                            th scope="row" { (epoch) }
                            @for curve in &chart.curves { td { @if let Some(y) = at(curve, epoch) { (format!("{y:.4}")) } } }
                        } } }
                    }
                }
            }
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
    html! {
        div.scroll tabindex="0" role="region" aria-label="Table: times" {
            table {
                thead { tr {
                    th scope="col" { "run" }
                    @for name in ["median epoch, s", "median evaluation, s", "median calibration, ms", "epoch / calibration"] {
                        th scope="col" { (name) }
                    }
                } }
                tbody { @for run in runs { tr {
                    th scope="row" { (run.name()) }
                    td { (middle(&run.record.epoch_seconds, 1.0)) }
                    td { (middle(&run.record.evaluation_seconds, 1.0)) }
                    td { (middle(&run.record.calibration_seconds, 1e3)) }
                    td { @if let Some(ratio) = run.record.relative_epoch_time() { (format!("{ratio:.1}")) } }
                } } }
            }
        }
    }
}

/// The median in `unit`s of a second; nothing of nothing.
fn middle(seconds: &[f64], unit: f64) -> String {
    if seconds.is_empty() { String::new() } else { format!("{:.3}", unit * median(seconds)) }
}

/// Every key of configuration and environment in which not all runs agree.
fn differences(runs: &[Run]) -> Markup {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.record.config.keys()).collect();
    let config = keys.into_iter().map(|key| {
        (
            key.clone(),
            runs.iter().map(|run| run.record.config.get(key).map_or("—".into(), ToString::to_string)).collect(),
        )
    });
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.record.environment.keys()).collect();
    let environment =
        keys.into_iter().map(|key| (key.clone(), runs.iter().map(|run| run.record.environment(key)).collect()));
    let lines: Vec<(String, Vec<String>)> = config
        .chain(environment)
        .filter(|(_, values): &(_, Vec<String>)| values.iter().any(|v| v != &values[0]))
        .collect();
    html! {
        @if lines.is_empty() { p { "None, in configuration and environment." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Table: differences" {
                table {
                    thead { tr { th scope="col" { "key" } @for run in runs { th scope="col" { (run.name()) } } } }
                    tbody { @for (key, values) in &lines { tr {
                        th scope="row" { (key) }
                        @for value in values { td { (value) } }
                    } } }
                }
            }
        }
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

pub(super) fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pass => "pass",
        Outcome::Undecided => "undecided",
        Outcome::Fail => "fail",
    }
}

/// Text as the value of an attribute.
fn escaped(text: &str) -> String {
    html! { (text) }.into_string()
}
