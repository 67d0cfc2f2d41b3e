//! What a trained model recommends, and models that come from RecBole.

mod common;

use std::fs;
use std::process::{Command, Stdio};

use common::process::{code, dif_sr, good, refusal, stderr, stdout};
use common::{TOY, write_toy};
use dif_sr::tensors::{TensorFile, write};
use dif_sr::train::{Checkpoint, Prepared};
use once_cell::sync::Lazy;
use serde_json::Value;
use tempfile::TempDir;

/// A trained toy model in `run`.
static TRAINED: Lazy<TempDir> = Lazy::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    good(folder.path(), &[&["train", "--out=run", "--epochs=30"], &TOY[..]].concat());
    folder
});

/// Lines of user, rank, item and score.
fn recommended(arguments: &[&str]) -> Vec<[String; 4]> {
    let text = stdout(&good(TRAINED.path(), &[&["recommend", "run"], arguments].concat()));
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
    let output = good(folder.path(), &arguments);
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
    let text = stdout(&good(TRAINED.path(), &["recommend", "run", "--all-users", "-k", "3", "--json"]));
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
fn users_without_interactions_are_left_out_of_all_and_refused_by_their_token() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    fs::copy(TRAINED.path().join("run/best.safetensors"), folder.path().join("model.safetensors")).expect("copied");
    let users: String = (0..60).map(|user| format!("u{user}\n")).collect();
    fs::write(folder.path().join("toy/toy.user"), format!("user_id:token\nbob\n{users}")).expect("written");
    let load_col = "--load_col={'inter': '*', 'item': '*', 'user': [user_id]}";
    let recommend = |whom: &[&str]| {
        dif_sr(folder.path(), &[&["recommend", "model.safetensors", load_col, "-k", "1"], whom].concat())
    };
    let all = recommend(&["--all-users"]);
    assert_eq!(code(&all), 0, "{}", stderr(&all));
    assert_eq!(stdout(&all).lines().skip(1).filter(|line| line.starts_with('u')).count(), 60);
    assert_eq!(stdout(&all).lines().count(), 61);
    let sentence = refusal(&recommend(&["--user", "u0", "bob"]));
    assert!(sentence.contains("expected interactions of the user `bob`, found none; leave the user out"), "{sentence}");
}

#[test]
fn ids_that_are_spelt_like_options_are_joined_to_their_flag() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    let rename = |name: &str, names: &[(&str, &str)]| {
        let path = folder.path().join("toy").join(name);
        let text = fs::read_to_string(&path).expect("the toy");
        let text = names.iter().fold(text, |text, (old, new)| text.replace(&format!("{old}\t"), &format!("{new}\t")));
        fs::write(path, text).expect("written");
    };
    let items = [("i3", "-i3"), ("i4", "--i4"), ("i5", "-k"), ("i6", "--json"), ("i7", "--x=1")];
    rename("toy.inter", &[("u1", "--u1"), ("u2", "-u2"), ("u3", "-k"), ("u4", "--user"), ("u5", "-3")]);
    rename("toy.inter", &items);
    rename("toy.item", &items);
    good(folder.path(), &[&["train", "--out=run", "--epochs=1"], &TOY[..]].concat());
    let recommended = |arguments: &[&str]| {
        let output = good(folder.path(), &[&["recommend"], arguments].concat());
        stdout(&output).lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    };
    let users = |arguments: &[&str]| {
        let lines: Vec<Vec<String>> = recommended(&[arguments, &["--eval_batch_size=7"]].concat());
        let mut users: Vec<String> = lines.into_iter().map(|cells| cells[0].clone()).collect();
        users.dedup();
        users
    };
    let joined = ["run", "--user=--u1", "--user", "u0", "--user=-u2", "--user=-3", "-k", "2"];
    assert_eq!(users(&joined), ["--u1", "u0", "-u2", "-3"]);
    assert_eq!(users(&["--user=-k", "--user=--user", "-k=1", "run"]), ["-k", "--user"]);
    // User 0 walks from item to the next.
    let one: Vec<Vec<String>> = recommended(&["run", "--user", "u0"]);
    let history = "run --history i0 i1 i2 --history=-i3 --history=--i4 --history=-k --history=--json --history=--x=1";
    let same: Vec<Vec<String>> = recommended(&history.split(' ').collect::<Vec<_>>());
    assert_eq!(one.iter().map(|c| &c[1..]).collect::<Vec<_>>(), same.iter().map(|c| &c[1..]).collect::<Vec<_>>());
    for (words, option, value) in [
        (["--user", "u0", "-u2"], "--user", "-u2"),
        (["--user", "--u1", "u0"], "--user", "--u1"),
        (["--history", "i0", "-i3"], "--history", "-i3"),
    ] {
        let told = refusal(&dif_sr(folder.path(), &[&["recommend", "run"], &words[..]].concat()));
        let expected = format!(
            "expected a value after {option}, found `{value}`, which begins as an option does; write {option}={value} if it is \
             the value"
        );
        assert_eq!(told, expected);
    }
}

