//! What a run shows on the way, in short: how it begins, a line for each evaluation, the batch losses beside a golden run's.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::TOY;
use crate::common::process::{good, stderr, stdout};
use crate::toy;

const SMALL: [&str; 3] = ["--epochs=3", "--train_batch_size=16", "--metrics=[Recall]"];

/// Writes a golden run of these batch losses, and what expects it.
fn expect(folder: &Path, losses: &[f32]) {
    let batches: Vec<Value> = losses.iter().map(|loss| json!({ "loss": loss })).collect();
    let golden = json!({
        "resolved_config": { "dataset": "toy", "seed": 2020, "valid_metric": "Recall@10" },
        "valid": [{ "recall@10": 0.5 }, { "recall@10": 0.5 }], "test": { "recall@10": 0.5 }, "batches": batches,
    });
    fs::write(folder.join("golden.json"), golden.to_string()).expect("written");
    let expectation = "figures: {source: a golden run, margin: {metric: 1}, golden: golden.json}\n";
    fs::write(folder.join("expect.yaml"), expectation).expect("written");
    fs::write(folder.join("toy.yaml"), "epochs: 3\n").expect("written");
}

fn losses(run: &Path) -> Vec<f32> {
    let losses = fs::read_to_string(run.join("losses.tsv")).expect("losses");
    losses.lines().skip(1).map(|line| line.split('\t').nth(2).expect("a total").parse().expect("a number")).collect()
}

#[test]
fn reproduce_says_what_it_does_and_counts_equal_losses_in_a_line_for_each_evaluation() {
    let folder = toy();
    good(folder.path(), &[&["train", "--out=first"], &SMALL[..], &TOY].concat());
    let mut golden = losses(&folder.path().join("first"));
    assert_eq!(golden.len(), 3 * 19);
    let reproduce = |golden: &[f32], out: &str| {
        expect(folder.path(), golden);
        let arguments = ["reproduce", "toy.yaml", "--expect=expect.yaml", out];
        let output = good(folder.path(), &[&arguments, &SMALL[..], &TOY].concat());
        (stdout(&output), stderr(&output))
    };
    let (said, shown) = reproduce(&golden, "--out=run");
    assert!(said.contains("all 57 batch losses are the golden run's to the bit"), "{said}");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "SASRecD on toy, seed 2020: reference path, 1 thread of the CPU");
    assert!(lines[1].starts_with("3 epochs of 19 batches, or fewer: "), "{shown}");
    assert_eq!(lines[2], "run folder: run, with RecBole's log in log.txt");
    assert_eq!(lines[3], "expected: 2 values of a golden run");
    let epochs: Vec<&&str> = lines.iter().filter(|line| line.starts_with("epoch ")).collect();
    assert_eq!(epochs.len(), 3, "{shown}");
    for (epoch, line) in epochs.iter().enumerate() {
        assert!(line.starts_with(&format!("epoch  {epoch}: loss ")) && line.contains(", valid recall@10 "), "{line}");
        let n = 19 * (epoch + 1);
        assert!(line.ends_with(&format!(" s; batch losses: {n} of {n} the golden run's to the bit so far")), "{line}");
    }
    assert!(epochs[0].contains(" (best so far), "), "{shown}");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    // What is left out here is in the folder.
    let log = fs::read_to_string(folder.path().join("run/log.txt")).expect("a log");
    assert_eq!(log.matches("valid result: ").count(), 3);
    assert!(!shown.contains("valid result") && log.contains("Trainable parameters"), "{log}");

    golden[20] *= 1.5;
    let (_, shown) = reproduce(&golden, "--out=other");
    assert!(shown.contains("; batch losses: 19 of 19 the golden run's to the bit so far\n"), "{shown}");
    let others = "; batch losses: 37 of 38 the golden run's to the bit, the others within 3.3e-1 so far\n";
    assert!(shown.contains(others), "{shown}");
}
