//! Verdicts on times, convergence and benchmarks.

use std::fs;
use std::path::Path;

use dif_sr::verdict::{Expectation, Record};
use serde_json::{Value, json};

use crate::common::process::{code, dif_sr, refusal, stderr, stdout};
use crate::common::root;
use crate::{gate_by, record, recorded, temporary, verdict};

/// Judges runs of `seconds` an epoch, each made from a record by `change`, by five that take 10 and converge at the third epoch.
fn judged(seconds: &[f64], change: impl Fn(usize, &mut Record)) -> (i32, Value) {
    let folder = temporary();
    let write = |at: &str, seed: usize, change: &dyn Fn(&mut Record)| {
        let mut record = recorded(seed as i64);
        record.seed = seed as i64 + 100;
        record.epoch_seconds = vec![10.0 + 0.05 * seed as f64; 4];
        record.evaluated = (0..4).collect();
        record.valid = vec![0.1, 0.15, 0.2, 0.25];
        record.evaluation_seconds = vec![1.0 + 0.005 * seed as f64; 4];
        record.calibration_seconds = vec![0.01, 0.01];
        change(&mut record);
        record.write(&folder.path().join(at)).unwrap_or_else(|e| panic!("{e}")).display().to_string()
    };
    (1..=5).for_each(|seed| drop(write("records", seed, &|_| ())));
    let runs: Vec<String> = (seconds.iter().enumerate())
        .map(|(i, &seconds)| {
            write("runs", 6 + i, &|record| {
                record.epoch_seconds = vec![seconds; 4];
                change(i, record);
            })
        })
        .collect();
    let text = "runs: {source: s, folder: records, metrics: [recall@20], margin: 0.9, error: 0.05, \
                convergence: {target: 0.2, margin: 0.6}, time: {regression: 0.1}}\n";
    fs::write(folder.path().join("expect.yaml"), text).expect("written");
    let output = gate_by(folder.path().join("expect.yaml"), folder.path(), &runs, &["--json"]);
    (code(&output), verdict(&output))
}

#[test]
fn a_slow_run_is_measured_once_more_before_it_fails() {
    let (exit, same) = judged(&[10.1], |_, _| ());
    assert_eq!(exit, 0, "{same:#}");
    let (exit, once) = judged(&[20.0], |_, _| ());
    assert_eq!(exit, 3, "{once:#}");
    assert!(once["sentence"].to_string().contains("measure once more before it counts"), "{once:#}");
    let (exit, twice) = judged(&[20.0, 20.1], |_, _| ());
    assert_eq!(exit, 1, "{twice:#}");
    assert!(twice["sentence"].to_string().contains("times grew by +9"), "{twice:#}");
    let (exit, first_alone) = judged(&[40.0, 10.5], |_, _| ());
    assert_eq!(exit, 3, "the second measurement shows no regression: {first_alone:#}");
    for open in [once, first_alone] {
        assert!(
            !open["findings"].to_string().contains("\"fail\""),
            "no value fails where the verdict is open: {open:#}"
        );
    }
}

#[test]
fn times_count_in_units_of_the_calibration() {
    let slow = |calibration: f64| {
        judged(&[20.0, 20.1], |_, run| {
            run.evaluation_seconds = vec![2.06; 4];
            run.calibration_seconds = vec![calibration; 5];
        })
    };
    let (exit, machine) = slow(0.02);
    assert_eq!(exit, 0, "the machine is half as fast, and so is the run: {machine:#}");
    let (exit, run) = slow(0.01);
    assert_eq!(exit, 1, "the machine is as fast, and the run is not: {run:#}");
    // An evaluation counts as an epoch does.
    let (exit, evaluation) = judged(&[10.1, 10.2], |_, run| run.evaluation_seconds = vec![2.06; 4]);
    assert_eq!(exit, 1, "{evaluation:#}");
    let rows = evaluation["findings"].as_array().and_then(|all| all.last()).map(|time| time["rows"].clone());
    let outcomes: Vec<_> =
        rows.iter().flat_map(|rows| rows.as_array()).flatten().map(|row| row["outcome"].clone()).collect();
    assert_eq!(outcomes, ["pass", "fail"], "{evaluation:#}");
}

