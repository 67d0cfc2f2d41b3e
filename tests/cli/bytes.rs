//! Names that are no UTF-8, which a path on Linux can have.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::common::TOY;
use crate::common::process::{self, code, refusal, stderr, stdout};
use crate::toy;

/// Runs `dif-sr` with arguments that are bytes, and more that are text.
fn dif_sr(folder: &Path, arguments: &[&[u8]], more: &[&str]) -> Output {
    let arguments = arguments.iter().map(|bytes| OsStr::from_bytes(bytes).to_owned());
    let arguments: Vec<OsString> = arguments.chain(more.iter().map(OsString::from)).collect();
    process::dif_sr(folder, &arguments)
}

#[test]
fn a_run_folder_of_any_name_is_told_in_json() {
    let folder = toy();
    let told = |arguments: &[&[u8]], more: &[&str]| -> Value {
        let output = dif_sr(folder.path(), arguments, more);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).expect("JSON")
    };
    let trained = told(&[b"train", b"--json", b"--epochs=1", b"--out=run\xff"], &TOY);
    assert_eq!(trained["run"], "run\u{fffd}");
    let evaluated = told(&[b"evaluate", b"--json", b"run\xff"], &[]);
    assert_eq!(evaluated["checkpoint"], "run\u{fffd}/best.safetensors");
    fs::write(folder.path().join("toy.yaml"), "epochs: 1\nmetrics: [Recall]\ntopk: [10]\n").expect("written");
    let expected = "figures: {source: by hand, margin: {metric: 1}, test: {recall@10: 0.5}}\n";
    fs::write(folder.path().join("expect.yaml"), expected).expect("written");
    let reproduce: [&[u8]; 5] = [b"reproduce", b"toy.yaml", b"--json", b"--expect=expect.yaml", b"--out=again\xff"];
    assert_eq!(told(&reproduce, &TOY)["run"], "again\u{fffd}");
}

#[test]
fn a_key_whose_value_is_no_utf8_is_told_so() {
    let folder = toy();
    let output = dif_sr(folder.path(), &[b"train", b"--data_path=\xff.d"], &TOY);
    assert_eq!(
        refusal(&output),
        "expected a key and a value in UTF-8, found `--data_path=\u{fffd}.d`; rename the file or folder, or reach it by a link whose name is UTF-8"
    );
}
