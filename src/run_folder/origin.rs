//! `from` in `environment.json` and `result.json`: where a run began that did not begin at the beginning.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of another run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The other run's folder, as it was named.
    pub run: String,
    /// The seal of its `last.safetensors`.
    pub sha256: String,
    /// The epoch that it was in, from 0.
    pub epoch: usize,
    /// How many batches of that epoch were done.
    pub batch: usize,
}

impl Origin {
    /// Where the other run was, in words that follow a verb.
    pub fn place(&self) -> String {
        match (self.epoch, self.batch) {
            (0, 0) => "at the beginning".to_owned(),
            (epoch, 0) => format!("after epoch {}", epoch - 1),
            (epoch, batch) => format!("after batch {batch} in epoch {epoch}"),
        }
    }
}

/// One line, whatever the folder's name.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run: String = self.run.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "Begun from {run}, {} (last.safetensors {})", self.place(), self.sha256)
    }
}