#[test]
fn a_noisy_machine_is_undecided_and_never_failed() {
    let (exit, noisy) = judged(&[20.0, 20.1], |i, run| run.calibration_seconds = vec![0.01, 0.01 + 0.005 * i as f64]);
    assert_eq!(exit, 3, "{noisy:#}");
    assert!(
        noisy["sentence"]
            .to_string()
            .contains("times are known only within ±22.2 %, too wide to judge a growth of +10.0 %"),
        "{noisy:#}"
    );
    let (exit, epochs) = judged(&[20.0, 20.1], |_, run| run.epoch_seconds = vec![10.0, 20.0, 30.0, 40.0]);
    assert_eq!(exit, 3, "{epochs:#}");
    let (exit, single) = judged(&[20.0, 20.1], |_, run| run.epoch_seconds.truncate(1));
    assert_eq!(exit, 3, "one epoch does not show how well it is known: {single:#}");
    let (exit, evaluations) = judged(&[20.0, 20.1], |_, run| run.evaluation_seconds = vec![1.0, 2.0, 3.0, 4.0]);
    assert_eq!(exit, 3, "{evaluations:#}");
    // A short disturbance is none of the machine's speed.
    let (exit, once) = judged(&[10.1], |_, run| run.calibration_seconds = vec![0.01, 0.01, 0.03, 0.01, 0.01, 0.01]);
    assert_eq!(exit, 0, "{once:#}");
}

#[test]
fn times_of_another_machine_are_not_judged() {
    let (exit, other) =
        judged(&[20.0, 20.1], |_, run| drop(run.environment.insert("cpu".to_owned(), json!("another"))));
    assert_eq!(exit, 0, "{other:#}");
    assert!(!other["findings"].to_string().contains("\"time\""), "{other:#}");
    let told = "times are not judged: it takes calibrations of at least three runs, these and recorded ones";
    assert!(other["notes"].to_string().contains(told), "{other:#}");
    let (exit, elsewhere) = judged(&[20.0, 20.1], |_, run| {
        run.environment.insert("resumed".to_owned(), json!([{ "cpu": "another" }]));
    });
    assert_eq!(exit, 0, "a run that went on elsewhere: {elsewhere:#}");
    assert!(elsewhere["notes"].to_string().contains("times are not judged"), "{elsewhere:#}");
    let (exit, other) =
        judged(&[20.0, 20.1], |_, run| drop(run.config.insert("compute_path".to_owned(), json!("fast"))));
    assert_eq!(exit, 0, "{other:#}");
    assert!(!other["findings"].to_string().contains("\"time\""), "{other:#}");
    assert!(other["notes"].to_string().contains("differs from the recorded runs' in compute_path"), "{other:#}");
}

/// Recorded runs of another machine, or noisy ones, do for metrics; times have their own.
#[test]
fn an_expectation_may_name_other_runs_for_its_times() {
    let folder = temporary();
    let write = |at: &str, seed: i64, cpu: &str, seconds: f64| {
        let mut record = recorded(seed);
        record.seed = seed + 100;
        record.environment.insert("cpu".to_owned(), json!(cpu));
        record.epoch_seconds = vec![seconds; 4];
        record.evaluation_seconds = vec![1.0 + 0.005 * seed as f64; 4];
        record.calibration_seconds = vec![0.01; 2];
        record.write(&folder.path().join(at)).unwrap_or_else(|e| panic!("{e}")).display().to_string()
    };
    for seed in 1..=4 {
        write("records", seed, "another", 10.0 + seed as f64);
        write("times", seed, "ours", 10.0 + 0.05 * seed as f64);
    }
    let text = "runs: {source: s, folder: records, metrics: [recall@20], margin: 0.9, error: 0.05, \
                time: {regression: 0.2, folder: times}}\n";
    let path = folder.path().join("expect.yaml");
    fs::write(&path, text).expect("written");
    let runs = |seconds: f64| {
        let runs = [5, 6].map(|seed| write("runs", seed, "ours", seconds + 0.01 * seed as f64));
        let output = gate_by(&path, folder.path(), &runs, &["--json"]);
        fs::remove_dir_all(folder.path().join("runs")).expect("removed");
        (code(&output), verdict(&output)["sentence"].to_string())
    };
    let (exit, same) = runs(10.1);
    assert!(exit == 0 && same.contains("times did not grow by +20.0 %"), "{same}");
    let (exit, slow) = runs(14.0);
    assert!(exit == 1 && slow.contains("times grew by"), "{slow}");

    let absolute = Expectation::text_for_elsewhere(&path).unwrap_or_else(|e| panic!("{e}"));
    assert!(absolute.contains(&folder.path().join("times").display().to_string()), "{absolute}");
    // Runs on other data, of another configuration, and none.
    for seed in 1..=4 {
        let mut other = recorded(seed);
        other.targets_sha256 = "another".to_owned();
        other.write(&folder.path().join("elsewhere")).unwrap_or_else(|e| panic!("{e}"));
    }
    let run = write("runs", 5, "ours", 10.0);
    let refused = |times: &str| {
        fs::write(&path, text.replace("folder: times", times)).expect("written");
        refusal(&gate_by(&path, folder.path(), &[&run], &[]))
    };
    let told = refused("folder: elsewhere");
    assert!(told.contains("elsewhere/1.json: expected the 943 targets of"), "{told}");
    for seed in 1..=4 {
        let mut other = recorded(seed);
        other.config.insert("hidden_size".to_owned(), json!(128));
        other.write(&folder.path().join("wider")).unwrap_or_else(|e| panic!("{e}"));
    }
    let told = refused("folder: wider");
    let differ =
        "wider: expected times of the recorded runs' configuration but for `epochs`, found another in hidden_size";
    assert!(told.contains(differ), "{told}");
    let told = refused("folder: nowhere");
    assert!(told.contains("nowhere: cannot read the recorded runs"), "{told}");
}

