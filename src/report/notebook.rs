//! Runs in the form of the authors' notebooks, as Markdown: Environments, Dataset, Code, Results, Logs.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Run;
use crate::eval::MetricAt;
use crate::verdict::statistics::{deviation, mean, median};
use crate::verdict::{Expectation, Verdict};

/// By this a page of this program is known.
pub const NOTEBOOK_GENERATOR: &str = "<!-- written by `dif-sr report --markdown`, never by hand -->";

/// The page of one or several runs: of one configuration with their spread, of several side by side.
pub fn notebook(runs: &[Run], expected: Option<(&Expectation, &Verdict)>) -> String {
    let dataset = each_once(runs.iter().map(|run| run.record.dataset.clone())).join(", ");
    let sections = [environments(runs), data(runs), code(runs), results(runs, expected), logs(runs)];
    format!("{NOTEBOOK_GENERATOR}\n# DIF-SR on {dataset}\n\n{}", sections.join("\n"))
}

fn environments(runs: &[Run]) -> String {
    let mut keys: Vec<&String> = Vec::new();
    for key in runs.iter().flat_map(|run| run.record.environment.keys()) {
        // What differs from run to run by its nature is told beside the results.
        if !keys.contains(&key) && key != "seed" && key != "started" {
            keys.push(key);
        }
    }
    let line = |key: &&String| {
        let values = runs.iter().map(|run| run.record.environment(key));
        format!("| {key} | {} |\n", cell(&each_once(values).join("; ")))
    };
    format!("## Environments\n\n| what | value |\n| --- | --- |\n{}", keys.iter().map(line).collect::<String>())
}

fn data(runs: &[Run]) -> String {
    let summaries = each_once(runs.iter().map(|run| summary(&run.log, &run.record.dataset)));
    format!("## Dataset\n\n```text\n{}\n```\n", summaries.join("\n\n"))
}

/// The different ones, in the order of their first.
fn each_once(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    texts.filter(|text| seen.insert(text.clone())).collect()
}

/// RecBole's summary of the data set, as the log has it.
fn summary(log: &str, dataset: &str) -> String {
    let lines = log.lines().skip_while(|line| !line.ends_with(&format!("    INFO  {dataset}")));
    let mut kept = vec![dataset.to_owned()];
    kept.extend(lines.skip(1).take_while(|line| !line.contains("    INFO  ")).map(str::to_owned));
    kept.join("\n")
}

fn code(runs: &[Run]) -> String {
    let of = |runs: &Vec<&Run>| {
        let seeds: Vec<String> = runs.iter().map(|run| run.record.seed.to_string()).collect();
        let config: String = runs[0].record.config.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        format!(
            "\n`dif-sr train --config_files {}/config.yaml`, with `--seed` {}.\n\n<details><summary>Configuration</summary>\n\n\
             ```yaml\n{config}```\n\n</details>\n",
            runs[0].folder.display(),
            seeds.join(", "),
        )
    };
    format!("## Code\n{}", configurations(runs).iter().map(of).collect::<String>())
}

fn results(runs: &[Run], expected: Option<(&Expectation, &Verdict)>) -> String {
    let mut text = "## Results\n".to_owned();
    if let Some((_, verdict)) = expected {
        text += &format!("\n**{}**\n", cell(&verdict.sentence));
        text.extend(verdict.notes.iter().map(|note| format!("\nNote: {note}.\n")));
    }
    text += &match &configurations(runs)[..] {
        [] | [_] => spread(runs, expected.map(|(expectation, _)| expectation)),
        several => side_by_side(several),
    };
    text += "\n| run | seed | best epoch | epochs | median epoch, s | commit | started |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    for run in runs {
        let record = &run.record;
        text += &format!(
            "| {} | {} | {} | {} | {:.2} | {} | {} |\n",
            cell(&run.name()),
            record.seed,
            record.best_epoch,
            record.epochs,
            median(&record.epoch_seconds),
            record.environment("commit"),
            record.environment("started"),
        );
    }
    text
}

