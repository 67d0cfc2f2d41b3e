//! When to stop: RecBole's rule.

use serde::{Deserialize, Serialize};

/// Counts evaluations without improvement. Strictly greater is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    stopping_step: usize,
    best: Option<f64>,
    without_improvement: usize,
}

/// What an evaluation's score asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The best so far: keep this model.
    Improved,
    /// Not better: go on.
    Continue,
    /// Not better for `stopping_step` + 1 evaluations in a row.
    Stop,
}

impl EarlyStopping {
    /// ```
    /// use dif_sr::train::{EarlyStopping, Step};
    /// let mut rule = EarlyStopping::new(1);
    /// let steps: Vec<Step> = [0.1, 0.1, 0.2, 0.2, 0.1].iter().map(|&score| rule.update(score)).collect();
    /// assert_eq!(steps, [Step::Improved, Step::Continue, Step::Improved, Step::Continue, Step::Stop]);
    /// ```
    pub fn new(stopping_step: usize) -> Self {
        Self { stopping_step, best: None, without_improvement: 0 }
    }

    /// The best score so far.
    pub fn best(&self) -> Option<f64> {
        self.best
    }

    /// Takes the score of one evaluation, already rounded.
    pub fn update(&mut self, score: f64) -> Step {
        if self.best.is_none_or(|best| score > best) {
            self.best = Some(score);
            self.without_improvement = 0;
            return Step::Improved;
        }
        self.without_improvement += 1;
        if self.is_over() { Step::Stop } else { Step::Continue }
    }

    /// Whether the last step was to stop.
    pub fn is_over(&self) -> bool {
        self.without_improvement > self.stopping_step
    }
}
