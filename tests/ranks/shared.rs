//! Ranks that share out the item embedding: the bits are those of ranks that do not, whatever happens to a rank, and files do
//! not show who had which rows.

use std::time::Instant;

use super::common::place::{Place, tensors, text};
use super::faults::{self, ended, goes_on_from, in_training};
use super::launch::{TIMEOUT, outputs, spawn, told, train};
use super::{equal, equal_without};

const SHARED: &str = "--shard_items=True";

#[test]
fn ranks_that_share_items_out_are_threads_in_both_precisions() {
    equal(&[SHARED], &[(2, 1)]);
    equal(&[SHARED], &[(2, 2), (4, 1)]);
    equal(&[SHARED, "--precision=bf16"], &[(2, 2), (4, 1)]);
}

#[test]
fn three_ranks_that_share_items_out_are_three_threads_with_clipping_decay_and_a_last_batch_of_one_row() {
    for clip in [
        "--clip_grad_norm={'max_norm': 0.5, 'norm_type': 1}",
        "--clip_grad_norm={'max_norm': 0.05, 'norm_type': 2}",
        "--clip_grad_norm={'max_norm': 0.005, 'norm_type': .inf}",
    ] {
        equal(&[SHARED, "--train_batch_size=299", "--weight_decay=0.01", clip], &[(3, 1)]);
    }
}

#[test]
fn ranks_that_share_items_out_are_threads_in_every_model() {
    for keys in [
        &[SHARED, "--fusion_type=sum"][..],
        &[SHARED, "--fusion_type=concat"],
        &[SHARED, "--fusion_type=gate", "--attribute_predictor=not"],
        &[SHARED, "--loss_type=BPR", "--attribute_predictor=not"],
    ] {
        equal(keys, &[(2, 1)]);
    }
    let unread = ["--attribute_hidden_size", "--lamdas", "--selected_features"];
    equal_without(&unread, &[SHARED, "--model=SASRec"], &[(2, 1)]);
    equal_without(&unread[..2], &[SHARED, "--model=SASRecF"], &[(2, 1)]);
}

/// Forty threads share out fewer items: the second rank has some of them, or none.
#[test]
fn ranks_without_items_are_threads_without_items() {
    equal(&[SHARED, "--epochs=1"], &[(2, 20)]);
}

#[test]
fn whichever_rank_is_killed_a_run_whose_items_are_shared_out_goes_on_to_the_bit() {
    let alone = "--shard_items=False";
    for (killed, (ranks, threads), how) in
        [(0, (3, 1), &[][..]), (1, (1, 3), &[]), (2, (3, 1), &[alone]), (2, (1, 3), &[alone])]
    {
        let place = Place::new(&faults::KEYS);
        let mut children = in_training(&place, TIMEOUT, &[SHARED]);
        let begin = Instant::now();
        children[killed].kill().expect("killed");
        let what = format!("kill -9 of rank {killed} of ranks that share items out");
        for (rank, output) in ended(children, begin, 20, &what).iter().enumerate().filter(|(rank, _)| *rank != killed) {
            assert_eq!(output.status.code(), Some(2), "{what}, rank {rank}: {}", told(output));
            assert!(told(output).contains("another rank has ended or does not answer"), "{}", told(output));
        }
        goes_on_from(&place, ranks, threads, how, &what);
    }
}

/// As ranks that share items out and as ranks that do not, one after the other.
#[test]
fn a_run_goes_on_with_items_shared_out_that_were_not_before() {
    let place = Place::new(&faults::KEYS);
    let mut children = in_training(&place, TIMEOUT, &[]);
    children[1].kill().expect("killed");
    ended(children, Instant::now(), 20, "kill -9 of rank 1");
    goes_on_from(&place, 3, 1, &[SHARED], "shared out from here on");
}

#[test]
fn a_full_disk_at_rank_0_ends_all_who_share_items_out() {
    faults::full_disk(&[SHARED], "a full disk of ranks that share items out");
}

#[test]
fn what_ranks_that_share_items_out_leave_is_evaluated_recommended_from_and_begun_from() {
    let place = Place::new(&["--compute_path=fast", SHARED]);
    train(&place, "run", 2, 1);
    let alone = Place::new(&["--compute_path=fast"]);
    train(&alone, "run", 1, 2);
    for arguments in [&["evaluate", "run", "--json"][..], &["recommend", "run", "--all-users", "--json"]] {
        let [ours, theirs] = [&place, &alone].map(|place| place.run(arguments));
        assert!(ours.status.success(), "{}", told(&ours));
        let [ours, theirs] = [ours, theirs].map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let anywhere = |text: &str, place: &Place| text.replace(&place.folder.path().display().to_string(), "");
        assert_eq!(anywhere(&ours, &place), anywhere(&theirs, &alone), "{arguments:?}");
    }
    // Two more epochs, as ranks and as one process.
    let more = ["--from=run", "--epochs=5", "--stopping_step=9", "--out=more"];
    for output in outputs(spawn(&place, 2, TIMEOUT, &more)) {
        assert!(output.status.success(), "{}", told(&output));
    }
    let output = alone.run(&[&["train", "--threads=2"], &more[..]].concat());
    assert!(output.status.success(), "{}", told(&output));
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
        norms.lines().filter(|line| line.contains("item_embedding.weight")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(norms("run"), norms("alone"));
}
