//! The reference path over ranks: data-parallel, so one process's training within rounding where nothing is dropped, and
//! always the same training with as many ranks.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use dif_sr::tensors::TensorFile;
use tch::Kind;

use super::common::place::{Place, signal, text, wait_until};
use super::faults::{KEYS, ended, in_training};
use super::launch::{Bits, TIMEOUT, resume, told, train};

/// Relative, of a loss and of the norm of a step's gradient: sums of some hundred rows in another order. Float32 rounds by
/// 6e-8, of which the longest chain of sums, 299 rows of five positions, makes some 1e-6.
const ROUNDING: f64 = 1e-5;
/// Relative to the norm of a parameter, after the 38 steps of two epochs. Adam divides a gradient by its own size, so
/// that where it is small beside its rounding, a step of the learning rate differs in part.
const AFTER_TRAINING: f64 = 1e-3;
/// The gradients of a key's bias, and of the last one of a gate, are zero but for rounding, since a softmax does not see what
/// all that it weighs have in common: Adam makes steps of rounding.
fn is_free(name: &str) -> bool {
    name.contains(".key") && name.ends_with(".bias") || name.ends_with(".fusion_layer.projection.2.bias")
}

const REFERENCE: [&str; 2] = ["--compute_path=reference", "--epochs=2"];
const WITHOUT_DROPOUT: [&str; 2] = ["--hidden_dropout_prob=0", "--attn_dropout_prob=0"];
/// What a baseline does not read of the toy's keys.
const UNREAD: [&str; 3] = ["--attribute_hidden_size", "--lamdas", "--selected_features"];

/// Models with and without attributes, predictors and negatives.
fn models() -> Vec<(&'static [&'static str], &'static [&'static str])> {
    vec![
        (&[], &["--fusion_type=sum", "--attribute_predictor=linear"]),
        (&[], &["--fusion_type=concat", "--clip_grad_norm={'max_norm': 0.5, 'norm_type': 2}"]),
        (&[], &["--fusion_type=gate", "--attribute_predictor=not"]),
        (&[], &["--loss_type=BPR", "--attribute_predictor=not"]),
        (&UNREAD, &["--model=SASRec"]),
        (&UNREAD[..2], &["--model=SASRecF"]),
    ]
}

