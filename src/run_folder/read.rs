//! How the files of a run folder are read, with errors that name the file and its line.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{Calibration, Environment, LossRow, MetricsLine, RankRow, RunResult};
use crate::{Error, Result};

impl RunResult {
    /// Reads the file of a run folder.
    ///
    /// # Errors
    /// No such file, which is that of a run that is not finished; another one.
    pub fn read(folder: &Path) -> Result<Self> {
        json(&folder.join(Self::FILE))
    }
}

impl Environment {
    /// Reads the file of a run folder.
    ///
    /// # Errors
    /// No such file, or another one.
    pub fn read(folder: &Path) -> Result<Self> {
        json(&folder.join(Self::FILE))
    }
}

impl MetricsLine {
    /// Reads the file of a run folder.
    ///
    /// # Errors
    /// No such file, or a line of another form.
    pub fn read(folder: &Path) -> Result<Vec<Self>> {
        json_lines(&folder.join(Self::FILE))
    }
}

impl Calibration {
    /// Reads the file of a run folder; runs of before there were calibrations have none.
    ///
    /// # Errors
    /// A line of another form.
    pub fn read(folder: &Path) -> Result<Vec<Self>> {
        let path = folder.join(Self::FILE);
        if path.exists() { json_lines(&path) } else { Ok(Vec::new()) }
    }
}

impl LossRow {
    /// Reads the file of a run folder.
    ///
    /// # Errors
    /// No such file, or a line that is not numbers.
    pub fn read(folder: &Path) -> Result<Vec<Self>> {
        let path = folder.join(Self::FILE);
        let text = text(&path)?;
        let lines = text.lines().enumerate().skip(1);
        let rows = lines.map(|(i, line)| {
            let wrong = || of_no_run(&path, "a line that is not an epoch, a batch and its losses").line(i as u64 + 1);
            Self::parse(line).ok_or_else(wrong)
        });
        rows.collect()
    }
}

impl RankRow {
    /// Reads the file of a run folder.
    ///
    /// # Errors
    /// No such file, other columns, or a rank that is no number.
    pub fn read(folder: &Path) -> Result<Vec<Self>> {
        let path = folder.join(Self::FILE);
        let text = text(&path)?;
        let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(text.as_bytes());
        let header = reader.headers().map_err(|e| of_no_run(&path, e))?;
        if header.iter().take(3).ne(["user", "item", "rank"]) {
            return Err(of_no_run(&path, "other columns than user, item and rank").line(1));
        }
        let of_row = |e: csv::Error| match e.kind() {
            csv::ErrorKind::Deserialize { pos: Some(at), err } => of_no_run(&path, err).line(at.line()),
            _ => of_no_run(&path, e),
        };
        reader.deserialize().map(|row| row.map_err(of_row)).collect()
    }
}

/// The text of one of the files.
pub(crate) fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| match path.parent().map_or(Ok(()), no_sweep) {
        Ok(()) => Error::io(path, "read the file", e).hint("name the folder of a finished run, or its record"),
        Err(error) => error,
    })
}

/// Where a sweep notes its tasks, in a folder of its own.
pub(crate) const TASKS: &str = "tasks.jsonl";

/// Refuses the folder of a sweep in the place of one of a run.
fn no_sweep(folder: &Path) -> Result<()> {
    if !folder.join(TASKS).is_file() {
        return Ok(());
    }
    let place = folder.display();
    Err(Error::new("expected the folder of a run, found that of a sweep").at(folder).hint(format!(
        "give the runs of one group, {place}/GROUP/seed-*, or judge all by `dif-sr sweep gather {place}`"
    )))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&text(path)?).map_err(|e| of_no_run(path, e))
}

fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| serde_json::from_str(line).map_err(|e| of_no_run(path, e).line(i as u64 + 1))).collect()
}

