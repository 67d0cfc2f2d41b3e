//! The binary as a process.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use super::place::sentence;

/// Runs `dif-sr` in `folder`.
pub fn dif_sr(folder: &Path, arguments: &[impl AsRef<OsStr>]) -> Output {
    let mut command = assert_cmd::Command::cargo_bin("dif-sr").expect("the binary is built with the tests");
    command.current_dir(folder).args(arguments).output().expect("the binary runs")
}

/// The same for a command that must not fail.
pub fn good(folder: &Path, arguments: &[&str]) -> Output {
    let output = dif_sr(folder, arguments);
    assert_eq!(code(&output), 0, "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    output
}

/// What such a command prints with `--json`.
pub fn good_json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&good(folder, arguments))).expect("JSON")
}

/// [`dif_sr`] with no more than 64 GB of address space, so that what asks for more is refused on every machine.
pub fn dif_sr_in_64_gb(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = assert_cmd::Command::new("sh");
    command.args(["-c", "ulimit -v 64000000 && exec \"$@\"", "sh"]).arg(assert_cmd::cargo::cargo_bin!("dif-sr"));
    command.current_dir(folder).args(arguments).output().expect("the shell runs")
}

pub fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The one line that a command which could not run leaves, without `dif-sr: `.
pub fn refusal(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "a command that could not run prints no result");
    sentence(2, output)
}
