//! What the ranks of a run must have in common, and what those do that own no folder.

use std::sync::atomic::AtomicBool;

use serde_yaml::Mapping;

use super::Training;
use super::over_ranks::{Accord, ended};
use super::run::{Prepared, evaluate_over};
use super::saved::fingerprint;
use crate::config::{ComputePath, RunConfig};
use crate::fast::backend_name;
use crate::model::Model;
use crate::ranks::Fact;
use crate::run_folder::Environment;
use crate::{Error, Result};

/// Keys that may differ between ranks: where and how often something is written, and where the data are.
const OWN: [&str; 5] = ["checkpoint_dir", "checkpoint_interval", "cuda_graphs", "data_path", "show_progress"];

/// Checks that the ranks are of one run: the same program, configuration, data and kernels, and as many threads each.
///
/// # Errors
/// A rank that differs; a path that does not train over ranks; a lost rank.
pub fn agree(config: &RunConfig, prepared: &Prepared) -> Result<()> {
    let Prepared { dataset, splits, ranks, .. } = prepared;
    if ranks.is_alone() {
        return Ok(());
    }
    if config.run.compute_path != ComputePath::Fast {
        return Err(Error::new("compute_path is reference, which trains in one process")
            .hint("set `compute_path: fast` and `use_gpu: False`, or leave --ranks away"));
    }
    let here = Environment::here(config)?;
    let kernels = match backend_name(config.run.precision) {
        // Whose own choice depends on the processor.
        "libtorch" => format!("libtorch's on {}", here.cpu),
        own => own.to_owned(),
    };
    let mut facts = vec![
        Fact::new("the program's version", &here.dif_sr),
        Fact::new("its commit", &here.commit),
        Fact::new("libtorch's version", &here.libtorch),
        Fact::new("the vector instructions", &here.vectors),
        Fact::new("the kernels", kernels),
        Fact::new("the number of threads", here.threads),
    ];
    let keys: Mapping = serde_yaml::from_str(&config.to_yaml()).expect("a configuration is YAML");
    for (key, value) in keys.iter().filter_map(|(key, value)| Some((key.as_str()?, value))) {
        if !OWN.contains(&key) {
            facts
                .push(Fact::new(format!("the key {key}"), serde_yaml::to_string(value).unwrap_or_default().trim_end()));
        }
    }
    facts.push(Fact::new("the checksum of the data set", fingerprint(dataset, splits)));
    ranks.agree(&facts)
}

/// Takes part in a run whose folder rank 0 owns, from its start to its test.
///
/// # Errors
/// What ends a training; a lost rank; an interruption ([`Error::is_interruption`]) once `stop` is set at any rank.
pub fn follow(config: &RunConfig, prepared: &Prepared, stop: &AtomicBool) -> Result<()> {
    let Prepared { dataset, splits, model, ranks, .. } = prepared;
    let mut training = Training::over(config, model, splits, ranks)?;
    let accord = Accord::new(ranks, stop);
    ranks.together(Ok(()))?;
    let state = ranks.from_first(ranks.together(Ok(Vec::new()))?)?;
    if !state.is_empty() {
        training.restore("the state that rank 0 has saved".as_ref(), &state, dataset, splits)?;
    }
    ranks.agree_on_parameters(&model.named_parameters(), "at the start")?;
    let fitted = training.run(|event, training| {
        accord.hear(&event, training)?;
        accord.leave_if_asked()
    });
    ended(ranks, fitted.and_then(|_| test(config, prepared, &accord)))
}

/// Takes part in the test of the best model, which rank 0 has.
fn test(config: &RunConfig, prepared: &Prepared, accord: &Accord) -> Result<()> {
    let Prepared { splits, model, ranks, .. } = prepared;
    let best: &Model = model;
    ranks.broadcast_parameters(best.named_parameters())?;
    let progress = |_| {
        accord.ask()?;
        accord.leave_if_asked()
    };
    evaluate_over(config, best, &splits.test, ranks, progress).map(drop)
}