#[test]
fn a_run_that_never_reaches_the_target_does_not_converge() {
    let (exit, never) = judged(&[10.0], |_, run| run.valid = vec![0.1, 0.1, 0.1, 0.1]);
    assert_eq!(exit, 1, "{never:#}");
    assert!(never["sentence"].to_string().contains("a run never reaches it"), "{never:#}");
    let (exit, other) = judged(&[10.0], |_, run| run.valid_metric = "ndcg@10".parse().expect("a metric"));
    assert_eq!(exit, 3, "another metric reaches 0.2 when it will: {other:#}");
    assert!(other["sentence"].to_string().contains("a run was validated by ndcg@10"), "{other:#}");
    let (exit, begun) =
        judged(&[10.0], |_, run| drop(run.environment.insert("from".to_owned(), json!({ "epoch": 2 }))));
    assert_eq!(exit, 3, "epochs of another run went before: {begun:#}");
    assert!(begun["sentence"].to_string().contains("a run was begun from another's state"), "{begun:#}");
    let (exit, later) = judged(&[10.0], |_, run| run.valid = vec![0.1, 0.1, 0.1, 0.2]);
    assert_eq!(exit, 3, "one run, one epoch later than the recorded ones, can be chance: {later:#}");
}

/// The shipped baselines of times: each passes itself, and fails the same runs with epochs a third longer.
#[test]
fn recorded_times_tell_runs_that_are_a_third_slower() {
    let folder = temporary();
    let judged = |expectation: &str, runs: &str, seeds: [i64; 4], factor: f64| {
        let place = folder.path().join(format!("{expectation} {factor}"));
        let runs = seeds.map(|seed| {
            let mut record = record(format!("records/{runs}/{seed}.json"));
            record.seed += 100;
            record.epoch_seconds.iter_mut().for_each(|seconds| *seconds *= factor);
            record.write(&place).unwrap_or_else(|e| panic!("{e}")).display().to_string()
        });
        let expectation = format!("configs/expectations/{expectation}.yaml");
        let verdict = verdict(&gate_by(expectation, folder.path(), &runs, &["--json"]));
        let findings = verdict["findings"].as_array().expect("findings").iter();
        let times = findings.filter(|finding| finding["claim"] == "time");
        times.map(|time| time["outcome"].clone()).collect::<Vec<_>>()
    };
    for (expectation, runs, seeds) in [
        ("ml-100k_fast", "ml-100k/dif_sr_fast_float32", [1, 2, 3, 4]),
        ("amazon_beauty_seeds", "Amazon_Beauty/dif_sr_fast_bf16/times", [212, 1, 2, 3]),
    ] {
        assert_eq!(judged(expectation, runs, seeds, 1.0), ["pass"], "{expectation}");
        assert_eq!(judged(expectation, runs, seeds, 1.33), ["fail"], "{expectation}");
    }
}

/// A measurement as Criterion leaves it.
fn measurement(folder: &Path, id: &str, name: &str, median: f64) {
    let path = folder.join("criterion").join(id).join(name);
    fs::create_dir_all(&path).expect("a folder");
    let estimate = json!({
        "confidence_interval": { "confidence_level": 0.95, "lower_bound": median * 0.99, "upper_bound": median * 1.01 },
        "point_estimate": median, "standard_error": median * 0.005,
    });
    fs::write(path.join("estimates.json"), json!({ "mean": estimate, "median": estimate }).to_string())
        .expect("written");
}

#[test]
fn benchmarks_are_held_to_a_saved_baseline() {
    let folder = temporary();
    measurement(folder.path(), "step/train", "main", 1e6);
    measurement(folder.path(), "step/train", "new", 1.3e6);
    measurement(folder.path(), "step/train", "again", 1.25e6);
    measurement(folder.path(), "step/only new", "new", 1e6);
    let gate = |more: &[&str]| dif_sr(folder.path(), &[&["gate", "--criterion=criterion"], more].concat());
    let once = gate(&["--baseline=main"]);
    assert_eq!(code(&once), 3, "{}", stdout(&once));
    assert!(stdout(&once).contains("measure once more"), "{}", stdout(&once));
    let twice = gate(&["--baseline=main", "--measured", "new", "again"]);
    assert_eq!(code(&twice), 1, "{}", stdout(&twice));
    assert!(stdout(&twice).contains("benchmarks grew by more than +10.0 % over `main`, twice: step/train"));
    measurement(folder.path(), "step/train", "again", 1.01e6);
    assert_eq!(code(&gate(&["--baseline=main", "--measured", "new", "again"])), 0, "the first was chance");
    let same = refusal(&gate(&["--baseline=main", "--measured", "new", "new"]));
    assert!(same.starts_with("expected measurements of different names, found `new` twice"), "{same}");
    let none = gate(&["--baseline=unknown"]);
    assert_eq!(code(&none), 3);
    assert!(
        stdout(&none).contains("no benchmark in criterion has `unknown` and new: none was judged"),
        "{}",
        stdout(&none)
    );
}

