//! What `train` and `reproduce` show of a run as it goes: RecBole's log, or in short a line for each evaluation.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use dif_sr::config::{EvalConfig, RunConfig};
use dif_sr::train::{Event, Report};
use dif_sr::verdict::{GoldenRun, Tally};
use indicatif::HumanDuration;

use super::progress::{Pace, Progress};

/// Training before its speed is told: long enough to know it.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// What a reader of the short form is told all the same: how these messages of the log begin.
const TOLD: [&str; 5] = ["Warning", "Resumed ", "Begun from ", "Nothing was validated", "norms of parameters"];

/// Reports a run to standard error.
pub struct Watch {
    progress: Progress,
    /// Instead of RecBole's log, which the run folder has.
    short: bool,
    config: RunConfig,
    /// The run whose epochs and batch losses are expected.
    golden: Option<GoldenRun>,
    tally: Tally,
    /// Since the first batch, evaluations included.
    pace: Option<Pace>,
    told_speed: bool,
    /// An epoch whose line is still to come: its number, loss and seconds.
    trained: Option<(usize, f64, f64)>,
}

impl Watch {
    /// The short form. Beside a golden run the batch losses are compared as they come.
    pub fn short(config: &RunConfig, golden: Option<GoldenRun>) -> Self {
        Self {
            progress: Progress::of_stages(config.run.show_progress),
            short: true,
            config: config.clone(),
            golden,
            tally: Tally::default(),
            pace: None,
            told_speed: false,
            trained: None,
        }
    }

    /// The short form on a terminal, RecBole's log elsewhere.
    pub fn new(config: &RunConfig) -> Self {
        Self { short: stderr().is_terminal(), ..Self::short(config, None) }
    }

    /// Says what the run will do.
    pub fn introduce(&mut self, words: &str) {
        if self.short {
            self.progress.log(words);
        }
    }

    fn batches(&mut self, epoch: usize, batch: usize, batches: usize, losses: impl ExactSizeIterator<Item = f64>) {
        self.finish_line("");
        let done = epoch * batches + batch;
        let first = done - losses.len();
        let mut last = f64::NAN;
        for (i, loss) in (first..).zip(losses) {
            last = loss;
            if let Some(golden) = self.golden.as_ref().and_then(|golden| golden.losses.get(i)) {
                self.tally.add(loss as f32, *golden);
            }
        }
        let left = self.left(done, batches);
        self.tell_speed(done, batches);
        let tally = self.tally_in_words();
        self.show(done, batches, &format!("loss {last:.4}, {left}epoch {epoch}, batch {batch} of {batches}{tally}"));
    }

    /// `; batch losses: 144 of 144 to the bit`, where there are any to compare with.
    fn tally_in_words(&self) -> String {
        match self.tally.compared {
            0 => String::new(),
            _ => format!("; batch losses: {}", self.tally),
        }
    }

    /// The epochs that the golden run took, if this one has not taken as many.
    fn likely(&self, done: usize, batches: usize) -> Option<usize> {
        let epochs = self.golden.as_ref().map(|golden| golden.epochs);
        epochs.filter(|&epochs| epochs < self.config.train.epochs && done < epochs * batches)
    }

    /// The time for what is left up to so many epochs.
    fn until(&self, epochs: usize, done: usize, batches: usize) -> Option<HumanDuration> {
        let (_, left) = self.pace.as_ref()?.at(done, epochs.saturating_mul(batches))?;
        Some(HumanDuration(left))
    }

    /// `about 8 minutes left, `, once there is a speed.
    fn left(&mut self, done: usize, batches: usize) -> String {
        self.pace.get_or_insert_with(|| Pace::from(done));
        let (epochs, how) = match self.likely(done, batches) {
            Some(epochs) => (epochs, "about"),
            // Early stopping may end it before.
            None => (self.config.train.epochs, "at most"),
        };
        self.until(epochs, done, batches).map_or(String::new(), |left| format!("{how} {left} left, "))
    }

    /// Says once how long the training takes on this machine.
    fn tell_speed(&mut self, done: usize, batches: usize) {
        let known = self.pace.as_ref().filter(|pace| !self.told_speed && pace.age() > FIRST_LOOK);
        let epochs = self.config.train.epochs;
        let Some((speed, _)) = known.and_then(|pace| pace.at(done, epochs.saturating_mul(batches))) else { return };
        self.told_speed = true;
        let until = |epochs: usize| self.until(epochs, done, batches).map_or(String::new(), |left| left.to_string());
        let likely = self.likely(done, batches);
        let likely = likely.map(|likely| format!("about {} to the golden run's {likely} epochs, ", until(likely)));
        let likely = likely.unwrap_or_default();
        let most = until(epochs);
        self.progress.log(&format!("{speed:.1} batches/s on this machine: {likely}at most {most} to {epochs} epochs"));
    }

    fn show(&mut self, done: usize, batches: usize, message: &str) {
        let epochs = self.likely(done, batches).unwrap_or(self.config.train.epochs);
        self.progress.whole(done, epochs.saturating_mul(batches), message);
    }

    /// The line of the epoch that was trained last.
    fn finish_line(&mut self, evaluated: &str) {
        if let Some((epoch, loss, seconds)) = self.trained.take() {
            let tally = self.tally_in_words();
            let so_far = if tally.is_empty() { "" } else { " so far" };
            self.progress.log(&format!("epoch {epoch:>2}: loss {loss:.4}{evaluated}, {seconds:.1} s{tally}{so_far}"));
        }
    }
}

impl Report for Watch {
    fn log(&mut self, line: &str) {
        let message = line.split_once("    INFO  ").map_or(line, |(_, message)| message);
        if !self.short || TOLD.iter().any(|begin| message.starts_with(begin)) {
            self.progress.log(if self.short { message } else { line });
        }
    }

    fn event(&mut self, event: &Event) {
        if !self.short {
            return;
        }
        match event {
            Event::Batches { epoch, batch, batches, losses } => {
                self.batches(*epoch, *batch, *batches, losses.iter().map(|losses| losses.total));
            }
            Event::Epoch { epoch, losses, seconds } => self.trained = Some((*epoch, losses.total, *seconds)),
            Event::Evaluating { epoch, done, users } => {
                self.progress.message(&format!("epoch {epoch}, evaluating: {done} of {users} users"));
            }
            Event::Evaluated { score, seconds, best, .. } => {
                let EvalConfig { valid_metric, metric_decimal_place: decimals, .. } = self.config.eval;
                if let Some((_, _, all)) = &mut self.trained {
                    *all += seconds;
                }
                let best = if *best { " (best so far)" } else { "" };
                self.finish_line(&format!(", valid {valid_metric} {score:.decimals$}{best}"));
            }
            Event::Diverged { .. } => self.finish_line(""),
            Event::NoGraphs { .. } => {}
        }
    }

    fn testing(&mut self, done: usize, rows: usize) {
        self.finish_line("");
        if self.short {
            self.progress.ranking("Test", done, rows);
        }
    }
}
