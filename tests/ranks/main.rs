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

/// Who has the item embedding of a run: every rank all of it, or each its own rows.
const WHOLE: &str = "--shard_items=False";
const SHARED: &str = "--shard_items=True";

/// So many ranks of so many threads.
type Shape = (usize, usize, &'static str);

/// Trains as one process and as several, and compares all that they leave.
fn equal(keys: &[&'static str], shapes: &[Shape]) {
    equal_without(&[], keys, shapes);
}

/// The same without some of the toy's keys, which a model does not read.
fn equal_without(unread: &[&str], keys: &[&'static str], shapes: &[Shape]) {
    let mut place = Place::new(&[&["--compute_path=fast", BATCHES], keys].concat());
    place.keys.retain(|key| !unread.iter().any(|unread| key.starts_with(unread)));
    let all = shapes[0].0 * shapes[0].1;
    train(&place, "alone", 1, all);
    let alone = Bits::of(&place.path("alone"));
    for &(ranks, threads, items) in shapes {
        assert_eq!(ranks * threads, all);
        let name = format!("{ranks}x{threads} {items}");
        place.keys.push(items);
        train(&place, &name, ranks, threads);
        place.keys.pop();
        Bits::of(&place.path(&name)).assert_equal(&alone, &format!("{name} {keys:?}"));
    }
}

#[test]
fn ranks_are_threads_in_both_precisions() {
    equal(&[], &[(2, 2, WHOLE), (4, 1, WHOLE), (2, 2, SHARED), (4, 1, SHARED)]);
    equal(&["--precision=bf16"], &[(4, 1, WHOLE), (2, 2, SHARED)]);
}

#[test]
fn three_ranks_with_a_last_batch_of_one_row_decay_and_clipping_are_three_threads() {
    for (clip, shapes) in [
        ("--clip_grad_norm={'max_norm': 0.5, 'norm_type': 1}", &[(3, 1, SHARED)][..]),
        ("--clip_grad_norm={'max_norm': 0.05, 'norm_type': 2}", &[(3, 1, SHARED), (3, 1, WHOLE)]),
        ("--clip_grad_norm={'max_norm': 0.005, 'norm_type': .inf}", &[(3, 1, SHARED)]),
    ] {
        equal(&["--train_batch_size=299", "--weight_decay=0.01", clip], shapes);
    }
}

/// `steps` has every model with the items whole and shared out.
#[test]
fn ranks_are_threads_in_every_model() {
    equal(&["--fusion_type=sum"], &[(2, 1, SHARED)]);
    equal(&["--fusion_type=concat"], &[(2, 1, WHOLE)]);
    equal(&["--fusion_type=gate", "--attribute_predictor=not"], &[(2, 1, SHARED)]);
    equal(&["--loss_type=BPR", "--attribute_predictor=not"], &[(2, 1, WHOLE), (2, 1, SHARED)]);
    let unread = ["--attribute_hidden_size", "--lamdas", "--selected_features"];
    equal_without(&unread, &["--model=SASRec"], &[(2, 1, WHOLE)]);
    equal_without(&unread[..2], &["--model=SASRecF"], &[(2, 1, SHARED)]);
}

/// Forty threads share out fewer items: where items are shared out, the second rank has some of them, or none.
#[test]
fn more_threads_than_items_are_threads_without_items() {
    equal(&["--epochs=1"], &[(2, 20, WHOLE), (2, 20, SHARED)]);
}
