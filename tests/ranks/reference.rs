//! The reference path over ranks: data-parallel, so one process's training within rounding where nothing is dropped, and
//! always the same training with as many ranks.

use std::path::Path;
use std::time::{Duration, Instant};

use dif_sr::config::{Loss, RunConfig};
use dif_sr::data::{NegativeSampler, OrderedRows, Splits};
use dif_sr::model::Model;
use dif_sr::ranks::launch::Meeting;
use dif_sr::ranks::{Launch, Ranks};
use dif_sr::tensors::TensorFile;
use dif_sr::train::{Prepared, Stepper};
use tch::{Kind, Tensor};

use super::common::configs;
use super::common::place::{Place, signal};
use super::faults::{KEYS, SOON, ended, fill_disk, in_training};
use super::launch::{Bits, TIMEOUT, losses, resume, told, train};

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

fn norm(tensor: &Tensor) -> f64 {
    tensor.to_kind(Kind::Double).norm().double_value(&[])
}

/// How far the tensors of two trainings lie apart, relative to their norms: the furthest of those that are wanted.
fn distance(one: &Path, other: &Path, is_wanted: impl Fn(&str) -> bool) -> (f64, String) {
    let read = |run: &Path| TensorFile::read(&run.join("last.safetensors")).unwrap_or_else(|e| panic!("{e}")).tensors;
    let (one, other) = (read(one), read(other));
    let compared =
        one.iter().filter(|(name, tensor)| tensor.kind() == Kind::Float && !is_free(name) && is_wanted(name));
    let distances = compared.map(|(name, tensor)| {
        let apart = norm(&(tensor - &other[name]));
        (if apart == 0.0 { 0.0 } else { apart / norm(tensor) }, name.clone())
    });
    distances.max_by(|a, b| a.0.total_cmp(&b.0)).expect("a tensor is compared")
}

/// The gradient of a batch of 300 rows behind a step, which has clipped it, with ranks as threads of this process.
fn gradient(config: &RunConfig, model: &Model, splits: &Splits, ranks: &Ranks) -> Vec<(String, Tensor)> {
    let mut batch = OrderedRows::new(&splits.train, model.device()).all();
    if config.model.loss_type == Loss::Bpr {
        let mut sampler = NegativeSampler::new(&splits.train, model.n_items() as usize, 1);
        batch = batch.with_negatives(&mut sampler).unwrap_or_else(|e| panic!("{e}"));
    }
    let mut stepper = Stepper::over(config, model, ranks).unwrap_or_else(|e| panic!("{e}"));
    stepper.losses(&batch).and_then(|_| stepper.update()).unwrap_or_else(|e| panic!("{e}"));
    model.named_parameters().into_iter().map(|(name, parameter)| (name, parameter.grad())).collect()
}

#[test]
fn one_step_of_ranks_has_the_gradient_of_one_process() {
    for (unread, keys) in models() {
        let place = place(unread, &[&WITHOUT_DROPOUT, keys]);
        let pairs = place.keys.iter().filter_map(|key| key.strip_prefix("--")?.split_once('='));
        let folder = place.folder.path().display().to_string();
        let config = configs(&[], &pairs.chain([("data_path", &*folder)]).collect::<Vec<_>>());
        let Prepared { model, splits, .. } = Prepared::new(&config).unwrap_or_else(|e| panic!("{e}"));
        let of_ranks = |size: usize| {
            let one = |rank: usize| {
                let (config, splits, model) = (&config, &splits, model.copy_as(Kind::Float));
                let meeting = Meeting::File(place.path("meeting"));
                let launch = Launch { rank, size, meeting, interface: None, timeout: Duration::from_secs(TIMEOUT) };
                move || {
                    let ranks = if size == 1 { Ok(Ranks::alone()) } else { Ranks::join(&launch) };
                    gradient(config, &model, splits, &ranks.unwrap_or_else(|e| panic!("{e}")))
                }
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..size).map(|rank| scope.spawn(one(rank))).collect();
                threads.into_iter().map(|thread| thread.join().expect("a rank")).collect::<Vec<_>>()
            })
        };
        let alone = of_ranks(1).remove(0);
        assert!(alone.iter().any(|(name, _)| name == "item_embedding.weight"), "{keys:?}");
        for (rank, found) in of_ranks(3).into_iter().enumerate() {
            for ((name, expected), (_, found)) in alone.iter().zip(found) {
                assert_eq!(expected.defined(), found.defined(), "{keys:?}, rank {rank}: {name}");
                if expected.defined() && !is_free(name) {
                    let apart = norm(&(&found - expected)) / norm(expected).max(f64::MIN_POSITIVE);
                    assert!(apart <= ROUNDING, "{keys:?}, rank {rank}: {apart:.1e} {name}");
                }
            }
        }
    }
}

