//! The binary as a process: exit codes, what it prints where, and what it leaves on disk.

mod bytes;
#[path = "../common/mod.rs"]
mod common;
mod data;
mod flags;
mod verify;
mod watch;

use std::fs;
use std::path::Path;
use std::process::Output;

use common::process::{code, dif_sr, dif_sr_in_64_gb, good, good_json, refusal, stderr, stdout};
use common::{TOY, root, write_toy};
use dif_sr::tensors::TensorFile;
use serde_json::{Value, json};
use tempfile::TempDir;

fn toy() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    folder
}

/// Commands that could not run, with the sentence that each was answered.
struct Told<'a> {
    folder: &'a Path,
    text: String,
}

impl<'a> Told<'a> {
    fn in_folder(folder: &'a Path) -> Self {
        Self { folder, text: String::new() }
    }

    fn by(&mut self, arguments: &[&str]) {
        let sentence = refusal(&dif_sr(self.folder, arguments));
        self.text += &format!("$ dif-sr {}\n{sentence}\n\n", arguments.join(" "));
    }
}

/// A trained toy model in `run`.
fn trained(folder: &Path) -> Output {
    good(folder, &[&["train", "--out=run", "--epochs=3"], &TOY[..]].concat())
}

#[test]
fn train_leaves_all_evidence_and_evaluate_finds_the_same_metrics() {
    let folder = toy();
    let output = trained(folder.path());
    assert!(stdout(&output).contains("best epoch"), "{}", stdout(&output));
    let run = folder.path().join("run");
    for file in ["best.safetensors", "config.yaml", "environment.json", "ranks.tsv", "result.json"] {
        assert!(run.join(file).metadata().is_ok_and(|m| m.len() > 0), "{file}");
    }
    let environment = fs::read_to_string(run.join("environment.json")).expect("an environment");
    assert!(
        environment.contains("\"device\": \"cpu\"") && environment.contains("\"libtorch\": \"2.11.0"),
        "{environment}"
    );
    let log = fs::read_to_string(run.join("log.txt")).expect("a log");
    assert_eq!(stderr(&output), log, "piped, the log goes to standard error line by line");
    let losses = fs::read_to_string(run.join("losses.tsv")).expect("losses");
    assert!(losses.starts_with("epoch\tbatch\ttotal\titem\ttags\n0\t1\t"), "{losses}");
    assert_eq!(fs::read_to_string(run.join("ranks.tsv")).expect("ranks").lines().count(), 61);
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    assert_eq!(metrics.lines().count(), 6);
    for line in metrics.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{line}");
    }

    let result = common::json(run.join("result.json"));
    let evaluated = good_json(folder.path(), &["evaluate", "run", "--json"]);
    assert_eq!(evaluated["test"], result["test"]);
    assert_eq!(evaluated["valid"]["metrics"], result["best_valid"]);
    assert_eq!(evaluated["epoch"], result["best_epoch"]);
}

