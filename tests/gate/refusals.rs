//! What is not judged, and why: runs that do not belong together, records and expectations that are none.

use std::fs;

use dif_sr::verdict::Expectation;
use serde_json::{Value, json};

use crate::common::process::{code, dif_sr, refusal, stderr, stdout};
use crate::common::{config, root};
use crate::{gate, gate_by, record, recorded, temporary, with_loss};

#[test]
fn names_and_values_of_figures_are_read_as_everywhere() {
    let folder = temporary();
    let run = with_loss(folder.path(), recorded(1), 101, usize::MAX);
    let judged = |figures: &str| {
        let text = format!("figures: {{source: s, margin: {{metric: 1}}, {figures}}}\n");
        fs::write(folder.path().join("figures.yaml"), text).expect("written");
        dif_sr(folder.path(), &["gate", &run, "--expect=figures.yaml"])
    };
    let output = judged("of: {attn_dropout_prob: 0, lamdas: [10.0]}, test: {Recall@20: 0.1}");
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    let typo = refusal(&judged("test: {recal@20: 0.1}"));
    assert!(typo.starts_with("figures.yaml: expected a metric such as recall@20"), "{typo}");
}

#[test]
fn a_figure_on_a_metric_that_the_run_lacks_cannot_be_judged() {
    let folder = temporary();
    let run = with_loss(folder.path(), recorded(1), 101, usize::MAX);
    let judged = |figures: &str| {
        let text = format!("figures: {{source: s, margin: {{metric: 1}}, {figures}}}\n");
        fs::write(folder.path().join("figures.yaml"), text).expect("written");
        refusal(&dif_sr(folder.path(), &["gate", &run, "--expect=figures.yaml", "--junit=gate.xml"]))
    };
    let hint = "run it with this in metrics and topk, or expect something else with --expect";
    let told = format!("{run}: expected recall@7 of the test part, which the run did not compute; {hint}");
    assert_eq!(judged("test: {recall@20: 0.2, recall@7: 0.1}"), told);
    let told = format!("{run}: expected map@3, hit@50 of the valid part, which the run did not compute; {hint}");
    assert_eq!(judged("valid: {recall@20: 0.2, MAP@3: 0.1, hit@50: 0.1}"), told);
    let xml = fs::read_to_string(folder.path().join("gate.xml")).expect("JUnit XML");
    assert!(xml.contains(r#"errors="1""#) && xml.contains("expected map@3, hit@50 of the valid part"), "{xml}");
}

#[test]
fn a_verdict_finds_its_place_or_is_refused_before_the_work() {
    let folder = temporary();
    let run = with_loss(folder.path(), recorded(1), 101, usize::MAX);
    let judged = |places: &[&str]| gate(folder.path(), &[&run], places);
    let output = judged(&["--junit=new/of/gate.xml", "--markdown=other/gate.md"]);
    assert!([0, 3].contains(&code(&output)), "{}", stderr(&output));
    let markdown = fs::read_to_string(folder.path().join("other/gate.md")).expect("Markdown");
    assert!(folder.path().join("new/of/gate.xml").is_file() && markdown.contains("\n**"), "{markdown}");
    // What stands in the other place is no former verdict.
    let sentence = refusal(&judged(&["--junit=new/of", "--markdown=other/gate.md"]));
    assert_eq!(sentence, "new/of: expected the name of a file, found a folder; add a file's name");
    let markdown = fs::read_to_string(folder.path().join("other/gate.md")).expect("Markdown");
    assert!(markdown.ends_with(&format!("\n**could not be judged: {sentence}**\n")), "{markdown}");
    // A page of one's own that begins in bold is no former verdict.
    fs::write(folder.path().join("mine.md"), "**Mine**\n").expect("written");
    for flag in ["--markdown=mine.md", "--junit=mine.md"] {
        let sentence =
            "mine.md: expected no file or a former verdict, found another file; choose another place for the verdict";
        assert_eq!(refusal(&judged(&[flag])), sentence);
    }
    assert_eq!(fs::read_to_string(folder.path().join("mine.md")).expect("mine"), "**Mine**\n");
    let sentence = refusal(&judged(&["--markdown=other/gate.md/gate.md"]));
    assert!(sentence.starts_with("other/gate.md/gate.md: cannot write the file: "), "{sentence}");
    let page = dif_sr(folder.path(), &["report", &run, "--out=other/gate.md/page.html"]);
    assert!(refusal(&page).starts_with("other/gate.md/page.html: cannot write the file: "));
}

#[test]
fn runs_that_do_not_belong_together_are_refused() {
    let folder = temporary();
    let run = with_loss(folder.path(), recorded(1), 101, usize::MAX);
    let again = gate(folder.path(), &[&run, &run], &[]);
    assert_eq!(
        refusal(&again).split_once(';').map(|(problem, _)| problem),
        Some(format!("{run}: expected runs of different seeds, found seed 101 twice").as_str())
    );
    let mut slower = recorded(2);
    slower.config["learning_rate"] = json!(1e-5);
    let slower = slower.write(folder.path()).unwrap_or_else(|e| panic!("{e}")).display().to_string();
    let several = refusal(&gate(folder.path(), &[&run, &slower], &[]));
    let told = format!("{slower}: expected the configuration of {run}, found another learning_rate");
    assert!(several.starts_with(&told), "{several}");
    let figures = "figures: {source: s, margin: {metric: 1}, test: {recall@20: 0.1}}\n";
    fs::write(folder.path().join("figures.yaml"), figures).expect("written");
    let again = dif_sr(folder.path(), &["gate", &run, &run, "--expect=figures.yaml"]);
    assert!(refusal(&again).contains("expected runs of different seeds"), "of figures alone too");
    let mut other = record("records/Amazon_Beauty/dif_sr_fast_bf16/1.json");
    other.config["model"] = json!("SASRec");
    let other = other.write(&folder.path().join("model")).unwrap_or_else(|e| panic!("{e}")).display().to_string();
    let other = refusal(&gate_by("configs/expectations/amazon_beauty.yaml", folder.path(), &[other], &[]));
    assert!(other.contains("1.json: expected runs whose `model` is \"SASRecD\", found \"SASRec\""), "{other}");
    let golden = root().join("golden/ml-100k_full.json");
    let figures = format!("figures: {{source: s, margin: {{metric: 1}}, golden: {}}}\n", golden.display());
    fs::write(folder.path().join("figures.yaml"), figures).expect("written");
    let mut other = recorded(1);
    other.config["dataset"] = json!("another");
    let other = other.write(&folder.path().join("other")).unwrap_or_else(|e| panic!("{e}")).display().to_string();
    let other = refusal(&dif_sr(folder.path(), &["gate", &other, "--expect=figures.yaml"]));
    assert!(other.contains("1.json: expected runs whose `dataset` is \"ml-100k\", found \"another\""), "{other}");

    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut record: Value = serde_json::from_str(&fs::read_to_string(&run).expect("a record")).expect("JSON");
        change(&mut record);
        let path = folder.path().join(name);
        fs::write(&path, record.to_string()).expect("written");
        refusal(&gate(folder.path(), &[name], &[]))
    };
    let targets = change("targets.json", &|record| record["targets_sha256"] = json!("0"));
    assert!(targets.starts_with("targets.json: expected the 943 targets of "), "{targets}");
    assert!(targets.contains("1.json on ml-100k, found 943 others on ml-100k; "), "{targets}");
    let fewer = change("fewer.json", &|record| {
        let ranks = record["ranks"].as_str().expect("ranks").split(' ').take(500).collect::<Vec<_>>();
        let found = ranks.iter().filter(|rank| rank.parse::<usize>().expect("a rank") < 20).count() as f64 / 500.0;
        (record["ranks"], record["test"]) = (json!(ranks.join(" ")), json!({ "recall@20": found }));
    });
    assert!(fewer.contains("1.json on ml-100k, found 500 others on ml-100k; "), "{fewer}");
    let untested = change("untested.json", &|record| record["test"] = json!({}));
    assert!(untested.contains("expected the test's metrics, found none"), "{untested}");
    let metrics = change("metrics.json", &|record| record["test"]["recall@20"] = json!(0.5));
    assert!(metrics.starts_with("metrics.json: expected ranks that give the test's recall@20 of 0.5"), "{metrics}");
    let number = change("number.json", &|record| record["ranks"] = json!("1 two 3"));
    assert!(number.contains("expected a number, found `two`"), "{number}");
    let key = change("key.json", &|record| record["unheard"] = json!(1));
    assert!(key.contains("unknown field `unheard`"), "{key}");
    assert!(refusal(&gate(folder.path(), &["nowhere"], &[])).starts_with("nowhere: cannot read the run"));
}

#[test]
fn a_wrong_expectation_is_told_what_is_wrong() {
    let folder = temporary();
    let run = with_loss(folder.path(), recorded(1), 101, usize::MAX);
    let with = |text: &str| {
        fs::write(folder.path().join("expect.yaml"), text).expect("written");
        refusal(&dif_sr(folder.path(), &["gate", &run, "--expect=expect.yaml"]))
    };
    let runs = |more: &str| {
        format!("runs: {{source: s, folder: records, metrics: [recall@20], margin: 0.1, error: 0.05{more}}}\n")
    };
    assert!(with("{}").contains("expected `figures`, `runs` or both, found neither"));
    assert!(with(&runs("")).starts_with("records: cannot read the recorded runs"));
    assert!(with(&runs("").replace("0.05", "0.7")).contains("`runs.error`: expected a probability"));
    assert!(with(&runs("").replace("margin: 0.1", "margin: 2")).contains("`runs.margin`: expected a share"));
    let metric = with(&runs("").replace("recall@20", "recall"));
    assert!(metric.starts_with("expect.yaml: expected a metric such as recall@20"), "{metric}");
    assert!(
        with(&runs("").replace("recall@20", "recall@20, Recall@20"))
            .contains("`runs.metrics`: expected different metrics, found recall@20 twice")
    );
    assert!(with(&runs(", time: {regression: 0}")).contains("`runs.time.regression`: expected a share above 0"));
    with_loss(&folder.path().join("records"), recorded(1), 1, usize::MAX);
    assert!(with(&runs("")).contains("expected at least three recorded runs, found 1"));
    (2..=3).for_each(|seed| drop(with_loss(&folder.path().join("records"), recorded(seed), seed, usize::MAX)));
    fs::copy(folder.path().join("records/1.json"), folder.path().join("records/copy.json")).expect("copied");
    assert!(with(&runs("")).contains("expected runs of different seeds, found seed 1 twice"));
    fs::remove_file(folder.path().join("records/copy.json")).expect("removed");
    assert!(with(&runs(", convergence: {target: 2, margin: 1}")).contains("`runs.convergence`: expected a target"));
    let target = with(&runs(", convergence: {target: 0.9, margin: 1}"));
    assert!(
        target.contains("expected a recall@10 that every recorded run reaches, found 0.9, which seed 1"),
        "{target}"
    );
}

/// Before hours are spent on a run whose convergence cannot be judged.
#[test]
fn a_configuration_that_picks_its_best_epoch_by_another_metric_is_refused() {
    let path = root().join("configs/expectations/ml-100k_seeds.yaml");
    let expectation = Expectation::load(&path).unwrap_or_else(|e| panic!("{e}"));
    let check = |metric: &str| expectation.check(&config("ml-100k", &[("valid_metric", metric)]));
    check("Recall@10").unwrap_or_else(|e| panic!("{e}"));
    let told = check("NDCG@10").expect_err("another metric").to_string();
    assert!(
        told.starts_with("expected `valid_metric` to be recall@10, as of the recorded runs, found ndcg@10"),
        "{told}"
    );
}

#[test]
fn a_margin_is_told_as_it_was_stated() {
    let folder = temporary();
    let run = with_loss(folder.path(), recorded(9), 101, usize::MAX);
    for (margin, told) in [("0.005", "±0.5 %"), ("0.07", "±7 %")] {
        let records = root().join("fixtures/verdict/ml-100k_short").display().to_string();
        let text =
            format!("runs: {{source: s, folder: {records}, metrics: [recall@20], margin: {margin}, error: 0.05}}\n");
        fs::write(folder.path().join("expect.yaml"), text).expect("written");
        let said = stdout(&dif_sr(folder.path(), &["gate", &run, "--expect=expect.yaml"]));
        assert!(said.contains(&format!(" within {told}")), "{said}");
    }
}
