//! R ranks of T threads are one process of R · T threads, to the bit, and every fault ends all of them in bounded time.
//!
//! `steps` has ranks as threads of this process, for many models; the others have real processes.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod launch;
mod memory;
mod mpi;
mod netns;
mod reference;
mod refusals;
#[path = "../properties/sample.rs"]
#[allow(dead_code, reason = "the part that draws models and batches is used")]
mod sample;
mod shared;
mod steps;

use common::place::Place;
use launch::{Bits, train};

/// Four micro-batches in the first batch, two in the last, whose second is not full.
const BATCHES: &str = "--train_batch_size=200";

/// Trains as one process and as several, and compares all that they leave.
fn equal(keys: &[&'static str], shapes: &[(usize, usize)]) {
    equal_without(&[], keys, shapes);
}

/// The same without some of the toy's keys, which a model does not read.
fn equal_without(unread: &[&str], keys: &[&'static str], shapes: &[(usize, usize)]) {
    let mut place = Place::new(&[&["--compute_path=fast", BATCHES], keys].concat());
    place.keys.retain(|key| !unread.iter().any(|unread| key.starts_with(unread)));
    let all = shapes[0].0 * shapes[0].1;
    train(&place, "alone", 1, all);
    let alone = Bits::of(&place.path("alone"));
    for &(ranks, threads) in shapes {
        assert_eq!(ranks * threads, all);
        let name = format!("{ranks}x{threads}");
        train(&place, &name, ranks, threads);
        Bits::of(&place.path(&name)).assert_equal(&alone, &format!("{name} {keys:?}"));
    }
}

#[test]
fn ranks_are_threads_in_float32() {
    equal(&[], &[(2, 1)]);
    equal(&[], &[(2, 2), (4, 1)]);
}

#[test]
fn ranks_are_threads_in_bf16() {
    equal(&["--precision=bf16"], &[(2, 1)]);
    equal(&["--precision=bf16"], &[(2, 2), (4, 1)]);
}

#[test]
fn three_ranks_with_a_last_batch_of_one_row_and_clipping_are_three_threads() {
    equal(&["--train_batch_size=299", "--clip_grad_norm={'max_norm': 0.5, 'norm_type': 2}"], &[(3, 1)]);
}

#[test]
fn ranks_are_threads_under_every_fusion_and_without_a_predictor() {
    for keys in
        [&["--fusion_type=sum"][..], &["--fusion_type=concat"], &["--fusion_type=gate", "--attribute_predictor=not"]]
    {
        equal(keys, &[(2, 1)]);
    }
}

#[test]
fn ranks_are_threads_in_the_baselines_and_under_bpr() {
    equal(&["--loss_type=BPR", "--attribute_predictor=not"], &[(2, 1)]);
    let unread = ["--attribute_hidden_size", "--lamdas", "--selected_features"];
    equal_without(&unread, &["--model=SASRec"], &[(2, 1)]);
    equal_without(&unread[..2], &["--model=SASRecF"], &[(2, 1)]);
}

#[test]
fn more_threads_than_items_are_threads_without_items() {
    equal(&["--epochs=1"], &[(2, 20)]);
}