#[test]
fn evaluations_come_every_eval_step_and_only_where_there_are_rows_for_them() {
    let folder = toy();
    let evaluated = |keys: &[&str]| {
        good(folder.path(), &[&["train", "--epochs=3", "--out=run"], keys, &TOY[..]].concat());
        let metrics = fs::read_to_string(folder.path().join("run").join("metrics.jsonl")).expect("metrics");
        fs::remove_dir_all(folder.path().join("run")).expect("removed");
        let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line.get("valid").is_some()).map(|line| line["epoch"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(evaluated(&["--eval_step=2"]), [1]);
    // Of three interactions the last is for the test, and none for validation.
    let inter = fs::read_to_string(folder.path().join("toy/toy.inter")).expect("the toy");
    let (header, rows) = inter.split_once('\n').expect("a header");
    let rows: String =
        rows.lines().collect::<Vec<_>>().chunks(8).flat_map(|user| &user[..3]).map(|row| format!("{row}\n")).collect();
    fs::write(folder.path().join("toy/toy.inter"), format!("{header}\n{rows}")).expect("written");
    assert!(evaluated(&["--user_inter_num_interval=[1,inf)", "--item_inter_num_interval=[1,inf)"]).is_empty());
}

#[test]
fn the_same_seed_trains_the_same_model_and_another_seed_or_path_does_not() {
    let folder = toy();
    let train = |out: &str, key: &str| good(folder.path(), &[&["train", "--epochs=2", out, key], &TOY[..]].concat());
    let parameters = |run: &str| {
        let tensors =
            TensorFile::read(&folder.path().join(run).join("best.safetensors")).expect("a checkpoint").tensors;
        Vec::<f32>::try_from(tensors["item_embedding.weight"].flatten(0, -1)).expect("float32")
    };
    train("--out=a", "--seed=1");
    train("--out=b", "--seed=1");
    train("--out=c", "--seed=2");
    assert_eq!(parameters("a"), parameters("b"));
    assert_ne!(parameters("a"), parameters("c"));
    // The fast path draws dropout masks of its own.
    train("--out=reference", "--compute_path=reference");
    train("--out=fast", "--compute_path=fast");
    assert_ne!(parameters("reference"), parameters("fast"));
}

#[test]
fn every_fusion_loss_and_number_of_attributes_trains() {
    let folder = toy();
    let cases: [&[&str]; 6] = [
        &["--fusion_type=sum"],
        &["--fusion_type=concat", "--pooling_mode=mean"],
        &["--fusion_type=gate", "--attribute_predictor=not"],
        &["--selected_features=[tags,brand]", "--attribute_hidden_size=[8,4]", "--lamdas=[5,1]"],
        &["--selected_features=[]", "--attribute_hidden_size=[]", "--lamdas=[]", "--attribute_predictor=not"],
        &[
            "--loss_type=BPR",
            "--neg_sampling={'uniform': 1}",
            "--attribute_predictor=not",
            "--clip_grad_norm={'max_norm': 1}",
        ],
    ];
    for (i, case) in cases.iter().enumerate() {
        let out = format!("--out=run{i}");
        good(folder.path(), &[&["train", &out, "--epochs=1"], &TOY[..], case].concat());
    }
}

#[test]
fn a_token_with_a_tab_is_quoted_in_the_ranks() {
    let folder = toy();
    let inter = folder.path().join("toy/toy.inter");
    let text = fs::read_to_string(&inter).expect("readable");
    fs::write(&inter, text.replace("u7\t", "\"u\t7\"\t")).expect("written");
    trained(folder.path());
    let mut ranks =
        csv::ReaderBuilder::new().delimiter(b'\t').from_path(folder.path().join("run/ranks.tsv")).expect("ranks");
    let rows: Vec<_> = ranks.records().map(|row| row.expect("four fields")).collect();
    assert_eq!(rows.len(), 60);
    assert!(rows.iter().any(|row| &row[0] == "u\t7"));
}

#[test]
fn a_user_without_negative_items_is_named_before_a_run_folder_is_made() {
    let folder = toy();
    let inter = folder.path().join("toy/toy.inter");
    let mut text = fs::read_to_string(&inter).expect("readable");
    // Two more items than are left for validation and test.
    (0..32).for_each(|i| text += &format!("greedy\ti{}\t{}\n", i % 30, 2000 + i));
    fs::write(&inter, text).expect("written");
    let bpr = ["train", "--loss_type=BPR", "--attribute_predictor=not", "--out=run"];
    let sentence = refusal(&dif_sr(folder.path(), &[&bpr, &TOY[..], &["--MAX_ITEM_LIST_LENGTH=50"]].concat()));
    assert!(sentence.contains("expected an item that user `greedy` has not chosen, found all 30 items"), "{sentence}");
    assert!(!folder.path().join("run").exists());
}

#[test]
fn a_panic_inside_of_libtorch_is_one_sentence_with_its_place() {
    let folder = toy();
    let huge = ["train", "--hidden_size=1000000", "--inner_size=1000000"];
    let toy = TOY.iter().filter(|key| !key.contains("hidden_size=16") && !key.contains("inner_size")).copied();
    let sentence = refusal(&dif_sr_in_64_gb(folder.path(), &huge.into_iter().chain(toy).collect::<Vec<_>>()));
    assert!(sentence.starts_with("stopped inside of the computation, at "), "{sentence}");
    assert!(sentence.contains(".rs:") && sentence.contains("memory"), "{sentence}");

    // In the training, scores of [B, heads, L, L]: the run folder says so too.
    let long = ["train", "--out=long", "--MAX_ITEM_LIST_LENGTH=6000", "--fusion_type=sum"];
    let toy = TOY.iter().filter(|key| !key.contains("MAX_ITEM_LIST_LENGTH") && !key.contains("fusion_type")).copied();
    let sentence = refusal(&dif_sr_in_64_gb(folder.path(), &long.into_iter().chain(toy).collect::<Vec<_>>()));
    assert!(sentence.starts_with("stopped inside of the computation, at "), "{sentence}");
    assert!(sentence.contains("; no checkpoint had been written yet; if memory ran out"), "{sentence}");
    let log = fs::read_to_string(folder.path().join("long/log.txt")).expect("a log");
    assert!(log.trim_end().ends_with(&sentence), "{log}");
}

#[test]
fn a_run_folder_is_never_overwritten() {
    let folder = toy();
    trained(folder.path());
    let before = fs::read(folder.path().join("run/best.safetensors")).expect("a checkpoint");
    let output = dif_sr(folder.path(), &[&["train", "--out=run", "--epochs=1"], &TOY[..]].concat());
    assert_eq!(
        refusal(&output),
        "run: expected a new or empty folder, found files in it; choose another place with --out: runs are never overwritten"
    );
    assert_eq!(fs::read(folder.path().join("run/best.safetensors")).expect("a checkpoint"), before);

    // Its losses are evidence, too, where all large files were removed by hand.
    fs::create_dir(folder.path().join("losses")).expect("a folder");
    for name in ["lock", "losses.tsv", "environment.json"] {
        fs::copy(folder.path().join("run").join(name), folder.path().join("losses").join(name)).expect("copied");
    }
    let output = dif_sr(folder.path(), &[&["train", "--out=losses", "--epochs=1"], &TOY[..]].concat());
    assert!(refusal(&output).starts_with("losses: expected a new or empty folder"));

    fs::create_dir(folder.path().join("foreign")).expect("a folder");
    fs::write(folder.path().join("foreign/letter.txt"), "mine").expect("written");
    let output = dif_sr(folder.path(), &[&["train", "--out=foreign", "--epochs=1"], &TOY[..]].concat());
    assert!(refusal(&output).starts_with("foreign: expected a new or empty folder"));
    assert_eq!(fs::read_dir(folder.path().join("foreign")).expect("a folder").count(), 1, "nothing is left in it");
}

#[test]
fn commands_that_read_no_configuration_say_so() {
    let sentence = refusal(&dif_sr(root(), &["gate", "--seed=3"]));
    assert!(
        sentence.starts_with("expected no key of the configuration, which this command does not read"),
        "{sentence}"
    );
    let sentence = refusal(&dif_sr(root(), &["gate"]));
    assert!(sentence.starts_with("expected something to judge, found nothing; name runs with "), "{sentence}");
}

#[test]
fn runs_that_start_in_the_same_second_get_folders_of_their_own() {
    let folder = toy();
    let arguments = [&["train", "--epochs=1"], &TOY[..]].concat();
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(|| good(folder.path(), &arguments))));
    });
    assert_eq!(fs::read_dir(folder.path().join("runs")).expect("run folders").count(), 3);
}

