//! What people bring of data, as it goes through whole commands.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::common::process::{good, good_json};
use super::common::{TOY, json, write_toy};

#[test]
fn what_is_lost_of_the_data_is_in_the_log_and_in_the_result() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    let items = folder.path().join("toy/toy.item");
    let text = fs::read_to_string(&items).expect("the toy");
    fs::write(&items, text.replace("\ni7\t", "\ni7.0\t")).expect("written");
    good(folder.path(), &[&["train", "--out=run", "--epochs=1"], &TOY[..]].concat());
    let warnings = &json(folder.path().join("run/result.json"))["warnings"];
    let [warning] = &warnings.as_array().expect("a list")[..] else { panic!("{warnings}") };
    let warning = warning.as_str().expect("a sentence");
    assert!(warning.starts_with("1 of 30 items of the interactions have no row in ./toy/toy.item: "), "{warning}");
    assert!(warning.ends_with("; `i7` is not there, `i7.0` is there alone"), "{warning}");
    let log = fs::read_to_string(folder.path().join("run/log.txt")).expect("a log");
    assert!(log.contains(&format!("Warning: {warning}\n")), "{log}");
}

/// The toy's interactions in three files: of each user the last for the test, the one before it for validation.
fn write_parts(folder: &Path) {
    write_toy(folder);
    let inter = fs::read_to_string(folder.join("toy/toy.inter")).expect("the toy");
    let (header, rows) = inter.split_once('\n').expect("a header");
    let rows: Vec<&str> = rows.lines().collect();
    for (name, steps) in [("train", 0..6), ("valid", 6..7), ("test", 7..8)] {
        let part: String = rows.chunks(8).flat_map(|user| &user[steps.clone()]).map(|row| format!("{row}\n")).collect();
        fs::write(folder.join(format!("toy/toy.{name}.inter")), format!("{header}\n{part}")).expect("written");
    }
    fs::remove_file(folder.join("toy/toy.inter")).expect("removed");
}

#[test]
fn files_of_splits_are_trained_evaluated_and_recommended_from() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_parts(folder.path());
    let parts = "--benchmark_filename=[train, valid, test]";
    good(folder.path(), &[&["train", "--out=run", "--epochs=2", parts], &TOY[..]].concat());
    assert_eq!(fs::read_to_string(folder.path().join("run/ranks.tsv")).expect("ranks").lines().count(), 61);

    let evaluated = good_json(folder.path(), &["evaluate", "run", "--json"]);
    assert_eq!(evaluated["test"], json(folder.path().join("run/result.json"))["test"]);

    let recommended = good_json(folder.path(), &["recommend", "run", "--user=u0", "--unseen", "-k", "22", "--json"]);
    let recommended = recommended["items"].as_array().expect("a list").iter().map(|item| &item["item"]);
    let recommended: Vec<&Value> = recommended.collect();
    // Of 30 items u0 has chosen i0 to i7, in all three files.
    assert_eq!(recommended.len(), 22);
    assert!((0..8).all(|i| !recommended.contains(&&Value::from(format!("i{i}")))), "{recommended:?}");
}

#[test]
fn recbole_s_short_flags_name_the_model_and_the_data_set() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    let found = good_json(folder.path(), &["data", "inspect", "-m", "SASRec", "-d", "toy", "--data_path=.", "--json"]);
    assert_eq!((&found["log"]["name"], &found["warnings"]), (&Value::from("toy"), &Value::Array(Vec::new())));
}
