//! Progress bars on a terminal, plain log lines elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use dif_sr::config::RunConfig;
use dif_sr::train::{Event, Report};
use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Reports a run to standard error.
#[derive(Debug)]
pub struct Progress {
    /// Whether bars are shown.
    bars: bool,
    bar: Option<ProgressBar>,
    epochs: usize,
    /// Since the first batch, evaluations included.
    training: Option<Pace>,
    /// Since the first rows of an evaluation.
    evaluating: Option<Pace>,
}

/// Speed since something was first seen done: what was done before has no time that is known.
#[derive(Debug)]
struct Pace {
    since: Instant,
    done: usize,
}

impl Pace {
    /// The speed and the time for what is left, once there is a speed.
    fn so_far(pace: &mut Option<Self>, done: usize, of: usize) -> Option<(f64, Duration)> {
        let Self { since, done: first } = pace.get_or_insert_with(|| Self { since: Instant::now(), done });
        let per_second = (done - *first) as f64 / since.elapsed().as_secs_f64();
        let left = Duration::try_from_secs_f64((of - done) as f64 / per_second).ok()?;
        (done > *first).then_some((per_second, left))
    }
}

impl Progress {
    /// Bars for a run, if `show_progress` and standard error is a terminal.
    pub fn new(config: &RunConfig) -> Self {
        Self { epochs: config.train.epochs, ..Self::of_stages(config.run.show_progress) }
    }

    /// Bars for stages that are told by [`Progress::step`], if wanted and standard error is a terminal.
    pub fn of_stages(show: bool) -> Self {
        Self { bars: show && stderr().is_terminal(), bar: None, epochs: 0, training: None, evaluating: None }
    }

    /// So much of a stage is done.
    pub fn step(&mut self, stage: &str, done: usize, of: usize) {
        self.at(stage, done, of, String::new());
    }

    /// So many bytes of a stage are done, of so many if that is known.
    pub fn bytes(&mut self, stage: &str, done: u64, of: Option<u64>) {
        if !self.bars {
            return;
        }
        if self.bar.as_ref().is_some_and(|bar| bar.prefix() != stage) {
            self.end();
        }
        let bar = self.bar.get_or_insert_with(|| {
            let known = "{prefix} {percent:>3}% {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
            let style =
                ProgressStyle::with_template(if of.is_some() { known } else { "{prefix} {bytes}, {bytes_per_sec}" });
            let bar = ProgressBar::with_draw_target(of, ProgressDrawTarget::stderr());
            let bar = bar.with_prefix(stage.to_owned()).with_style(style.expect("the template is a constant"));
            // What was there before has no speed.
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        bar.set_position(done);
    }

    /// Moves the bar, and makes a new one for a new stage.
    fn at(&mut self, stage: &str, done: usize, of: usize, message: String) {
        if !self.bars {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(of as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} {percent:>3}% {wide_bar} {pos}/{len}{msg}");
            bar.with_prefix(stage.to_owned()).with_style(style.expect("the template is a constant"))
        });
        bar.set_message(message);
        bar.set_position(done as u64);
        if done == of {
            self.end();
        }
    }

    fn end(&mut self) {
        self.evaluating = None;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn ranking(&mut self, stage: &str, done: usize, of: usize) {
        let pace = Pace::so_far(&mut self.evaluating, done, of);
        let message = pace.map(|(speed, left)| format!(", {speed:.0} users/s, {} left", FormattedDuration(left)));
        self.at(stage, done, of, message.unwrap_or_default());
    }
}

impl Report for Progress {
    fn log(&mut self, line: &str) {
        self.end();
        // The run folder has the line too; a closed terminal shall not end a training.
        let _ = writeln!(stderr(), "{line}");
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Batches { epoch, batch, batches, losses } => {
                let pace =
                    Pace::so_far(&mut self.training, epoch * batches + batch, self.epochs.saturating_mul(*batches));
                // Early stopping may end it before.
                let pace = pace.map(|(speed, left)| {
                    format!(", {speed:.2} batches/s, at most {} left in all", FormattedDuration(left))
                });
                let loss = losses.last().map(|losses| format!(", loss {:.4}", losses.total));
                let message = pace.unwrap_or_default() + &loss.unwrap_or_default();
                self.at(&format!("Train {epoch:>5}"), *batch, *batches, message);
            }
            Event::Evaluating { done, users, .. } => self.ranking("Evaluate   ", *done, *users),
            Event::Epoch { .. } | Event::Evaluated { .. } | Event::Diverged { .. } => self.end(),
        }
    }

    fn testing(&mut self, done: usize, rows: usize) {
        self.ranking("Test       ", done, rows);
    }
}
