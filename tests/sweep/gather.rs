//! What `sweep gather` makes of finished runs.

use std::fs;

use dif_sr::verdict::Record;
use serde_json::Value;

use crate::common::place::{content, sentence, text};
use crate::common::process::{code, stderr, stdout};
use crate::{PASSES, SWEEP, good, place, planned};

#[test]
fn every_group_gets_its_record_its_verdict_and_its_report() {
    let sweep = format!("{SWEEP}keys: {{epochs: 2}}\nexpect: {{gate: expect.yaml}}\n");
    let place = planned(&sweep);
    good(&place, &["sweep", "run", "out", "--task=0"]);
    good(&place, &["sweep", "run", "out", "--task=2"]);
    // While runs are missing: what there is, no verdict, and exit code 2.
    let output = place.run(&["sweep", "gather", "out"]);
    let told = sentence(2, &output);
    assert_eq!(
        told,
        "out: 2 of 4 runs are missing: 2 waiting; run them with `dif-sr sweep run`, then gather once more"
    );
    let table = stdout(&output);
    let rows: Vec<Vec<&str>> = table.lines().take(3).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[0].join(" "),
        "group n valid recall@10 test recall@10 test recall@20 test ndcg@10 test ndcg@20 verdict"
    );
    assert_eq!((&rows[1][..4], rows[1].last()), (&["toy/gate", "1", "of", "2"][..], Some(&"waits")));
    assert_eq!((&rows[2][..4], rows[2].last()), (&["toy/sum", "1", "of", "2"][..], Some(&"none")));
    assert!(place.path("out/toy/gate/records/1.json").exists() && !place.path("out/toy/gate/verdict.json").exists());

    good(&place, &["sweep", "run", "out", "--jobs=2"]);
    let table = good(&place, &["sweep", "gather", "out"]);
    assert!(
        table.contains("\ntoy/gate: pass: all 2 values are within their margin\n\nreport: out/report.html\n"),
        "{table}"
    );
    // The table is the records' own means and deviations.
    let of = |seed: i64| {
        let record =
            Record::load(&place.path(&format!("out/toy/sum/records/{seed}.json"))).unwrap_or_else(|e| panic!("{e}"));
        let run = Record::load(&place.path(&format!("out/toy/sum/seed-{seed}"))).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(record, Record { path: record.path.clone(), ..run });
        let top = record.ranks.iter().filter(|rank| **rank < 20).count();
        top as f64 / record.ranks.len() as f64
    };
    let (a, b) = (of(1), of(2));
    let expected = format!("{:.4} ± {:.4}", (a + b) / 2.0, (a - b).abs() / 2.0_f64.sqrt());
    let row = table.lines().find(|line| line.starts_with("toy/sum")).expect("a row");
    assert!(row.contains(&expected), "{expected}: {row}");
    // The same as the gate's.
    let gate = good(&place, &["gate", "--expect=expect.yaml", "out/toy/gate/seed-1", "out/toy/gate/seed-2"]);
    assert!(gate.ends_with("pass: all 2 values are within their margin\n"), "{gate}");
    let page = text(&place.path("out/report.html"));
    for part in ["<h1>Sweep out</h1>", "4 of 4 runs are finished", "href=\"./toy/gate/report.html\"", &expected] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(text(&place.path("out/toy/gate/report.html")).contains("all 2 values are within their margin"));

    // Once more it says the same, and keeps the records.
    let before = content(&place.path("out/toy/gate/records"));
    assert_eq!(good(&place, &["sweep", "gather", "out"]), table);
    assert_eq!(content(&place.path("out/toy/gate/records")), before);
    let told: Value = serde_json::from_str(&good(&place, &["sweep", "gather", "out", "--json"])).expect("JSON");
    assert_eq!(told, serde_json::from_str::<Value>(&text(&place.path("out/summary.json"))).expect("JSON"));
    assert_eq!(
        (&told["groups"][0]["verdict"]["outcome"], &told["missing"]),
        (&"pass".into(), &Value::Array(Vec::new()))
    );

    // A record of another run of the seed is not overwritten.
    fs::copy(place.path("out/toy/gate/records/2.json"), place.path("out/toy/sum/records/2.json")).expect("copied");
    let told = sentence(2, &place.run(&["sweep", "gather", "out"]));
    assert_eq!(
        told,
        "out/toy/sum/records/2.json: expected the record of out/toy/sum/seed-2, found that of another run; remove it if the \
         run was made anew, or put the run back"
    );
}

#[test]
fn the_worst_verdict_is_the_exit_code_and_more_seeds_take_a_verdict_back() {
    let place = place(
        "config_files: [toy.yaml]\nkeys: {epochs: 1}\nconfigurations: {a: , b: {keys: {fusion_type: sum}}}\nseeds: [1]\nexpect: {a: expect.yaml, b: b.yaml}\n",
    );
    let fails = PASSES.replace("metric: 1", "metric: 0.0001").replace("recall@10: 0.5", "recall@10: 0.987");
    fs::write(place.path("b.yaml"), fails).expect("written");
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    good(&place, &["sweep", "run", "out", "--jobs=2"]);
    let output = place.run(&["sweep", "gather", "out"]);
    assert_eq!(code(&output), 1, "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("\ntoy/b: FAIL: 2 of 2 values are outside their margin: "), "{}", stdout(&output));
    // What cannot be judged leaves the verdict open: figures of another model.
    let others = PASSES.replace("dataset: toy", "hidden_size: 16");
    fs::write(place.path("b.yaml"), others).expect("written");
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    assert_eq!(code(&place.run(&["sweep", "gather", "out"])), 0);

    let more = text(&place.path("sweep.yaml")).replace("seeds: [1]", "seeds: [1, 2]");
    fs::write(place.path("sweep.yaml"), more).expect("written");
    assert!(place.path("out/toy/a/verdict.json").exists());
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    assert_eq!(code(&place.run(&["sweep", "gather", "out"])), 2);
    assert!(!place.path("out/toy/a/verdict.json").exists(), "no verdict on the seeds that happen to be done is left");
}

#[test]
fn a_failed_run_is_among_the_missing_with_its_reason() {
    let place = planned("config_files: [toy.yaml]\nkeys: {epochs: 1}\nseeds: [1]\n");
    fs::rename(place.path("toy"), place.path("moved")).expect("renamed");
    assert_eq!(code(&place.run(&["sweep", "run", "out"])), 2);
    let output = place.run(&["sweep", "gather", "out", "--json"]);
    let told = sentence(2, &output);
    assert!(told.starts_with("out: 1 of 1 runs are missing: 1 failed (task 0, toy with seed 1, failed: "), "{told}");
    let summary: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(summary["missing"][0]["state"], "failed");
    assert!(summary["missing"][0]["reason"].as_str().is_some_and(|reason| reason.contains("toy.inter")), "{summary}");
    assert!(text(&place.path("out/report.html")).contains("Missing runs"));
}
