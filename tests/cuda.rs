//! On a GPU: the same function as on the CPU, the same run twice, and one that goes on as if nothing had been.
//!
//! Where there is none, each test says that it is left out; with `DIF_SR_GPU=required` it fails. What is trained is trained
//! by the binary: a process loads libtorch's CUDA half before it has threads.

mod common;
#[path = "ranks/launch.rs"]
mod launch;

use std::path::Path;

use common::place::{Evidence, Place, interrupted, signal, tensors, text, wait_until};
use common::process::{code, dif_sr, good, good_json, stderr, stdout};
use common::{json, left_out, required};
use launch::{Bits, TIMEOUT, losses, outputs, resume, spawn, told, train};
use once_cell::sync::Lazy;
use serde_json::Value;

/// Relative: libtorch sums in another order on a GPU than on the CPU.
const LOSS: f64 = 1e-5;
/// What a metric moves by if rounding moves one of 943 users across a cut-off.
const ONE_USER: f64 = 0.0011;
/// Relative, without dropout: ten times what was seen on an H200.
const BFLOAT16: f64 = 1e-3;

static GPU: Lazy<bool> = Lazy::new(|| {
    let output = dif_sr(common::root(), &["verify", "--gpu", "golden/gate"]);
    let there = !stderr(&output).contains("libtorch finds no CUDA device");
    if !there {
        assert!(!required("DIF_SR_GPU"), "{}", stderr(&output));
        left_out("no GPU");
    }
    there
});

#[test]
fn every_golden_case_holds() {
    if !*GPU {
        return;
    }
    let cases = ["golden", "fixtures/baselines"].map(common::folders).concat();
    let cases: Vec<&str> = cases.iter().map(|path| path.to_str().expect("UTF-8")).collect();
    for path in [&["verify", "--gpu"][..], &["verify", "--gpu", "--fast"]] {
        let output = good(common::root(), &[path, &cases].concat());
        println!("{path:?}\n{}", stdout(&output));
        assert!(stdout(&output).ends_with("pass: 20 cases within tolerance\n"), "{path:?} {}", stdout(&output));
    }
}