#[test]
fn every_bad_case_and_checkpoint_is_refused_in_one_sentence() {
    let mut told = Told::in_folder(root());
    for (command, folder) in [("verify", "fixtures/cases"), ("evaluate", "fixtures/checkpoints")] {
        let entries = fs::read_dir(root().join(folder)).expect("fixtures").map(|entry| entry.expect("readable"));
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        let reasons = fs::read_to_string(root().join(folder).join("README.md")).expect("a README");
        for name in names.iter().filter(|name| *name != "README.md") {
            assert!(reasons.contains(&format!("| `{name}` |")), "{folder}/README.md gives the reason for {name}");
            told.by(&[command, &format!("{folder}/{name}")]);
        }
    }
    insta::assert_snapshot!(told.text);
}

#[test]
fn a_checkpoint_is_evaluated_on_its_own_data_and_model_alone() {
    let folder = toy();
    trained(folder.path());
    let mut told = Told::in_folder(folder.path());
    told.by(&["evaluate", "run", "--MAX_ITEM_LIST_LENGTH=9"]);
    told.by(&["evaluate", "nowhere"]);
    told.by(&["evaluate", "run/last.safetensors"]);
    fs::create_dir(folder.path().join("begun")).expect("a folder");
    fs::copy(folder.path().join("run/config.yaml"), folder.path().join("begun/config.yaml")).expect("copied");
    told.by(&["evaluate", "begun"]);
    let items =
        fs::read_to_string(folder.path().join("toy/toy.inter")).expect("readable").replace("\ti7\t", "\ti700\t");
    fs::write(folder.path().join("toy/toy.inter"), items).expect("written");
    told.by(&["evaluate", "run", "--filter_inter_by_user_or_item=False"]);
    insta::assert_snapshot!(told.text);
}

