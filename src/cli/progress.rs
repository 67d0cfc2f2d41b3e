//! Progress bars on a terminal; elsewhere nothing but lines.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows stages on standard error.
#[derive(Debug)]
pub struct Progress {
    /// Whether bars are shown.
    bars: bool,
    bar: Option<ProgressBar>,
}

/// Speed since something was first seen done: what was done before has no time that is known.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    done: usize,
}

impl Pace {
    /// From now on.
    pub fn from(done: usize) -> Self {
        Self { since: Instant::now(), done }
    }

    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The speed and the time for what is left, once there is a speed.
    pub fn at(&self, done: usize, of: usize) -> Option<(f64, Duration)> {
        let per_second = done.checked_sub(self.done).filter(|&more| more > 0)? as f64 / self.age().as_secs_f64();
        let left = Duration::try_from_secs_f64(of.saturating_sub(done) as f64 / per_second).ok()?;
        Some((per_second, left))
    }
}

/// Of ASCII alone: not every terminal has more.
const BAR: &str = "=> ";

impl Progress {
    /// Bars, if wanted and standard error is a terminal.
    pub fn of_stages(show: bool) -> Self {
        Self { bars: show && stderr().is_terminal(), bar: None }
    }

    /// Prints a line.
    pub fn log(&mut self, line: &str) {
        self.end();
        // A closed terminal shall not end a training.
        let _ = writeln!(stderr(), "{line}");
    }

    /// So much of a stage is done.
    pub fn step(&mut self, stage: &str, done: usize, of: usize) {
        self.at("{prefix} {percent:>3}% [{bar:16}] {pos}/{len}", stage, done, of);
    }

    /// So much of a whole is done, of which lines tell meanwhile.
    pub fn whole(&mut self, done: usize, of: usize, message: &str) {
        self.move_to("{percent:>3}% [{bar:10}] {wide_msg}", "", done as u64, Some(of as u64), message);
    }

    /// Says where a whole is that has not moved.
    pub fn message(&mut self, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
        }
    }

    /// So many bytes of a stage are done, of so many if that is known.
    pub fn bytes(&mut self, stage: &str, done: u64, of: Option<u64>) {
        let known = "{prefix} {percent:>3}% [{bar:16}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
        let template = if of.is_some() { known } else { "{prefix} {bytes}, {bytes_per_sec}" };
        self.move_to(template, stage, done, of, "");
    }

    /// Moves the bar to `done`, and ends it there if that is all.
    fn at(&mut self, template: &str, stage: &str, done: usize, of: usize) {
        self.move_to(template, stage, done as u64, Some(of as u64), "");
        if done == of {
            self.end();
        }
    }

    /// Moves the bar, and makes a new one for a new stage.
    fn move_to(&mut self, template: &str, stage: &str, done: u64, of: Option<u64>, message: &str) {
        if !self.bars {
            return;
        }
        if self.bar.as_ref().is_some_and(|bar| bar.prefix() != stage) {
            self.end();
        }
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(template).expect("templates are constants").progress_chars(BAR);
            let bar = ProgressBar::with_draw_target(of, ProgressDrawTarget::stderr());
            let bar = bar.with_prefix(stage.to_owned()).with_style(style);
            // What was there before has no speed.
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        of.into_iter().for_each(|of| bar.set_length(of));
        bar.set_message(message.to_owned());
        bar.set_position(done);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// So many users of an evaluation are ranked.
    pub fn ranking(&mut self, stage: &str, done: usize, of: usize) {
        self.at("{prefix} {percent:>3}% [{bar:16}] {pos}/{len} users, {eta} left", stage, done, of);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
