//! SASRec and SASRecF train as RecBole's own classes do: initial values, shuffles, dropout masks, batch losses and metrics of
//! an epoch, on one thread. `fixtures/baseline_runs` tells where the values come from.

mod common;

use std::path::Path;

use dif_sr::config::RunConfig;
use dif_sr::train::{Event, Prepared, Training};
use serde_json::Value;
use tch::Kind;

/// Relative; that of `tests/trajectory.rs`, for its reason.
const LOSS: f64 = 1e-5;

/// One test for both, and no other in this file: libtorch has one generator a process.
#[test]
fn a_seeded_epoch_of_ml_100k_is_recboles_from_the_initial_values_on() {
    for name in ["sasrec", "sasrecf"] {
        let text = std::fs::read_to_string(format!("fixtures/baseline_runs/ml-100k_{name}.json")).expect("a fixture");
        follows(&serde_json::from_str(&text).expect("JSON"), &ml_100k(name));
    }
}

/// `configs/ml-100k.yaml` with a baseline laid over it, for one epoch on one thread of the CPU.
fn ml_100k(baseline: &str) -> RunConfig {
    let files = ["ml-100k".to_owned(), format!("baselines/{baseline}")];
    let files = files.map(|name| Path::new("configs").join(name + ".yaml"));
    let keys = [("data_path", common::ML_100K.as_str()), ("epochs", "1"), ("threads", "1")];
    RunConfig::load(&files, &keys.map(|(key, value)| (key.to_owned(), value.to_owned())))
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Trains and compares initial values, batch losses and validation metrics.
fn follows(expected: &Value, config: &RunConfig) {
    let prepared = Prepared::new(config).unwrap_or_else(|e| panic!("{e}"));
    let model = &prepared.model;
    let parameters = model.named_parameters();
    assert_eq!(parameters.len(), expected["init"].as_object().expect("parameters").len());
    for (name, parameter) in &parameters {
        let sum = parameter.sum(Kind::Double).double_value(&[]);
        let golden = expected["init"][name]["sum"].as_f64().unwrap_or_else(|| panic!("{name} is RecBole's"));
        assert!((sum - golden).abs() <= 1e-6 * golden.abs().max(1.0), "{name}: expected {golden}, found {sum}");
    }

    let golden: Vec<f64> = (expected["batches"].as_array().expect("batches").iter())
        .map(|batch| batch["loss"].as_f64().expect("a loss"))
        .collect();
    let (mut losses, mut valid) = (Vec::new(), Value::Null);
    let trained = Training::new(config, model, &prepared.splits).unwrap_or_else(|e| panic!("{e}")).run(|event, _| {
        match event {
            Event::Batch { losses: batch, .. } => losses.push(batch.total),
            Event::Evaluated { valid: metrics, .. } => valid = serde_json::to_value(metrics).expect("JSON"),
            Event::Epoch { .. } | Event::Evaluating { .. } | Event::Diverged { .. } => {}
        }
        Ok(())
    });
    trained.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((losses.len(), golden.len()), (48, 48));
    for (batch, (ours, golden)) in losses.iter().zip(&golden).enumerate() {
        assert!((ours - golden).abs() <= LOSS * golden, "batch {}: expected {golden}, found {ours}", batch + 1);
    }
    assert_eq!(valid, expected["valid"][0]);
}