fn place(unread: &[&str], keys: &[&[&'static str]]) -> Place {
    let mut place = Place::new(&[&REFERENCE, &keys.concat()[..]].concat());
    place.keys.retain(|key| !unread.iter().any(|unread| key.starts_with(unread)));
    place
}

fn total_losses(run: &Path) -> Vec<f64> {
    let table = text(&run.join("losses.tsv"));
    let mut lines = table.lines().map(|line| line.split('\t'));
    let column = lines.next().and_then(|mut names| names.position(|name| name == "total")).expect("a column `total`");
    lines.map(|mut values| values.nth(column).and_then(|value| value.parse().ok()).expect("a loss")).collect()
}

/// How far the tensors of two trainings lie apart, relative to their norms: the furthest of those that are wanted.
fn distance(one: &Path, other: &Path, is_wanted: impl Fn(&str) -> bool) -> (f64, String) {
    let read = |run: &Path| TensorFile::read(&run.join("last.safetensors")).unwrap_or_else(|e| panic!("{e}")).tensors;
    let (one, other) = (read(one), read(other));
    let compared =
        one.iter().filter(|(name, tensor)| tensor.kind() == Kind::Float && !is_free(name) && is_wanted(name));
    let norm = |tensor: &tch::Tensor| tensor.to_kind(Kind::Double).norm().double_value(&[]);
    let distances = compared.map(|(name, tensor)| {
        let apart = norm(&(tensor - &other[name]));
        (if apart == 0.0 { 0.0 } else { apart / norm(tensor) }, name.clone())
    });
    distances.max_by(|a, b| a.0.total_cmp(&b.0)).expect("a tensor is compared")
}

#[test]
fn one_step_of_ranks_has_the_gradient_of_one_process() {
    for (unread, keys) in models() {
        // 300 rows: a batch that three ranks share out, of which the last step moves the parameters once.
        let one_step = ["--epochs=1", "--train_batch_size=300"];
        let place = place(unread, &[&WITHOUT_DROPOUT, keys, &one_step]);
        [1, 3].iter().for_each(|&ranks| train(&place, &ranks.to_string(), ranks, 1));
        // After one step the first moment is a tenth of the gradient.
        let (apart, name) = distance(&place.path("1"), &place.path("3"), |name| name.starts_with("adam.exp_avg."));
        println!("{keys:?}: {apart:.1e} {name}");
        assert!(apart <= ROUNDING, "{keys:?}: {apart:.1e} {name}");
    }
}

#[test]
fn without_dropout_ranks_train_as_one_process_does_within_rounding() {
    // Two ranks share out a last batch of 12 rows; of three ranks, two have none of a last batch of one.
    let uneven =
        models().into_iter().filter(|(_, keys)| keys.iter().any(|key| key.contains("clip") || key.contains("BPR")));
    for (ranks, batch, models) in
        [(2, "--train_batch_size=16", models()), (3, "--train_batch_size=299", uneven.collect())]
    {
        for (unread, keys) in models {
            let place = place(unread, &[&WITHOUT_DROPOUT, keys, &[batch]]);
            train(&place, "one", 1, 1);
            train(&place, "several", ranks, 1);
            let [one, several] = ["one", "several"].map(|run| place.path(run));
            let (losses, of_several) = (total_losses(&one), total_losses(&several));
            assert_eq!(losses.len(), of_several.len());
            let apart = losses.iter().zip(&of_several).map(|(one, several)| (one - several).abs() / one);
            let apart = apart.fold(0.0, f64::max);
            let (parameters, which) = distance(&one, &several, |name| !name.starts_with("adam."));
            println!("{ranks} {keys:?}: losses {apart:.1e}, parameters {parameters:.1e} {which}");
            assert!(apart <= ROUNDING, "{ranks} {keys:?}: {apart:.1e}");
            assert!(parameters <= AFTER_TRAINING, "{ranks} {keys:?}: {parameters:.1e} {which}");
        }
    }
}

#[test]
fn as_many_ranks_train_equally_to_the_bit_with_dropout() {
    for keys in [&[][..], &["--loss_type=BPR", "--attribute_predictor=not"], &["--precision=bf16"]] {
        let place = place(&[], &[keys]);
        ["one", "other"].iter().for_each(|out| train(&place, out, 2, 1));
        let one = Bits::of(&place.path("one"));
        Bits::of(&place.path("other")).assert_equal(&one, &format!("{keys:?}"));
        train(&place, "alone", 1, 1);
        let (alone, ranks) = (total_losses(&place.path("alone")), total_losses(&place.path("one")));
        assert_ne!(alone, ranks, "each rank draws masks of its own");
    }
}

/// As on the fast path, and once more as many ranks go on.
#[test]
fn every_fault_of_a_rank_ends_all_and_the_run_goes_on_to_the_bit() {
    const SECONDS: u64 = 4;
    let place = || Place::new(&[&KEYS[..], &REFERENCE[..1]].concat());
    let whole = place();
    train(&whole, "whole", 3, 1);
    let whole = Bits::of(&whole.path("whole"));
    for (fault, rank, code) in [("KILL", 0, 2), ("KILL", 2, 2), ("STOP", 1, 2), ("TERM", 2, 4), ("a full disk", 0, 2)] {
        let (place, what) = (place(), format!("{fault} at rank {rank}"));
        let mut children = in_training(&place, if fault == "STOP" { SECONDS } else { TIMEOUT }, &[]);
        let (begin, part) = (Instant::now(), place.path("run/last.safetensors.part"));
        let mut faulty = None;
        if fault == "a full disk" {
            wait_until("the link", || {
                _ = fs::remove_file(&part);
                symlink("/dev/full", &part).is_ok()
            });
        } else {
            signal(&children[rank], fault);
            faulty = (fault != "TERM").then(|| children.remove(rank));
        }
        for output in ended(children, begin, SECONDS + 20, &what) {
            assert_eq!(output.status.code(), Some(code), "{what}: {}", told(&output));
        }
        if let Some(child) = faulty {
            signal(&child, if fault == "STOP" { "CONT" } else { "KILL" });
            ended(vec![child], Instant::now(), 20, &what);
        }
        _ = fs::remove_file(&part);
        resume(&place, "run", 3, 1, &[]);
        Bits::of(&place.path("run")).assert_equal(&whole, &what);
    }
}