/// The mean of each metric of runs of one configuration, beside what is published.
fn spread(runs: &[Run], expected: Option<&Expectation>) -> String {
    let figure = |metric: MetricAt| {
        let mut figures = expected.iter().flat_map(|expectation| expectation.test_figures());
        figures.find(|&(other, _)| other == metric).map_or(String::new(), |(_, value)| format!("{value:.4}"))
    };
    let mut text =
        format!("\n| test, n = {} | mean | deviation | published |\n| --- | --- | --- | --- |\n", runs.len());
    for metric in runs.first().iter().flat_map(|run| run.record.test.names()) {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.record.test.get(metric)).collect();
        let spread = if values.len() > 1 { format!("{:.4}", deviation(&values)) } else { String::new() };
        text += &format!("| {metric} | {:.4} | {spread} | {} |\n", mean(&values), figure(metric));
    }
    text
}

/// Runs of equal configurations, in the order of their first.
fn configurations(runs: &[Run]) -> Vec<Vec<&Run>> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    for run in runs {
        match groups.iter_mut().find(|group| group[0].record.config == run.record.config) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    groups
}

/// A line for each configuration, in means over its runs.
fn side_by_side(configurations: &[Vec<&Run>]) -> String {
    let metrics: Vec<MetricAt> = configurations[0][0].record.test.names().collect();
    let mut text = format!(
        "\n| test | n | best epoch | epochs | minutes | {} |\n| --- | --- | --- | --- | --- |{}\n",
        metrics.iter().map(MetricAt::to_string).collect::<Vec<_>>().join(" | "),
        " --- |".repeat(metrics.len())
    );
    for runs in configurations {
        let of = |value: &dyn Fn(&Run) -> Option<f64>| runs.iter().filter_map(|run| value(run)).collect::<Vec<f64>>();
        let whole = |value: &dyn Fn(&Run) -> usize| format!("{:.0}", mean(&of(&|run| Some(value(run) as f64))));
        let seconds = |run: &Run| {
            let Run { record, .. } = run;
            record.epoch_seconds.iter().chain(&record.evaluation_seconds).sum::<f64>()
        };
        let metric = |&metric: &MetricAt| {
            let values = of(&|run| run.record.test.get(metric));
            match values.len() {
                0 => String::new(),
                1 => format!("{:.4}", values[0]),
                _ => format!("{:.4} ± {:.4}", mean(&values), deviation(&values)),
            }
        };
        let mut firsts = configurations.iter().map(|runs| runs[0]);
        let base = firsts.find(|first| model(first) == model(runs[0])).unwrap_or(runs[0]);
        text += &format!(
            "| {} | {} | {} | {} | {:.0} | {} |\n",
            cell(&difference(base, runs[0])),
            runs.len(),
            whole(&|run| run.record.best_epoch),
            whole(&|run| run.record.epochs),
            mean(&of(&|run| Some(seconds(run) / 60.0))),
            metrics.iter().map(metric).collect::<Vec<_>>().join(" | "),
        );
    }
    text
}

fn model(run: &Run) -> Option<&Value> {
    run.record.config.get("model")
}

/// A run's model, and the keys in which it differs from another run of that model.
fn difference(base: &Run, run: &Run) -> String {
    let [own, of_base] = [run, base].map(|run| &run.record.config);
    let value = |config: &Map<String, Value>, key: &str| config.get(key).cloned().unwrap_or_default();
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let model = text(value(own, "model"));
    let keys: BTreeSet<&String> = own.keys().chain(of_base.keys()).collect();
    let differing = keys.into_iter().filter(|key| value(own, key) != value(of_base, key));
    std::iter::once(model)
        .chain(differing.map(|key| format!("{key} {}", text(value(own, key)))))
        .collect::<Vec<_>>()
        .join(", ")
}

fn logs(runs: &[Run]) -> String {
    let log = |run: &Run| {
        format!("<details><summary>{}</summary>\n\n```text\n{}\n```\n\n</details>\n", run.name(), run.log.trim_end())
    };
    format!("## Logs\n\n{}", runs.iter().map(log).collect::<Vec<_>>().join("\n"))
}

/// Text inside of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