#[test]
fn wrong_flags_are_told_what_to_write() {
    let folder = toy();
    let mut told = Told::in_folder(folder.path());
    told.by(&["train", "--epochs", "3"]);
    told.by(&["train", "--epoch=3"]);
    told.by(&["train", "--config_file", "amazon_config.ini"]);
    told.by(&["train", "--config_files", "nowhere.yaml"]);
    told.by(&["train", "--config_files=nowhere.yaml", "toy.yaml"]);
    told.by(&["train"]);
    told.by(&["train", "--dataset=nowhere", "--data_path=."]);
    told.by(&["reproduce", "nowhere.yaml"]);
    told.by(&["reproduce"]);
    insta::assert_snapshot!(told.text);
    assert!(!folder.path().join("runs").exists(), "what cannot run leaves no run folder");
}

#[test]
fn reproduce_takes_config_files_alone_and_expects_what_stands_beside_the_last() {
    let folder = toy();
    let metrics = "epochs: 1\nmetrics: [Recall]\ntopk: [5]\nvalid_metric: Recall@5\n";
    fs::write(folder.path().join("first.yaml"), metrics).expect("written");
    fs::write(folder.path().join("last.yaml"), "seed: 7\n").expect("written");
    fs::create_dir(folder.path().join("expectations")).expect("a folder");
    let expectation = "figures: {source: beside last.yaml, margin: {metric: 1}, test: {recall@5: 0.5}}\n";
    fs::write(folder.path().join("expectations/last.yaml"), expectation).expect("written");
    let toy = TOY.iter().filter(|a| !a.starts_with("--valid_metric")).copied();
    let arguments = ["reproduce", "--out=run", "--config_files", "first.yaml", "last.yaml"].into_iter().chain(toy);
    let output = good(folder.path(), &arguments.collect::<Vec<_>>());
    assert!(stdout(&output).starts_with("figures, expected: beside last.yaml"), "{}", stdout(&output));
    let config = fs::read_to_string(folder.path().join("run/config.yaml")).expect("a configuration");
    assert!(config.contains("seed: 7\n") && config.contains("epochs: 1\n"), "{config}");

    // What the run is held to names its files by where they are, so that it can be read from the run folder.
    let losses = fs::read_to_string(folder.path().join("run/losses.tsv")).expect("losses");
    let losses =
        losses.lines().skip(1).map(|line| line.split('\t').nth(2).expect("a total").parse().expect("a number"));
    let mut batches: Vec<Value> = losses.map(|loss: f32| json!({ "loss": loss })).collect();
    let (first, n) = (batches[0]["loss"].as_f64().expect("a number"), batches.len());
    batches[0]["loss"] = json!(first * 1.5);
    let golden = json!({
        "resolved_config": { "dataset": "toy", "seed": 7, "valid_metric": "Recall@5" },
        "valid": [{ "recall@5": 0.5 }], "test": { "recall@5": 0.5 }, "batches": batches,
    });
    fs::write(folder.path().join("golden.json"), golden.to_string()).expect("written");
    let expectation = "figures: {source: a golden run, margin: {metric: 1}, golden: ../golden.json}\n";
    fs::write(folder.path().join("expectations/last.yaml"), expectation).expect("written");
    let toy = TOY.iter().filter(|a| !a.starts_with("--valid_metric")).copied();
    let arguments =
        ["reproduce", "--out=a/b/c/run", "--config_files", "first.yaml", "last.yaml"].into_iter().chain(toy);
    let output = good(folder.path(), &arguments.collect::<Vec<_>>());
    let equal = format!("note: batch losses: {} of {n} the golden run's to the bit, the others within 3.3e-1\n", n - 1);
    assert!(stdout(&output).contains(&equal), "{}", stdout(&output));
    good(folder.path(), &["gate", "a/b/c/run", "--expect=a/b/c/run/expectation.yaml"]);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_where_it_was_asked_for() {
    let folder = toy();
    let asked = dif_sr(folder.path(), &[&["train"], &TOY[..12], &["--use_gpu=True", "--gpu_id=99"]].concat());
    let sentence = refusal(&asked);
    assert!(sentence.starts_with("a GPU is asked for, but") || sentence.starts_with("gpu_id is 99, but"), "{sentence}");
    let both = dif_sr(folder.path(), &["verify", "--gpu", "--against=dump.safetensors", "golden/gate"]);
    let said = stderr(&both);
    assert_eq!((code(&both), said.contains("'--gpu' cannot be used with")), (2, true), "{said}");
}

/// Data of a known name whose figures are not those of the copy that the name stands for.
#[test]
fn reproduce_says_before_the_training_and_in_its_verdict_in_what_a_copy_differs() {
    let folder = toy();
    fs::rename(folder.path().join("toy"), folder.path().join("Amazon_Beauty")).expect("renamed");
    for file in ["inter", "item"] {
        let path = |name: &str| folder.path().join(format!("Amazon_Beauty/{name}.{file}"));
        fs::rename(path("toy"), path("Amazon_Beauty")).expect("renamed");
    }
    fs::write(folder.path().join("known.yaml"), "epochs: 1\n").expect("written");
    let text = "figures: {source: by hand, margin: {metric: 1}, test: {recall@10: 0.5}}\n";
    fs::write(folder.path().join("expect.yaml"), text).expect("written");
    let arguments = ["reproduce", "known.yaml", "--expect=expect.yaml", "--out=run"].into_iter();
    let toy = TOY.iter().filter(|argument| !argument.starts_with("--dataset")).copied();
    let output = good(folder.path(), &arguments.chain(toy).chain(["--dataset=Amazon_Beauty"]).collect::<Vec<_>>());
    let sentence = "Amazon_Beauty is no copy that is known here; it differs from that of the notebook in this: 60 users for \
                    22363, 30 items for 12101, 480 interactions for 198502 (docs/data.md)";
    assert_eq!(stderr(&output).lines().next(), Some(&*format!("note: {sentence}")));
    assert!(stdout(&output).contains(&format!("note: {sentence}\n")), "{}", stdout(&output));
    let verdict = fs::read_to_string(folder.path().join("run/verdict.json")).expect("a verdict");
    assert!(verdict.contains(sentence), "{verdict}");
}

#[test]
fn reproduce_says_pass_or_fail_and_exits_accordingly() {
    let folder = toy();
    fs::write(folder.path().join("toy.yaml"), "epochs: 2\nmetrics: [Recall]\ntopk: [5]\n").expect("written");
    let expect = |value: f64| {
        let text = format!("figures: {{source: by hand, margin: {{metric: 0.6}}, test: {{recall@5: {value}}}}}\n");
        fs::write(folder.path().join("expect.yaml"), text).expect("written");
    };
    let reproduce = |out: &str| {
        let toy = TOY.iter().filter(|a| !a.starts_with("--valid_metric")).copied();
        let arguments = ["reproduce", "toy.yaml", "--expect=expect.yaml", "--valid_metric=Recall@5", out].into_iter();
        dif_sr(folder.path(), &arguments.chain(toy).collect::<Vec<_>>())
    };
    expect(0.5);
    let output = reproduce("--out=a");
    assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("pass: all 1 values are within their margin"), "{}", stdout(&output));
    fs::write(folder.path().join("expect.yaml"), "figures: {source: s, margin: {metric: 1}, test: {recall@5: .nan}}\n")
        .expect("written");
    assert!(refusal(&reproduce("--out=c")).contains("`recall@5`: expected a finite number"));
    fs::write(folder.path().join("expect.yaml"), "figures: {source: s, margin: {metric: 1}, test: {recall@20: 0.1}}\n")
        .expect("written");
    assert!(refusal(&reproduce("--out=c")).starts_with("`recall@20` is expected, but the run computes recall@5;"));
    fs::write(folder.path().join("expect.yaml"), "figures: {source: s, margin: {metric: -1}, test: {recall@5: 0.1}}\n")
        .expect("written");
    assert!(refusal(&reproduce("--out=c")).contains("`margin.metric`: expected a number of at least 0"));
    assert!(!folder.path().join("c").exists());
    expect(2.0);
    let output = reproduce("--out=b");
    assert_eq!(code(&output), 1);
    assert!(stdout(&output).contains("FAIL: 1 of 1 values are outside their margin: test recall@5"));
    assert!(folder.path().join("b/verdict.json").is_file());
    let page = fs::read_to_string(folder.path().join("b/report.html")).expect("a page");
    assert!(page.contains("FAIL: 1 of 1 values are outside their margin"), "{page}");
}
