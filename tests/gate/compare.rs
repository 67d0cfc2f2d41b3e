//! Runs beside others, user by user.

use std::fs;

use serde_json::Value;

use crate::common::process::{code, dif_sr, refusal, stderr, stdout};
use crate::common::root;
use crate::{recorded, temporary, with_loss};

/// The records of Amazon_Beauty in a folder.
fn beauty(model: &str, seeds: &[i64]) -> Vec<String> {
    seeds.iter().map(|seed| format!("records/Amazon_Beauty/{model}/{seed}.json")).collect()
}

fn compared(runs: &[String], others: &[String]) -> Value {
    let arguments: Vec<&str> = ["compare", "--json"]
        .into_iter()
        .chain(runs.iter().map(String::as_str))
        .chain(["--with"])
        .chain(others.iter().map(String::as_str))
        .collect();
    let output = dif_sr(root(), &arguments);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    serde_json::from_str::<Value>(&stdout(&output)).expect("JSON")["comparison"].take()
}

/// The table of docs/fidelity.md that begins `| beside |`, as numbers: a row for each model, `(difference, error)` for each
/// metric.
#[test]
fn the_published_differences_are_what_the_command_computes() {
    let page = fs::read_to_string(root().join("docs/fidelity.md")).expect("the page");
    let mut lines = page.lines().skip_while(|line| !line.starts_with("| beside | recall@5 | "));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let metrics = cells(lines.next().expect("the table"));
    let rows: Vec<Vec<String>> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    let models = [
        "dif_sr_fast_float32",
        "dif_sr_concat_fast_bf16",
        "dif_sr_sum_fast_bf16",
        "dif_sr_no_predictor_fast_bf16",
        "sasrec_fast_bf16",
        "sasrecf_fast_bf16",
    ];
    assert_eq!(rows.len(), models.len());
    let ours = beauty("dif_sr_fast_bf16", &[212, 1, 2, 3, 4, 5]);
    for (row, model) in rows.iter().zip(models) {
        let found = compared(&ours, &beauty(model, &[212]));
        assert_eq!((found["users"].as_u64(), found["runs"].as_u64()), (Some(22_363), Some(6)));
        for (name, cell) in metrics.iter().zip(row).skip(1) {
            let of = found["rows"].as_array().expect("rows").iter().find(|row| row["metric"] == **name);
            let number = |key: &str| of.and_then(|row| row[key].as_f64()).expect("a number");
            let text = format!("{:.4} ± {:.4}", number("difference"), number("standard_error")).replace('-', "−");
            assert_eq!(*cell, text, "{model}, {name}");
        }
    }
}

#[test]
fn a_person_reads_means_differences_and_errors() {
    let runs: Vec<String> = [1, 2, 3].map(|seed| format!("fixtures/verdict/ml-100k_short/{seed}.json")).to_vec();
    let output = dif_sr(root(), &["compare", &runs[0], &runs[1], "--with", &runs[2]]);
    let text = stdout(&output);
    let header: Vec<&str> = text.lines().next().unwrap_or_default().split("  ").filter(|c| !c.is_empty()).collect();
    assert_eq!(
        header.iter().map(|cell| cell.trim()).collect::<Vec<_>>(),
        ["mean", "deviation", "other", "difference", "± error", "between", "and"]
    );
    assert!(
        text.ends_with(
            "\ntest of 2 runs less that of 1 other run, over 943 users; ± is the standard error over users, the 95% \
             interval holds seeds too\n"
        ),
        "{text}"
    );
}

#[test]
fn what_cannot_be_compared_is_refused_in_a_sentence() {
    let folder = temporary();
    let run = with_loss(folder.path(), recorded(1), 101, usize::MAX);
    let refused = |runs: &[&str], others: &[&str]| {
        refusal(&dif_sr(folder.path(), &[&["compare"], runs, &["--with"], others].concat()))
    };
    let beauty = root().join("records/Amazon_Beauty/sasrec_fast_bf16/212.json").display().to_string();
    let told = refused(&[&run], &[&beauty]);
    let expected =
        format!("{beauty}: expected the 943 targets of {run} on ml-100k, found 22363 others on Amazon_Beauty; ");
    assert!(told.starts_with(&expected), "{told}");
    assert!(refused(&[&run], &["nowhere.json"]).starts_with("nowhere.json: cannot read the run"));
    fs::create_dir(folder.path().join("unfinished")).expect("a folder");
    let told = refused(&["unfinished"], &[&run]);
    assert!(told.starts_with("unfinished/result.json: cannot read the file"), "{told}");
    assert!(told.contains("name the folder of a finished run, or its record"), "{told}");
    let told = refused(&[&run, &run], &[&run]);
    assert!(told.contains("expected runs of different seeds, found seed 101 twice"), "{told}");
    let mut other = recorded(2);
    other.config["learning_rate"] = 1e-5.into();
    let other = other.write(folder.path()).unwrap_or_else(|e| panic!("{e}")).display().to_string();
    let told = refused(&[&run], &[&run, &other]);
    assert!(told.contains("found another learning_rate"), "{told}");
}
