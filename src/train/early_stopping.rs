//! When to stop: RecBole's rule.

use serde::{Deserialize, Serialize};

/// Counts evaluations without improvement. Strictly greater is better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    stopping_step: usize,
    best: Option<f64>,
    without_improvement: usize,
}

impl EarlyStopping {
    /// ```
    /// use dif_sr::train::EarlyStopping;
    /// let mut rule = EarlyStopping::new(1);
    /// let improved: Vec<bool> = [0.1, 0.1, 0.2, 0.2].iter().map(|&score| rule.update(score)).collect();
    /// assert_eq!(improved, [true, false, true, false]);
    /// assert!(!rule.is_over());
    /// assert!(!rule.update(0.1) && rule.is_over());
    /// ```
    pub fn new(stopping_step: usize) -> Self {
        Self { stopping_step, best: None, without_improvement: 0 }
    }

    /// Takes the score of one evaluation, already rounded. Returns whether it is the best so far: the model to keep.
    pub fn update(&mut self, score: f64) -> bool {
        let improved = self.best.is_none_or(|best| score > best);
        if improved {
            self.best = Some(score);
            self.without_improvement = 0;
        } else {
            self.without_improvement += 1;
        }
        improved
    }

    /// Goes on with another `stopping_step`; the evaluations so far count.
    pub fn allow(&mut self, stopping_step: usize) {
        self.stopping_step = stopping_step;
    }

    /// How many evaluations in a row were not better, if that is the end.
    pub fn over_after(&self) -> Option<usize> {
        self.is_over().then_some(self.without_improvement)
    }

    /// Whether to stop: no evaluation was better, `stopping_step` + 1 times in a row.
    pub fn is_over(&self) -> bool {
        self.without_improvement > self.stopping_step
    }
}
