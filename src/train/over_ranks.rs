//! What the ranks of a training tell each other: when they stop, where they begin, and that they end together.

use std::sync::atomic::{AtomicBool, Ordering};

use super::record::Recorder;
use super::{Event, Training};
use crate::ranks::Ranks;
use crate::{Error, Result};

/// What the ranks of a training tell each other as it goes.
pub(super) struct Accord<'a> {
    ranks: &'a Ranks,
    /// What a signal sets here. It must not end this rank alone: the others would wait.
    own: &'a AtomicBool,
    agreed: AtomicBool,
}

impl<'a> Accord<'a> {
    /// `stop` is set where the run shall save and end, at any rank.
    pub fn new(ranks: &'a Ranks, stop: &'a AtomicBool) -> Self {
        Self { ranks, own: stop, agreed: AtomicBool::new(false) }
    }

    /// Whether to stop, as it was agreed last; of one process alone, the flag that a signal sets.
    pub fn flag(&self) -> &AtomicBool {
        if self.ranks.is_alone() { self.own } else { &self.agreed }
    }

    /// Asks all ranks whether to stop, who must all ask.
    pub fn ask(&self) -> Result<bool> {
        let stop = self.ranks.any(self.own.load(Ordering::Relaxed))?;
        self.agreed.store(stop, Ordering::Relaxed);
        Ok(stop)
    }

    /// What all ranks do at an event before anybody listens to it: they agree whether to stop, and behind an evaluation
    /// that their parameters are equal.
    pub fn hear(&self, event: &Event, training: &Training) -> Result<()> {
        match event {
            Event::Batches { .. } | Event::Evaluating { .. } => self.ask().map(drop),
            Event::Evaluated { epoch, .. } => {
                let when = format!("after epoch {epoch}");
                self.ranks.agree_on_parameters(&training.model.common_parameters(), &when)?;
                self.ask().map(drop)
            }
            Event::Epoch { .. } | Event::Diverged { .. } | Event::NoGraphs { .. } => Ok(()),
        }
    }

    /// An interruption where one was agreed on.
    pub fn leave_if_asked(&self) -> Result<()> {
        match self.flag().load(Ordering::Relaxed) {
            true => Err(Error::interruption("interrupted with all ranks; rank 0 saves the training")),
            false => Ok(()),
        }
    }
}

/// Rank 0's end of the beginning: gives the others the state that the training is in, if it is not at its start.
pub(super) fn share_state(ranks: &Ranks, training: &Training, recorder: &Recorder) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    ranks.from_first(ranks.together(recorder.state(training))?)?;
    ranks.agree_on_parameters(&training.model.common_parameters(), "at the start")
}

/// The end of a rank: one that ends in order waits for the others, so that nobody leaves before rank 0 has saved.
pub(super) fn ended<T>(ranks: &Ranks, result: Result<T>) -> Result<T> {
    if result.as_ref().map_or_else(Error::is_interruption, |_| true) {
        let waited = ranks.wait();
        // Rank 0 has done all that there was to do.
        if !ranks.is_first() {
            waited?;
            return ranks.leave().and(result);
        }
        if waited.is_ok() {
            _ = ranks.leave();
        }
    }
    result
}
