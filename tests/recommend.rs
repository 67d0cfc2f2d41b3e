//! What a trained model recommends, and models that come from RecBole.

mod common;

use std::fs;

use common::process::{code, dif_sr, refusal, stderr, stdout};
use common::{TOY, write_toy};
use dif_sr::tensors::{TensorFile, write};
use once_cell::sync::Lazy;
use serde_json::Value;
use tempfile::TempDir;

/// A trained toy model in `run`.
static TRAINED: Lazy<TempDir> = Lazy::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    let output = dif_sr(folder.path(), &[&["train", "--out=run", "--epochs=30"], &TOY[..]].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    folder
});

/// Lines of user, rank, item and score.
fn recommended(arguments: &[&str]) -> Vec<[String; 4]> {
    let output = dif_sr(TRAINED.path(), &[&["recommend", "run"], arguments].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("user\trank\titem\tscore"));
    let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>().try_into().expect("four cells");
    lines.map(cells).collect()
}

#[test]
fn a_history_needs_the_checkpoint_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::copy(TRAINED.path().join("run/best.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    let arguments = ["recommend", "model.safetensors", "--history", "i3", "i4", "i5", "-k", "4"];
    let output = dif_sr(folder.path(), &arguments);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 5);
    // The same items as beside the data set, and best first.
    let here = recommended(&["--history", "i3", "i4", "i5", "-k", "4"]);
    assert_eq!(
        here.iter().map(|line| line.join("\t")).collect::<Vec<_>>(),
        stdout(&output).lines().skip(1).collect::<Vec<_>>()
    );
    let scores: Vec<f64> = here.iter().map(|line| line[3].parse().expect("a score")).collect();
    assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{scores:?}");
    assert_eq!(here.iter().map(|line| line[1].as_str()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
}

#[test]
fn a_user_stands_for_the_history_in_the_data() {
    // User 0 walks from item to the next: i0 to i7.
    let history = ["--history", "i0", "i1", "i2", "i3", "i4", "i5", "i6", "i7"];
    let items = |lines: Vec<[String; 4]>| lines.into_iter().map(|[_, _, item, _]| item).collect::<Vec<_>>();
    assert_eq!(items(recommended(&["--user", "u0"])), items(recommended(&history)));
    let unseen = items(recommended(&["--user", "u0", "--unseen", "-k", "30"]));
    assert_eq!(unseen.len(), 22, "thirty items, eight of them seen");
    assert!(!unseen.contains(&"i3".to_owned()) && !unseen.contains(&"[PAD]".to_owned()));
}

#[test]
fn all_users_come_in_one_pass_as_lines_of_json_too() {
    let lines = recommended(&["--all-users", "-k", "3", "--eval_batch_size=7"]);
    assert_eq!(lines.len(), 60 * 3);
    let output = dif_sr(TRAINED.path(), &["recommend", "run", "--all-users", "-k", "3", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let values: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(values.len(), 60);
    for (value, lines) in values.iter().zip(lines.chunks(3)) {
        assert_eq!(value["user"], lines[0][0]);
        let items: Vec<&str> =
            value["items"].as_array().expect("a list").iter().filter_map(|i| i["item"].as_str()).collect();
        assert_eq!(items, lines.iter().map(|line| line[2].as_str()).collect::<Vec<_>>());
    }
}

#[test]
fn unknown_items_and_users_are_named() {
    let told = |arguments: &[&str]| refusal(&dif_sr(TRAINED.path(), &[&["recommend", "run"], arguments].concat()));
    let sentence = told(&["--history", "i1", "shoe", "[PAD]"]);
    assert!(sentence.contains("expected items that the model was trained with, found `shoe`, `[PAD]`"), "{sentence}");
    let sentence = told(&["--user", "u1", "nobody"]);
    assert!(sentence.contains("expected users that the model was trained with, found `nobody`"), "{sentence}");
    assert!(told(&["--history", "i1", "-k", "0"]).starts_with("expected at least one item after -k"));
    let output = dif_sr(TRAINED.path(), &["recommend", "run"]);
    assert_eq!(code(&output), 2, "nobody to recommend to");
    for choice in ["--history", "--user", "--all-users"] {
        assert!(stderr(&output).contains(choice), "{}", stderr(&output));
    }
}

#[test]
fn recboles_parameters_become_the_checkpoint_that_they_were() {
    let folder = TRAINED.path();
    let TensorFile { tensors, .. } =
        TensorFile::read(&folder.join("run/best.safetensors")).unwrap_or_else(|e| panic!("{e}"));
    // RecBole saves neither the attribute tables nor the attributes of the items.
    let beside = |name: &str| name.starts_with("item_feat.") || name.starts_with("feature_embed_layer_list.");
    let saved: Vec<_> =
        tensors.iter().filter(|(name, _)| !beside(name)).map(|(n, t)| (n.clone(), t.shallow_clone())).collect();
    assert!(saved.len() < tensors.len());
    write(&folder.join("recbole.safetensors"), &saved, &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let import = |out: &str, more: &[&str]| {
        let out = format!("--out={out}");
        dif_sr(folder, &[&["import", "recbole.safetensors", &out], &TOY[..], more].concat())
    };
    let output = import("back.safetensors", &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let back = TensorFile::read(&folder.join("back.safetensors")).unwrap_or_else(|e| panic!("{e}")).tensors;
    assert_eq!(back.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
    for (name, tensor) in &tensors {
        assert_eq!(&back[name], tensor, "{name}");
    }
    assert!(refusal(&import("back.safetensors", &[])).starts_with("back.safetensors: expected no file, found one"));
    let sentence = refusal(&import("other.safetensors", &["--inner_size=8"]));
    assert!(sentence.contains("expected shape"), "{sentence}");
    assert!(!folder.join("other.safetensors").exists());
}