/// `new` is the last measurement under whatever name it was saved, and `base` the last one that was saved under none.
#[test]
fn a_measurement_is_never_held_to_itself_nor_counted_twice() {
    let folder = temporary();
    for (name, median) in [("base", 1e6), ("main", 1e6), ("once", 1.3e6), ("new", 1.3e6), ("twice", 1.25e6)] {
        measurement(folder.path(), "step/train", name, median);
    }
    let gate = |more: &[&str]| dif_sr(folder.path(), &[&["gate", "--criterion=criterion"], more].concat());
    let told = refusal(&gate(&["--baseline=main", "--measured", "new", "once"]));
    let same =
        "expected different measurements under `new` and `once`, found the same one of step/train; measure twice";
    assert!(told.starts_with(same), "{told}");
    let told = refusal(&gate(&["--baseline=once"]));
    assert!(told.starts_with("expected different measurements under `once` and `new`"), "{told}");
    let told = refusal(&gate(&["--baseline=base"]));
    assert!(
        told.starts_with("expected a baseline that was saved by its name, found `base`; each `cargo bench`"),
        "{told}"
    );
    assert_eq!(code(&gate(&["--baseline=main", "--measured", "once", "twice"])), 1);
    let none = gate(&[]);
    assert!(stderr(&none).contains("--baseline <NAME>"), "there is no baseline that nobody named: {}", stderr(&none));
}

/// A run that passes does not cover that no benchmark was measured.
#[test]
fn benchmarks_that_are_all_missing_leave_the_verdict_of_a_good_run_open() {
    let folder = temporary();
    measurement(folder.path(), "step/train", "main", 1e6);
    let run = root().join("records/ml-100k/dif_sr_reference_float32/212.json").display().to_string();
    let benchmarks = ["--criterion=criterion", "--baseline=main"];
    let output = gate_by("configs/expectations/ml-100k.yaml", folder.path(), &[run], &benchmarks);
    let told =
        "undecided: no benchmark in criterion has `main` and new: none was judged; not measured again: step/train";
    assert_eq!((code(&output), stdout(&output).lines().last()), (3, Some(told)), "{}", stdout(&output));
}

#[test]
fn a_benchmark_that_is_missing_leaves_the_verdict_open_and_a_new_one_is_named() {
    let folder = temporary();
    ["a", "b", "c"].iter().for_each(|id| measurement(folder.path(), id, "main", 1e6));
    ["a", "d"].iter().for_each(|id| measurement(folder.path(), id, "new", 1.001e6));
    let judged = |more: &[&str]| {
        let arguments = [&["gate", "--criterion=criterion", "--json"], more].concat();
        let output = dif_sr(folder.path(), &arguments);
        (code(&output), serde_json::from_str::<Value>(&stdout(&output)).expect("JSON"))
    };
    let (exit, one) = judged(&["--baseline=main"]);
    assert_eq!((exit, &one["benchmarks"]), (3, &json!({ "missing": ["b", "c"], "new": ["d"] })));
    let said = "1 benchmark did not grow by +10.0 % over `main`; not measured again: b, c; new, without a baseline: d";
    assert_eq!(one["verdict"]["sentence"], format!("undecided: {said}"));
    ["b", "c"].iter().for_each(|id| measurement(folder.path(), id, "new", 1.001e6));
    let (exit, all) = judged(&["--baseline=main"]);
    assert_eq!(
        (exit, &all["benchmarks"]),
        (0, &json!({ "missing": [], "new": ["d"] })),
        "a new one has nothing to be held to"
    );
    // In one of two measurements is not measured twice; what grew is a failure all the same.
    measurement(folder.path(), "a", "new", 2e6);
    measurement(folder.path(), "a", "again", 2.1e6);
    let (exit, twice) = judged(&["--baseline=main", "--measured", "new", "again"]);
    assert_eq!((exit, &twice["benchmarks"]), (1, &json!({ "missing": ["b", "c"], "new": ["d"] })));
    let (exit, none) = judged(&["--baseline=unknown"]);
    assert_eq!((exit, &none["benchmarks"]), (3, &json!({ "missing": [], "new": ["a", "b", "c", "d"] })));
}