fn of_no_run(path: &Path, found: impl std::fmt::Display) -> Error {
    Error::new(format!("expected what `dif-sr train` writes, found {found}"))
        .at(path)
        .hint("the file is damaged or of another program: name a run folder as it was written")
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::Value;

    use super::*;

    /// Reads a text and writes what was read.
    fn again<T: DeserializeOwned + Serialize>(text: &str) -> String {
        let read: T = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        serde_json::to_string(&read).expect("JSON")
    }

    #[test]
    fn a_line_that_is_read_is_written_with_the_same_bytes() {
        let epoch = r#"{"epoch":0,"train_loss":921.5922707758886,"item_loss":607.8593719554315,"attribute_losses":[31.373289882045693],"seconds":70.911162489}"#;
        let evaluation = r#"{"epoch":1,"valid":{"recall@5":0.009,"ndcg@5":0.0},"best":true,"seconds":4.391035023}"#;
        for line in [epoch, evaluation] {
            assert_eq!(again::<MetricsLine>(line), line);
        }
        let line = r#"{"product_seconds":[0.001,0.002],"copy_seconds":[0.01]}"#;
        assert_eq!(again::<Calibration>(line), line);
        let result = r#"{"model":"SASRecD","dataset":"toy","seed":7,"trainable_parameters":9,"epochs":3,"best_epoch":2,"best_valid":null,"test":{"metrics":{"hit@1":0.5},"exact":{"hit@1":0.51},"tied_rows":1,"worst_order":{"hit@1":0.25}},"train_seconds":1.5}"#;
        assert_eq!(again::<RunResult>(result), result);
        for line in ["0\t1\t7.5\t3.25", "12\t300\t0.1\t1\t0.00000012"] {
            assert_eq!(LossRow::parse(line).map(|row| row.line()).as_deref(), Some(line));
        }
        assert_eq!(LossRow::parse("0\t1\t7.5"), None);
    }

    /// Of a record of before there were GPUs, and of one after.
    #[test]
    fn an_environment_keeps_what_it_notes_and_invents_nothing() {
        let records =
            [("fixtures/verdict/ml-100k_short/1", None), ("records/Amazon_Beauty/dif_sr_fast_bf16/1", Some("cpu"))];
        for (record, device) in records {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(record);
            let text = text(&path.with_extension("json")).unwrap_or_else(|e| panic!("{e}"));
            let mut noted: Value = serde_json::from_str(&text).expect("JSON");
            let mut noted = noted["environment"].take();
            noted["of_a_later_version"] = "kept".into();
            noted["resumed"] = vec![noted.clone()].into();
            let read: Environment = serde_json::from_value(noted.clone()).unwrap_or_else(|e| panic!("{record}: {e}"));
            assert_eq!((read.device.as_deref(), read.resumed.len()), (device, 1), "{record}");
            // Without a GPU there was no CUDA, whether a run noted it or not.
            let no_cuda = |noted: &mut Value| {
                _ = noted.as_object_mut().expect("an object").entry("cuda").or_insert(Value::Null);
            };
            no_cuda(&mut noted["resumed"][0]);
            no_cuda(&mut noted);
            assert_eq!(serde_json::to_value(read).expect("JSON"), noted, "{record}");
        }
    }

    #[test]
    fn ranks_are_read_as_they_were_written_and_of_long_ago_without_ties() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |text: &[u8]| std::fs::write(folder.path().join(RankRow::FILE), text).expect("written");
        let row = |user: &str, rank, ties| RankRow { user: user.to_owned(), item: "1".to_owned(), rank, ties };
        let rows = vec![row("a\tb", 0, 2), row("\"c\"", 17, 0)];
        let text = RankRow::write(rows.clone());
        assert_eq!(text, b"user\titem\trank\tties\n\"a\tb\"\t1\t0\t2\n\"\"\"c\"\"\"\t1\t17\t0\n");
        write(&text);
        assert_eq!(RankRow::read(folder.path()).unwrap_or_else(|e| panic!("{e}")), rows);
        write(b"user\titem\trank\nx\t1\t3\n");
        assert_eq!(RankRow::read(folder.path()).unwrap_or_else(|e| panic!("{e}")), [row("x", 3, 0)]);
        write(b"user\titem\trank\nx\t1\tthird\n");
        let told = RankRow::read(folder.path()).unwrap_err().to_string();
        assert!(told.contains("ranks.tsv, line 2: expected what `dif-sr train` writes, found "), "{told}");
        write(b"user\trank\nx\t3\n");
        let told = RankRow::read(folder.path()).unwrap_err().to_string();
        assert!(told.contains("ranks.tsv, line 1: "), "{told}");
    }
}
