//! Ranks that share out the item embedding: what they leave is used as any other run, and what they refuse and tell. Their
//! bits are compared beside those of ranks that do not (`main`, `faults`).

use super::SHARED;
use super::common::place::{Place, tensors, text};
use super::launch::{TIMEOUT, outputs, spawn, told, train};

#[test]
fn what_ranks_that_share_items_out_leave_is_evaluated_recommended_from_and_begun_from() {
    let place = Place::new(&["--compute_path=fast", SHARED]);
    train(&place, "run", 2, 1);
    let alone = Place::new(&["--compute_path=fast"]);
    train(&alone, "run", 1, 2);
    for arguments in [&["evaluate", "run", "--json"][..], &["recommend", "run", "--all-users", "--json"]] {
        let [ours, theirs] =
            [&place, &alone].map(|place| String::from_utf8_lossy(&place.good(arguments).stdout).into_owned());
        let anywhere = |text: &str, place: &Place| text.replace(&place.folder.path().display().to_string(), "");
        assert_eq!(anywhere(&ours, &place), anywhere(&theirs, &alone), "{arguments:?}");
    }
    // Two more epochs, as ranks and as one process.
    let more = ["--from=run", "--epochs=5", "--stopping_step=9", "--out=more"];
    for output in outputs(spawn(&place, 2, TIMEOUT, &more)) {
        assert!(output.status.success(), "{}", told(&output));
    }
    alone.good(&[&["train", "--threads=2"], &more[..]].concat());
    for file in ["losses.tsv", "ranks.tsv"] {
        assert_eq!(text(&place.path("more").join(file)), text(&alone.path("more").join(file)), "{file}");
    }
    for file in ["best.safetensors", "last.safetensors"] {
        let [ours, theirs] = [&place, &alone].map(|place| tensors(&place.path("more").join(file)));
        assert!(ours == theirs, "{file} of two more epochs");
    }
}

#[test]
fn a_path_that_does_not_share_items_out_is_refused() {
    let place = Place::new(&[SHARED, "--epochs=1"]);
    for output in outputs(spawn(&place, 2, TIMEOUT, &[&place.keys[..], &["--out=run"]].concat())) {
        assert_eq!(output.status.code(), Some(2));
        assert!(told(&output).contains("shard_items is True, and only the fast path of the CPU"), "{}", told(&output));
    }
    assert!(!place.path("run").exists());
    // In one process it changes nothing.
    train(&place, "run", 1, 1);
}

/// The norms of all parameters are told, that of the item embedding over all ranks.
#[test]
fn a_loss_that_is_no_number_is_told_as_one_process_tells_it() {
    let keys = ["--compute_path=fast", "--learning_rate=1e30", SHARED];
    let sentence = |told: String| told.split("; ").take(2).collect::<Vec<_>>().join("; ");
    let place = Place::new(&keys);
    let alone = sentence(told(&place.run(&[&["train", "--threads=2", "--out=alone"], &place.keys[..]].concat())));
    let outputs = outputs(spawn(&place, 2, TIMEOUT, &[&place.keys[..], &["--out=run"]].concat()));
    assert!(outputs.iter().all(|output| output.status.code() == Some(2)), "{outputs:?}");
    assert!(alone.contains("the largest norms of parameters are "), "{alone}");
    assert_eq!(sentence(told(&outputs[0])), alone);
    let norms = |run: &str| {
        let log = text(&place.path(run).join("log.txt"));
        let (_, norms) = log.split_once("norms of parameters").expect("all norms");
        let untimed = |line: &str| line.split_once("    INFO  ").map_or(line, |(_, message)| message).to_owned();
        norms.lines().filter(|line| line.contains("item_embedding.weight")).map(untimed).collect::<Vec<_>>()
    };
    assert_eq!(norms("run"), norms("alone"));
}