#[test]
fn without_dropout_ranks_train_as_one_process_does_within_rounding() {
    // Two ranks share out a last batch of 12 rows; of three ranks, two have none of a last batch of one.
    let uneven =
        models().into_iter().filter(|(_, keys)| keys.iter().any(|key| key.contains("clip") || key.contains("BPR")));
    for (ranks, batch, models) in
        [(2, "--train_batch_size=16", models()[..1].to_vec()), (3, "--train_batch_size=299", uneven.collect())]
    {
        for (unread, keys) in models {
            let place = place(unread, &[&WITHOUT_DROPOUT, keys, &[batch]]);
            train(&place, "one", 1, 1);
            train(&place, "several", ranks, 1);
            let [one, several] = ["one", "several"].map(|run| place.path(run));
            let (losses, of_several) = (losses(&one), losses(&several));
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
    for keys in [&["--loss_type=BPR", "--attribute_predictor=not"][..], &["--precision=bf16"]] {
        let place = place(&[], &[keys]);
        ["one", "other"].iter().for_each(|out| train(&place, out, 2, 1));
        let one = Bits::of(&place.path("one"));
        Bits::of(&place.path("other")).assert_equal(&one, &format!("{keys:?}"));
        if keys.len() == 1 {
            train(&place, "alone", 1, 1);
            let (alone, ranks) = (losses(&place.path("alone")), losses(&place.path("one")));
            assert_ne!(alone, ranks, "each rank draws masks of its own");
        }
    }
}

/// As on the fast path, and once more as many ranks go on.
#[test]
fn every_fault_of_a_rank_ends_all_and_the_run_goes_on_to_the_bit() {
    const SECONDS: u64 = 20;
    let place = || Place::new(&[&KEYS[..], &REFERENCE[..1], &["--epochs=6"]].concat());
    let whole = place();
    train(&whole, "whole", 2, 1);
    let whole = Bits::of(&whole.path("whole"));
    for (fault, rank, code) in [("KILL", 0, 2), ("STOP", 1, 2), ("TERM", 1, 4), ("a full disk", 0, 2)] {
        let (place, what) = (place(), format!("{fault} at rank {rank}"));
        let mut children = in_training(&place, 2, if fault == "STOP" { SECONDS } else { TIMEOUT }, &[]);
        let begin = Instant::now();
        let (mut faulty, mut put_back) = (None, None);
        if fault == "a full disk" {
            put_back = Some(fill_disk(&place));
        } else {
            signal(&children[rank], fault);
            faulty = (fault != "TERM").then(|| children.remove(rank));
        }
        for output in ended(children, begin, SECONDS + SOON, &what) {
            assert_eq!(output.status.code(), Some(code), "{what}: {}", told(&output));
        }
        if let Some(child) = faulty {
            signal(&child, if fault == "STOP" { "CONT" } else { "KILL" });
            ended(vec![child], Instant::now(), SOON, &what);
        }
        put_back.into_iter().for_each(|put_back| put_back());
        resume(&place, "run", 2, 1, &[]);
        Bits::of(&place.path("run")).assert_equal(&whole, &what);
    }
}
