//! What the commands print, and how they end on an error.

use std::any::Any;
use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::ops::ControlFlow;
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use dif_sr::eval::MetricValues;
use dif_sr::run_folder::TestResult;
pub use dif_sr::verdict::counted;
use dif_sr::{Error, Result};
use judge::aligned;
use serde::Serialize;

/// Prints to standard output. A reader who has left (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    print_on(&format!("{text}\n")).map(drop)
}

/// Prints a part of a longer result, lines with their ends. Says to stop once the reader has left.
pub fn print_on(lines: &str) -> Result<ControlFlow<()>> {
    match stdout().write_all(lines.as_bytes()).and_then(|()| stdout().flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(e) => Err(Error::io("standard output", "print the result", e).hint("check the free space of its disk")),
    }
}

/// Prints `value` as indented JSON.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| {
        Error::new(format!("cannot print the result as JSON: {e}")).hint("leave --json out, or rename what is no UTF-8")
    })?;
    print(&text)
}

/// Prints a command's result: `value` as JSON, or else `text`.
pub fn result(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    if json { print_json(value) } else { print(&text()) }
}

/// A path as JSON holds it: text, in which bytes that are no UTF-8 are replaced.
pub fn place(path: &Path) -> String {
    path.display().to_string()
}

/// The checkpoint that a run folder holds, or that is named itself.
pub fn checkpoint(run: &Path) -> Result<PathBuf> {
    let path = if run.is_dir() { run.join("best.safetensors") } else { run.to_path_buf() };
    if path.is_file() {
        return Ok(path);
    }
    if run.join("config.yaml").is_file() {
        return Err(Error::new("expected the best model of the run, found no `best.safetensors`")
            .at(run)
            .hint("wait for its first evaluation, go on with `dif-sr train --resume`, or put the file back"));
    }
    Err(Error::new("expected a run folder or a checkpoint, found none")
        .at(&path)
        .hint("give the folder that `dif-sr train` printed, or a .safetensors file"))
}

/// Tells something beside the results, on standard error.
pub fn note(sentence: &str) {
    let _ = writeln!(std::io::stderr(), "note: {sentence}");
}

/// Prints an error and gives the exit code of a command that could not run or was interrupted.
pub fn fail(error: &Error) -> ExitCode {
    if !TOLD.load(Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr(), "dif-sr: {error}");
    }
    ExitCode::from(if error.is_interruption() { 4 } else { 2 })
}

/// Whether the error that will end this process is printed.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Prints an error that ends this process, before it has told the others, for whom it may have to wait.
pub fn fail_soon(error: &Error) {
    fail(error);
    TOLD.store(true, Ordering::Relaxed);
}

/// Where the last panic was.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Keeps the place of a panic for [`of_panic`] and prints nothing.
pub fn note_panic(panic: &PanicHookInfo) {
    if let Ok(mut place) = PLACE.lock() {
        *place = panic.location().map(ToString::to_string);
    }
}

/// What a panic said and where, without libtorch's C++ stack.
pub fn of_panic(panic: &(dyn Any + Send)) -> Error {
    let line = Error::of_panic(panic);
    let place = PLACE.lock().ok().and_then(|mut place| place.take()).unwrap_or_else(|| "an unknown place".to_owned());
    Error::new(format!("stopped inside of the computation, at {place}: {line}"))
        .hint("if memory ran out, use smaller batches or sizes; otherwise this is a bug: report it with the command")
}

/// Rows under a header as a table; on a terminal that is too narrow for it, each row with a line for each cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let size = rustix::termios::tcgetwinsize(stdout()).ok().filter(|_| stdout().is_terminal());
    let width = size.map(|size| usize::from(size.ws_col)).filter(|&width| width > 0);
    let text = aligned(rows);
    let is_narrow = |width| text.lines().any(|line| line.chars().count() > width);
    if width.is_some_and(is_narrow) { stacked(rows) } else { text }
}

/// Each row under its first cell: a line for each other cell that is not empty, behind the header of its column.
fn stacked(rows: &[Vec<String>]) -> String {
    let Some((header, rows)) = rows.split_first() else { return String::new() };
    let row = |row: &Vec<String>| {
        let cells = header.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty());
        let cells: Vec<Vec<String>> = cells.map(|(name, cell)| vec![format!("  {name}"), cell.clone()]).collect();
        [row.first().map_or("", String::as_str), &aligned(&cells)].join("\n")
    };
    rows.iter().map(row).collect::<Vec<_>>().join("\n")
}

/// A split's metrics, and beside them, if there are ties, those under the worst order of tied items.
pub fn columns<'a>(split: &'a str, result: &'a TestResult) -> impl Iterator<Item = (&'a str, &'a MetricValues)> {
    let worst = result.worst_order.iter().map(|worst| ("worst order of ties", worst));
    std::iter::once((split, &result.metrics)).chain(worst)
}

/// A metrics table: a row for each metric, a column for each named result.
pub fn metrics_table(columns: &[(&str, &MetricValues)], decimals: usize) -> String {
    let mut rows = vec![vec!["metric".to_owned()]];
    rows[0].extend(columns.iter().map(|(name, _)| (*name).to_owned()));
    for metric in columns.iter().take(1).flat_map(|(_, metrics)| metrics.names()) {
        let values = columns.iter().filter_map(|(_, metrics)| metrics.get(metric));
        let mut row = vec![metric.to_string()];
        row.extend(values.map(|value| format!("{value:.decimals$}")));
        rows.push(row);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_a_table_that_is_too_wide_is_a_line_for_each_cell() {
        let rows = [
            ["group", "n", "test recall@10", ""],
            ["toy/gate", "2 of 4", "0.1 ± 0.01", "waits"],
            ["b", "4", "", "pass"],
        ];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        let told = "toy/gate\n  n                   2 of 4\n  test recall@10  0.1 ± 0.01\n                       waits\n\
                    b\n  n     4\n     pass";
        assert_eq!(stacked(&rows), told);
    }
}
