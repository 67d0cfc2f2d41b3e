//! What the ranks of a run must have in common, and what those do that own no folder.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use serde_yaml::Mapping;

use super::Training;
use super::over_ranks::{Accord, ended};
use super::run::{Prepared, evaluate_rows};
use super::shares::Shares;
use crate::Result;
use crate::config::{ComputePath, RunConfig};
use crate::fast::backend_name;
use crate::model::Model;
use crate::run_folder::Environment;

/// Keys that may differ between ranks: where and how often something is written, where the data are, and which GPU computes.
const OWN: [&str; 6] = ["checkpoint_dir", "checkpoint_interval", "cuda_graphs", "data_path", "gpu_id", "show_progress"];

/// Checks that the ranks are of one run: the same program, configuration, data and kernels, and as many threads each.
///
/// # Errors
/// A rank that differs; a lost rank.
pub fn agree(config: &RunConfig, prepared: &Prepared) -> Result<()> {
    let Prepared { fingerprint, model, ranks, .. } = prepared;
    if ranks.is_alone() {
        return Ok(());
    }
    let here = Environment::here(config)?;
    let kernels = match (config.run.compute_path, backend_name(config.run.precision)) {
        // Whose own choice depends on the processor.
        (ComputePath::Reference, _) | (_, "libtorch") => format!("libtorch's on {}", here.cpu),
        (ComputePath::Fast, own) => own.to_owned(),
    };
    let fact = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut facts = vec![
        fact("the program's version", &here.dif_sr),
        fact("its commit", &here.commit),
        fact("libtorch's version", &here.libtorch),
        fact("the vector instructions", &here.vectors),
        fact("the kernels", &kernels),
        fact("what computes", &if model.device().is_cuda() { gpus(&here) } else { "the CPU".to_owned() }),
        fact("the number of threads", &here.threads.to_string()),
    ];
    let keys: Mapping = serde_yaml::from_str(&config.to_yaml()).expect("a configuration is YAML");
    for (key, value) in keys.iter().filter_map(|(key, value)| Some((key.as_str()?, value))) {
        if !OWN.contains(&key) {
            facts.push(fact(&format!("the key {key}"), serde_yaml::to_string(value).unwrap_or_default().trim_end()));
        }
    }
    facts.push(fact("the checksum of the data set", fingerprint));
    ranks.agree(&facts)
}

/// The names of a host's GPUs, each once: other cards round otherwise.
fn gpus(here: &Environment) -> String {
    let names: BTreeSet<&String> = here.gpus.iter().collect();
    names.into_iter().fold("a GPU".to_owned(), |all, name| format!("{all}, {name}"))
}

/// Takes part in a run whose folder rank 0 owns, from its start to its test.
///
/// # Errors
/// What ends a training; a lost rank; an interruption ([`crate::Error::is_interruption`]) once `stop` is set at any rank.
pub fn follow(config: &RunConfig, prepared: &Prepared, stop: &AtomicBool) -> Result<()> {
    let Prepared { splits, fingerprint, model, ranks, .. } = prepared;
    let mut training = Training::over(config, model, splits, ranks)?;
    let accord = Accord::new(ranks, stop);
    Shares::serve(training.shares.as_ref())?;
    ranks.together(Ok(()))?;
    let state = ranks.from_first(ranks.together(Ok(Vec::new()))?)?;
    if !state.is_empty() {
        training.restore("the state that rank 0 has saved".as_ref(), &state, fingerprint)?;
    }
    ranks.agree_on_parameters(&model.common_parameters(), "at the start")?;
    let fitted = training.run(|event, training| {
        accord.hear(&event, training)?;
        Shares::serve(training.shares.as_ref())?;
        accord.leave_if_asked()
    });
    let fitted = fitted.and_then(|_| Shares::serve(training.shares.as_ref()));
    ended(ranks, fitted.and_then(|()| test(config, prepared, &accord, training.shares.as_ref())))
}

/// Takes part in the test of the best model, which rank 0 has.
fn test(config: &RunConfig, prepared: &Prepared, accord: &Accord, shares: Option<&Shares>) -> Result<()> {
    let Prepared { splits, model, ranks, .. } = prepared;
    let best: &Model = model;
    Shares::serve(shares)?;
    ranks.broadcast_parameters(best.common_parameters())?;
    let progress = |_| {
        accord.ask()?;
        accord.leave_if_asked()
    };
    evaluate_rows(config, best, &splits.test, ranks, progress).map(drop)
}
