//! Runs in the form of the authors' notebooks, as Markdown: Environments, Dataset, Code, Results, Logs.

use serde_json::Value;

use super::page::escaped;
use super::records::spread;
use super::run::{Run, draws, each_once, text_of, title};
use crate::eval::MetricAt;
use crate::verdict::statistics::{deviation, mean, median};
use crate::verdict::{Expectation, Record, Verdict, markdown_table};

/// By this a page of this program is known.
pub const NOTEBOOK_GENERATOR: &str = "<!-- written by `dif-sr report --markdown`, never by hand -->";

/// The page of one or several runs: of one configuration with their spread, of several side by side.
pub fn notebook(runs: &[Run], expected: Option<(&Expectation, &Verdict)>) -> String {
    let sections = [environments(runs), data(runs), code(runs), results(runs, expected), logs(runs)];
    format!("{NOTEBOOK_GENERATOR}\n# {}\n\n{}", title(runs), sections.join("\n"))
}

fn environments(runs: &[Run]) -> String {
    // What differs from run to run by its nature is told beside the results.
    let keys = runs.iter().flat_map(|run| run.record.environment.keys().cloned());
    let keys = each_once(keys.filter(|key| key != "seed" && key != "started"));
    let row = |key: String| {
        let values = each_once(runs.iter().map(|run| run.record.environment(&key))).join("; ");
        vec![key, values]
    };
    let mut rows = vec![["what", "value"].map(str::to_owned).to_vec()];
    rows.extend(keys.into_iter().map(row));
    format!("## Environments\n\n{}", markdown_table(&rows))
}

fn data(runs: &[Run]) -> String {
    let summaries = each_once(runs.iter().map(|run| summary(&run.log, &run.record.dataset)));
    format!("## Dataset\n\n```text\n{}\n```\n", summaries.join("\n\n"))
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
        let file = runs[0].folder.join("config.yaml").display().to_string();
        format!(
            "\n`dif-sr train --config_files {}`, with `--seed` {}.\n\n<details><summary>Configuration</summary>\n\n\
             ```yaml\n{config}```\n\n</details>\n",
            shlex::try_quote(&file).unwrap_or(file.as_str().into()),
            seeds.join(", "),
        )
    };
    format!("## Code\n{}", draws(runs).iter().map(of).collect::<String>())
}

fn results(runs: &[Run], expected: Option<(&Expectation, &Verdict)>) -> String {
    let mut text = "## Results\n".to_owned();
    if let Some((_, verdict)) = expected {
        text += &format!("\n**{}**\n", verdict.sentence);
        text.extend(verdict.notes.iter().map(|note| format!("\nNote: {note}.\n")));
    }
    let metrics = match &draws(runs)[..] {
        [] | [_] => means(runs, expected.map(|(expectation, _)| expectation)),
        several => side_by_side(several),
    };
    let header = ["run", "seed", "best epoch", "epochs", "median epoch, s", "commit", "started"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        let record = &run.record;
        vec![
            run.name(),
            record.seed.to_string(),
            record.best_epoch.to_string(),
            record.epochs.to_string(),
            format!("{:.2}", median(&record.epoch_seconds)),
            record.environment("commit"),
            record.environment("started"),
        ]
    }));
    format!("{text}\n{}\n{}", markdown_table(&metrics), markdown_table(&rows))
}

/// The mean of each metric of runs of one configuration, beside what is published.
fn means(runs: &[Run], expected: Option<&Expectation>) -> Vec<Vec<String>> {
    let published = |metric: MetricAt| {
        let mut figures = expected.iter().flat_map(|expectation| expectation.test_figures());
        figures.find(|&(other, _)| other == metric).map_or(String::new(), |(_, value)| format!("{value:.4}"))
    };
    let row = |metric: MetricAt| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.record.test.get(metric)).collect();
        let spread = if values.len() > 1 { format!("{:.4}", deviation(&values)) } else { String::new() };
        vec![metric.to_string(), format!("{:.4}", mean(&values)), spread, published(metric)]
    };
    let n = format!("test, n = {}", runs.len());
    let mut rows = vec![[n.as_str(), "mean", "deviation", "published"].map(str::to_owned).to_vec()];
    rows.extend(runs.iter().take(1).flat_map(|run| run.record.test.names()).map(row));
    rows
}

/// A line for each configuration, in means over its runs.
fn side_by_side(configurations: &[Vec<&Run>]) -> Vec<Vec<String>> {
    let metrics: Vec<MetricAt> = configurations[0][0].record.test.names().collect();
    let mut rows = vec![["test", "n", "best epoch", "epochs", "minutes"].map(str::to_owned).to_vec()];
    rows[0].extend(metrics.iter().map(MetricAt::to_string));
    for runs in configurations {
        let of = |value: fn(&Record) -> f64| mean(&runs.iter().map(|run| value(&run.record)).collect::<Vec<f64>>());
        let minutes = of(|record| record.epoch_seconds.iter().chain(&record.evaluation_seconds).sum::<f64>() / 60.0);
        let mut firsts = configurations.iter().map(|runs| runs[0]);
        let base = firsts.find(|first| model(first) == model(runs[0])).unwrap_or(runs[0]);
        let mut row = vec![
            difference(base, runs[0]),
            runs.len().to_string(),
            format!("{:.0}", of(|record| record.best_epoch as f64)),
            format!("{:.0}", of(|record| record.epochs as f64)),
            format!("{minutes:.0}"),
        ];
        let values = |&metric| runs.iter().filter_map(|run| run.record.test.get(metric)).collect::<Vec<f64>>();
        row.extend(metrics.iter().map(|metric| spread(&values(metric))));
        rows.push(row);
    }
    rows
}

fn model(run: &Run) -> Option<&Value> {
    run.record.config.get("model")
}

/// A run's model, and the keys in which it differs from another run of that model.
fn difference(base: &Run, run: &Run) -> String {
    let own = &run.record.config;
    let differing = Record::differing([&base.record, &run.record]);
    let keys = differing.iter().map(|key| format!("{key} {}", text_of(own.get(key))));
    std::iter::once(text_of(model(run))).chain(keys).collect::<Vec<_>>().join(", ")
}

fn logs(runs: &[Run]) -> String {
    let log = |run: &Run| {
        let (name, log) = (escaped(&run.name()), run.log.trim_end());
        format!("<details><summary>{name}</summary>\n\n```text\n{log}\n```\n\n</details>\n")
    };
    format!("## Logs\n\n{}", runs.iter().map(log).collect::<Vec<_>>().join("\n"))
}