/// What the children of this process took at most, in bytes.
#[cfg(target_os = "linux")]
fn most_of_a_child() -> usize {
    unsafe extern "C" {
        fn getrusage(who: i32, usage: *mut [i64; 18]) -> i32;
    }
    const RUSAGE_CHILDREN: i32 = -1;
    let mut usage = [0; 18];
    // SAFETY: glibc's `struct rusage` has two times of two numbers and fourteen numbers, of which the first is the peak in kB.
    assert_eq!(unsafe { getrusage(RUSAGE_CHILDREN, &raw mut usage) }, 0);
    usage[4] as usize * 1024
}

/// Lists of all items for all users would take 1.9 GB here.
#[cfg(target_os = "linux")]
#[test]
fn recommending_to_all_users_takes_the_memory_of_a_few() {
    const USERS: usize = 4_000;
    const ITEMS: usize = 30_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("many")).expect("a folder");
    let mut inter = "user_id:token\titem_id:token\ttimestamp:float\n".to_owned();
    (0..8 * USERS).for_each(|i| inter += &format!("u{}\ti{}\t{i}\n", i % USERS, i % ITEMS));
    fs::write(folder.path().join("many/many.inter"), inter).expect("written");
    let data_path = folder.path().display().to_string();
    let keys = [("model", "SASRec"), ("dataset", "many"), ("data_path", &data_path), ("hidden_size", "16")];
    let config = common::configs(&[], &[&keys[..], &[("inner_size", "16")]].concat());
    let Prepared { dataset, model, .. } = Prepared::new(&config).unwrap_or_else(|e| panic!("{e}"));
    let path = folder.path().join("model.safetensors");
    Checkpoint::save(&path, &config, &dataset, &model, 0).unwrap_or_else(|e| panic!("{e}"));
    let lines = |arguments: &[&str]| {
        stdout(&good(folder.path(), &[&["recommend", "model.safetensors"], arguments].concat())).lines().count()
    };
    assert_eq!(lines(&["--user", "u0"]), 11);
    let of_one = most_of_a_child();
    assert_eq!(lines(&["--all-users"]), 1 + 10 * USERS);
    let more = most_of_a_child() - of_one;
    assert!(more < 300 << 20, "{USERS} users take {more} bytes more than one");
}

#[test]
fn a_reader_who_leaves_ends_the_work_and_a_full_disk_is_told() {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dif-sr"));
    command.current_dir(TRAINED.path()).args(["recommend", "run", "--all-users", "-k", "30", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has this file");
    let output = command.stdout(full).output().expect("the binary runs");
    let told = "dif-sr: standard output: cannot print the result: No space left on device (os error 28); check the free space of its disk\n";
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(2), told));
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
    // RecBole saves neither the attribute tables nor the tokens and attributes of the items.
    let beside = |name: &str| ["item_feat.", "items.", "feature_embed_layer_list."].iter().any(|x| name.starts_with(x));
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
