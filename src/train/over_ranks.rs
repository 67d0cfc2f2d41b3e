//! A run over ranks: what they must have in common, where they begin, when they stop, and what those do that own no folder.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_yaml::Mapping;

use super::run::evaluate_over;
use super::saved::fingerprint;
use super::{Event, Prepared, Training};
use crate::config::{ComputePath, RunConfig};
use crate::fast::backend_name;
use crate::model::Model;
use crate::ranks::{Fact, Ranks, StopTogether};
use crate::run_folder::Environment;
use crate::{Error, Result};

/// Keys that may differ between ranks: where and how often something is written, and where the data are.
const OWN: [&str; 4] = ["checkpoint_dir", "checkpoint_interval", "data_path", "show_progress"];

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

/// What the ranks of a training tell each other as it goes.
pub(super) struct Accord<'a> {
    ranks: &'a Ranks,
    stop: StopTogether<'a>,
}

impl<'a> Accord<'a> {
    /// `stop` is set where the run shall save and end, at any rank.
    pub fn new(ranks: &'a Ranks, stop: &'a AtomicBool) -> Self {
        Self { ranks, stop: StopTogether::new(ranks, stop) }
    }

    /// Whether to stop, as it was agreed last.
    pub fn flag(&self) -> &AtomicBool {
        self.stop.flag()
    }

    /// Asks all ranks whether to stop.
    pub fn ask(&self) -> Result<bool> {
        self.stop.ask()
    }

    /// What all ranks do at an event before anybody listens to it: they agree whether to stop, and behind an evaluation
    /// that their parameters are equal.
    pub fn hear(&self, event: &Event, training: &Training) -> Result<()> {
        match event {
            Event::Batches { .. } | Event::Evaluating { .. } => self.ask().map(drop),
            Event::Evaluated { epoch, .. } => {
                let when = format!("after epoch {epoch}");
                self.ranks.agree_on_parameters(&training.model.named_parameters(), &when)?;
                self.ask().map(drop)
            }
            Event::Epoch { .. } | Event::Diverged { .. } => Ok(()),
        }
    }

    /// An interruption where one was agreed on.
    fn leave_if_asked(&self) -> Result<()> {
        match self.flag().load(Ordering::Relaxed) {
            true => Err(Error::interruption("interrupted with all ranks; rank 0 saves the training")),
            false => Ok(()),
        }
    }
}

/// Rank 0's end of the beginning: gives the others the state that was saved in `last`, if there is one.
pub(super) fn share_state(ranks: &Ranks, training: &Training, last: &Path) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let state =
        if last.exists() { fs::read(last).map_err(|e| Error::io(last, "read the file", e)) } else { Ok(Vec::new()) };
    ranks.from_first(ranks.together(state)?)?;
    ranks.agree_on_parameters(&training.model.named_parameters(), "at the start")
}

/// The end of a rank: one that ends in order waits for the others, so that nobody leaves before rank 0 has saved.
pub(super) fn ended<T>(ranks: &Ranks, result: Result<T>) -> Result<T> {
    if result.as_ref().map_or_else(Error::is_interruption, |_| true) {
        let waited = ranks.wait();
        // Rank 0 has done all that there was to do.
        if !ranks.is_first() {
            waited?;
        }
    }
    result
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
