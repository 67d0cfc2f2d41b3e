//! Progress bars on a terminal, plain log lines elsewhere.

use std::io::{IsTerminal, Write, stderr};

use dif_sr::train::{Event, Report};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Reports a run to standard error.
#[derive(Debug)]
pub struct Progress {
    /// Whether bars are shown.
    bars: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Bars if `show_progress` and standard error is a terminal.
    pub fn new(show_progress: bool) -> Self {
        Self { bars: show_progress && stderr().is_terminal(), bar: None }
    }

    /// So much of a stage is done.
    pub fn step(&mut self, stage: &str, done: usize, of: usize) {
        self.at(stage, done, of, String::new());
    }

    /// Moves the bar, and makes a new one for a new stage.
    fn at(&mut self, stage: &str, done: usize, of: usize, message: String) {
        if !self.bars {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(of as u64), ProgressDrawTarget::stderr());
            let template = "{prefix} {percent:>3}% {wide_bar} {pos}/{len} {per_sec}, {eta} left{msg}";
            bar.with_prefix(stage.to_owned())
                .with_style(ProgressStyle::with_template(template).expect("the template is a constant"))
        });
        bar.set_message(message);
        bar.set_position(done as u64);
        if done == of {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
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
            Event::Batch { epoch, batch, batches, losses } => {
                self.at(&format!("Train {epoch:>5}"), *batch, *batches, format!(", loss {:.4}", losses.total));
            }
            Event::Evaluating { done, users, .. } => self.at("Evaluate   ", *done, *users, String::new()),
            Event::Epoch { .. } | Event::Evaluated { .. } => self.end(),
        }
    }

    fn testing(&mut self, done: usize, rows: usize) {
        self.at("Test       ", done, rows, String::new());
    }
}
