//! The tables of recorded runs: what each gave, and its mean and spread over seeds.
//!
//! Records lie at `<data set>/<model>_<path>_<precision>/<seed>.json`. What a folder's name says is held to its records.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::eval::MetricAt;
use crate::verdict::statistics::{deviation, mean};
use crate::verdict::{Record, counted, markdown_table};
use crate::{Error, Result};

/// What the tables show of the test.
pub(super) const METRICS: [&str; 4] = ["recall@10", "recall@20", "ndcg@10", "ndcg@20"];
/// Between these lines of the README stands what is written.
const BEGIN: &str = "<!-- written by `dif-sr publish`, never by hand -->\n";
const END: &str = "<!-- end -->\n";

/// The runs of one model on one computing path in one precision, by their seeds.
struct Group {
    model: String,
    path: String,
    precision: String,
    /// The folder's name.
    name: String,
    records: Vec<Record>,
}

/// The text of `folder/README.md` with the tables of the records in `folder`.
///
/// # Errors
/// A README without the two lines that the tables stand between; a record that cannot be read, or that lies in a folder or has
/// a name that is not its own.
pub fn readme(folder: &Path) -> Result<String> {
    let path = folder.join("README.md");
    let text = fs::read_to_string(&path).map_err(|e| {
        Error::io(&path, "read the page of the records", e).hint("name a folder of the form of records/")
    })?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| {
        Error::new(format!("expected the lines `{}` and `{}`, found none", BEGIN.trim_end(), END.trim_end()))
            .at(&path)
            .hint("put them where the tables of the records shall stand")
    })?;
    Ok([before, BEGIN, &tables(folder)?, END, after].concat())
}

/// For each data set a table of means over seeds, and one of the runs.
fn tables(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for dataset in folders(folder)? {
        let groups = folders(&dataset)?.iter().map(|path| Group::read(path)).collect::<Result<Vec<_>>>()?;
        let mut groups: Vec<Group> = groups.into_iter().filter(|group| !group.records.is_empty()).collect();
        groups.sort_by(|a, b| (&a.model, &a.path, &a.precision).cmp(&(&b.model, &b.path, &b.precision)));
        if groups.is_empty() {
            continue;
        }
        let dataset = name(&dataset);
        text += &format!("\n### {dataset}\n\n{}\n{}", means(&groups), runs(&dataset, &groups));
    }
    if text.is_empty() {
        return Err(Error::new("expected records, found none")
            .at(folder)
            .hint("record runs with `dif-sr record RUN... --into records/<data set>/<model>_<path>_<precision>`"));
    }
    Ok(text + "\n")
}

fn means(groups: &[Group]) -> String {
    let header = [&["model", "path", "precision", "n"], &METRICS[..]].concat();
    let row = |Group { model, path, precision, records, .. }: &Group| {
        let of = |metric| spread(&records.iter().map(|record| test(record, metric)).collect::<Vec<f64>>());
        let [model, path, precision] = [model, path, precision].map(String::clone);
        [vec![model, path, precision, records.len().to_string()], METRICS.map(of).to_vec()].concat()
    };
    under(&header, groups.iter().map(row))
}

fn runs(dataset: &str, groups: &[Group]) -> String {
    let of_run = ["seed", "model", "path", "precision", "machine", "epochs", "best"];
    let header = [&of_run, &METRICS[..], &["commit"]].concat();
    let row = |group: &Group, record: &Record| {
        let Group { model, path, precision, name, .. } = group;
        let seed = record.seed;
        let of_run = [
            format!("[{seed}]({}/{seed}.json)", address(&format!("{dataset}/{name}"))),
            model.clone(),
            path.clone(),
            precision.clone(),
            machine(record),
            record.epochs.to_string(),
            record.best_epoch.to_string(),
        ];
        let commit = record.environment.get("commit").and_then(Value::as_str).unwrap_or("none").to_owned();
        [&of_run, &METRICS.map(|metric| format!("{:.4}", test(record, metric)))[..], &[commit]].concat()
    };
    under(&header, groups.iter().flat_map(|group| group.records.iter().map(move |record| row(group, record))))
}

fn under(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let header = header.iter().map(|&name| name.to_owned()).collect();
    markdown_table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

/// A path within an address of a page.
pub(super) fn address(path: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(byte).collect()
}

/// A metric of the test by its name.
pub(super) fn test(record: &Record, metric: &str) -> f64 {
    record.test_at(metric.parse::<MetricAt>().expect("a metric's name"))
}

/// The mean over runs and their deviation, which one run does not have.
pub(super) fn spread(values: &[f64]) -> String {
    match values {
        [] => String::new(),
        [value] => format!("{value:.4}"),
        _ => format!("{:.4} ± {:.4}", mean(values), deviation(values)),
    }
}

/// Where the run was computed.
fn machine(record: &Record) -> String {
    let of = |key: &str| record.environment.get(key);
    let text = |key: &str| of(key).and_then(Value::as_str);
    let ranks = of("ranks").map_or(String::new(), |ranks| format!("{ranks} ranks of "));
    let threads = of("threads").and_then(Value::as_u64);
    let threads = threads.map(|n| ranks + &counted(n as usize, "thread"));
    if text("device").is_some_and(|device| device.starts_with("cuda")) {
        return record.environment("gpus");
    }
    let parts = [text("cpu"), text("vectors").or(text("cpu_capability")), threads.as_deref()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

impl Group {
    fn read(folder: &Path) -> Result<Self> {
        let name = name(folder);
        let mut parts = name.rsplitn(3, '_').map(str::to_owned);
        let parts = (parts.next(), parts.next(), parts.next());
        let (Some(precision), Some(path), Some(model)) = parts else {
            return Err(Error::new(format!("expected a folder <model>_<path>_<precision>, found `{name}`"))
                .at(folder)
                .hint("name it as `dif_sr_fast_bf16` is"));
        };
        let group = Self { model, path, precision, name, records: Record::load_all(folder)? };
        group.records.iter().try_for_each(|record| group.check(record, folder))?;
        let differing = Record::differing(&group.records);
        if !differing.is_empty() {
            let keys = differing.join(", ");
            return Err(Error::new(format!("expected records of one configuration, found some that differ in {keys}"))
                .at(folder)
                .hint("move them to folders of their own"));
        }
        Ok(group)
    }

    /// That a record is what its place says. What another program computed, RecBole or the peer, knows no computing path.
    fn check(&self, record: &Record, folder: &Path) -> Result<()> {
        let key = |key: &str| record.config.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let dataset = folder.parent().map(name).unwrap_or_default();
        let ours = record.environment.contains_key("dif_sr");
        let own = if ours { key("compute_path") } else { self.path.clone() };
        let file = record.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (what, named, found) in [
            ("data set", dataset, record.dataset.clone()),
            ("path", self.path.clone(), own),
            ("precision", self.precision.clone(), key("precision")),
            ("seed", file, record.seed.to_string()),
        ] {
            if named != found {
                return Err(Error::new(format!("expected a record of {what} `{named}`, found one of `{found}`"))
                    .at(&record.path)
                    .hint("move it to <data set>/<model>_<path>_<precision>/<seed>.json"));
            }
        }
        Ok(())
    }
}

/// The folders in a folder, by name.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let unread = |e| Error::io(folder, "read the records", e).hint("name a folder of the form of records/");
    let entries = fs::read_dir(folder).map_err(unread)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<std::io::Result<Vec<_>>>().map_err(unread)?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