/// The golden run without dropout, whose masks a GPU draws otherwise. Initial values and shuffles are the CPU's.
#[test]
fn ml_100k_without_dropout_takes_the_reference_course() {
    if !*GPU {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for path in PATHS {
        takes_the_reference_course(&ml_100k(folder.path(), path, &["--epochs=3", &on(path)]));
    }
}

fn takes_the_reference_course(run: &Path) {
    let golden = common::golden("ml-100k_no_dropout");
    let batches = golden["batches"].as_array().expect("batches").iter();
    let theirs: Vec<f64> = batches.map(|batch| batch["loss"].as_f64().expect("a loss")).collect();
    let largest = largest_difference(&losses(run), &theirs);
    assert!(largest <= LOSS, "{}: {largest:.1e}", run.display());
    agree(&json(run.join("result.json"))["test"]["metrics"], &golden["test"]);
}

/// A checkpoint that a GPU has trained is evaluated on the CPU to the same metrics, on both paths.
#[test]
fn the_cpu_evaluates_alike() {
    if !*GPU {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for trained_on in PATHS {
        let run = ml_100k(folder.path(), trained_on, &["--epochs=1", &on(trained_on)]);
        let trained = json(run.join("result.json"));
        for path in PATHS {
            let keys = ["--json", "--use_gpu=False", &on(path)];
            let evaluated = good_json(common::root(), &[&["evaluate", &run.display().to_string()], &keys[..]].concat());
            agree(&evaluated["test"]["metrics"], &trained["test"]["metrics"]);
        }
    }
}

#[test]
fn bf16_stays_within_its_own_rounding_of_float32() {
    if !*GPU {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for path in PATHS {
        let [exact, rough] = ["float32", "bf16"].map(|precision| {
            let keys = ["--epochs=1", &on(path), &format!("--precision={precision}")];
            losses(&ml_100k(folder.path(), &format!("{path}_{precision}"), &keys))
        });
        let largest = largest_difference(&rough, &exact);
        assert!(largest > 0.0, "{path}: bfloat16 rounds");
        assert!(largest <= BFLOAT16, "{path}: {largest:.1e}");
    }
}

#[test]
fn two_runs_are_equal_to_the_bit() {
    if !*GPU {
        return;
    }
    for path in PATHS_ON {
        for precision in ["--precision=float32", "--precision=bf16"] {
            let place = Place::new(&["--use_gpu=True", path, precision]);
            ["one", "other"].iter().for_each(|out| place.train(out));
            Evidence::of(&place.path("one")).assert_equal(&Evidence::of(&place.path("other")), "the same run again");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = ["--epochs=1", path, "--hidden_dropout_prob=0.5", "--attn_dropout_prob=0.3"];
        let [one, other] = ["one", "other"].map(|out| ml_100k(folder.path(), out, &keys));
        for file in ["losses.tsv", "ranks.tsv"] {
            assert_eq!(text(&one.join(file)), text(&other.join(file)), "{path}: {file}");
        }
    }
}

/// Graphs change how a step is asked for, and nothing that it computes; a training can go on the other way. The log is
/// silent about graphs where they work.
#[test]
fn a_graph_trains_to_the_bits_that_its_operations_train_to_one_by_one() {
    if !*GPU {
        return;
    }
    let ways = [&[][..], &["--precision=bf16"], &["--loss_type=BPR"]];
    for (path, keys) in PATHS_ON.into_iter().flat_map(|path| ways.map(|keys| (path, keys))) {
        let keys = [&["--use_gpu=True", path][..], keys].concat();
        let [graphs, eager] = ["--cuda_graphs=True", "--cuda_graphs=False"].map(|way| {
            let place = Place::new(&[&keys[..], &[way]].concat());
            place.train("run");
            let run = place.path("run");
            let log = text(&run.join("log.txt"));
            assert!(!log.contains("without CUDA graphs"), "{log}");
            (text(&run.join("losses.tsv")), text(&run.join("ranks.tsv")), tensors(&run.join("last.safetensors")))
        });
        assert_eq!((&graphs.0, &graphs.1), (&eager.0, &eager.1), "{keys:?}");
        assert!(graphs.2 == eager.2, "last.safetensors, {keys:?}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = ["--epochs=2", "--hidden_dropout_prob=0.5", "--attn_dropout_prob=0.3", "--weight_decay=0.001"];
    let clip = "--clip_grad_norm={'max_norm': 1, 'norm_type': 2}";
    for more in PATHS_ON.into_iter().flat_map(|path| [vec![path], vec![path, clip]]) {
        let keys = [&keys[..], &more].concat();
        let name = |way: &str| format!("{way} {}", more.concat().len());
        let graphs = ml_100k(folder.path(), &name("graphs"), &keys);
        let eager = ml_100k(folder.path(), &name("eager"), &[&keys[..], &["--cuda_graphs=False"]].concat());
        for file in ["losses.tsv", "ranks.tsv"] {
            assert_eq!(text(&graphs.join(file)), text(&eager.join(file)), "{file} {more:?}");
        }
    }
}

/// A GPU ranks up to 4,096 users at a time, 943 of ml-100k at once; the CPU two at a time comes to the same metrics.
#[test]
fn how_many_users_are_ranked_at_once_decides_nothing() {
    if !*GPU {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = ml_100k(folder.path(), "run", &["--epochs=2"]);
    let trained = json(run.join("result.json"));
    let keys = ["--json", "--use_gpu=False", "--eval_batch_size=2"];
    let evaluated = good_json(common::root(), &[&["evaluate", &run.display().to_string()], &keys[..]].concat());
    agree(&evaluated["test"]["metrics"], &trained["test"]["metrics"]);
}

#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_been() {
    if !*GPU {
        return;
    }
    for path in PATHS_ON {
        // So many epochs that the signal comes before the last: a GPU takes milliseconds for one.
        let place = Place::new(&["--use_gpu=True", path, "--epochs=30"]);
        place.train("whole");
        interrupted(&place);
        place.resume("run");
        Evidence::of(&place.path("whole")).assert_equal(&Evidence::of(&place.path("run")), "interrupted and resumed");
    }
}

/// With both terms of the loss, and with the other loss: the fast path's batches are the reference path's.
#[test]
fn the_fast_path_takes_the_reference_paths_course() {
    if !*GPU {
        return;
    }
    for keys in [
        &["--fusion_type=sum"][..],
        &["--fusion_type=concat"],
        &["--loss_type=BPR"],
        &["--clip_grad_norm={'max_norm': 5}"],
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [reference, fast] =
            PATHS.map(|path| losses(&ml_100k(folder.path(), path, &[&["--epochs=1", &on(path)], keys].concat())));
        let largest = largest_difference(&fast, &reference);
        assert!(largest <= LOSS, "{keys:?}: {largest:.1e}");
    }
}

/// Both computing paths.
const PATHS: [&str; 2] = ["reference", "fast"];
/// Their keys.
const PATHS_ON: [&str; 2] = ["--compute_path=reference", "--compute_path=fast"];

/// The key of a path.
fn on(path: &str) -> String {
    format!("--compute_path={path}")
}

/// Two ranks share the card; their gradients travel through the host.
#[test]
fn ranks_train_as_one_process_does_within_rounding_and_equally_with_dropout_also_when_they_are_interrupted() {
    if !*GPU {
        return;
    }
    let place = Place::new(&["--use_gpu=True", "--hidden_dropout_prob=0", "--attn_dropout_prob=0"]);
    [("alone", 1), ("ranks", 2)].iter().for_each(|(out, ranks)| train(&place, out, *ranks, 1));
    let [alone, ranks] = ["alone", "ranks"].map(|run| losses(&place.path(run)));
    let largest = largest_difference(&ranks, &alone);
    assert!(largest <= LOSS, "{largest:.1e}");

    let place = Place::new(&["--use_gpu=True", "--epochs=30"]);
    ["whole", "other"].iter().for_each(|out| train(&place, out, 2, 1));
    let whole = Bits::of(&place.path("whole"));
    Bits::of(&place.path("other")).assert_equal(&whole, "the same run again");
    let children = spawn(&place, 2, TIMEOUT, &[&place.keys[..], &["--out=run"]].concat());
    let log = || std::fs::read_to_string(place.path("run/log.txt")).unwrap_or_default();
    wait_until("an epoch", || log().contains("epoch 0 evaluating"));
    signal(&children[1], "TERM");
    for output in outputs(children) {
        assert_eq!(code(&output), 4, "{}", told(&output));
    }
    resume(&place, "run", 2, 1, &[]);
    Bits::of(&place.path("run")).assert_equal(&whole, "interrupted and resumed");
}

/// Trains ml-100k on the GPU, without dropout if `keys` do not say otherwise.
fn ml_100k(folder: &Path, out: &str, keys: &[&str]) -> std::path::PathBuf {
    let run = folder.join(out);
    let data_path = format!("--data_path={}", *common::ML_100K);
    let fixed = [
        "train",
        "--config_files=configs/ml-100k.yaml",
        "--use_gpu=True",
        "--hidden_dropout_prob=0.0",
        "--attn_dropout_prob=0.0",
        &data_path,
        &format!("--out={}", run.display()),
    ];
    good(common::root(), &[&fixed[..], keys].concat());
    run
}

/// Relative to the expected values.
fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs() / expected);
    let largest = differences.fold(0.0, f64::max);
    println!("the largest relative difference of {} losses is {largest:.1e}", found.len());
    largest
}

fn agree(ours: &Value, theirs: &Value) {
    let theirs = theirs.as_object().expect("metrics by name");
    assert!(!theirs.is_empty());
    for (name, expected) in theirs {
        let [value, expected] = [&ours[name], expected].map(|value| value.as_f64().expect("a metric"));
        assert!((value - expected).abs() <= ONE_USER, "{name} is {value}, expected {expected}");
    }
}
