//! What may change in a run that goes on after an interruption.

use super::RunConfig;
use super::keys::{self, Key, Kind};

impl RunConfig {
    /// The keys that do not say what is computed, only where and how.
    pub const CHANGEABLE: [&str; 8] = [
        "checkpoint_interval",
        "cuda_graphs",
        "data_path",
        "gpu_id",
        "shard_items",
        "show_progress",
        "threads",
        "use_gpu",
    ];

    /// The keys that may change, too, where a new run begins from the state of another: how long it trains and in which steps,
    /// and where its folder is. All others say what the state is of.
    pub const CHANGEABLE_FROM: [&str; 7] =
        ["checkpoint_dir", "clip_grad_norm", "epochs", "eval_step", "learning_rate", "stopping_step", "weight_decay"];

    /// The keys but for [`RunConfig::CHANGEABLE`] that differ, or that one of the two models does not read, in alphabetical order.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        let value = |config: &Self, key: &Key| match key.kind {
            Kind::Honoured { get, .. } if key.is_of(config.model.model) => Some(get(config)),
            _ => None,
        };
        let differs = |key: &&Key| !Self::CHANGEABLE.contains(&key.name) && value(self, key) != value(other, key);
        let mut names: Vec<_> = keys::table().filter(differs).map(|key| key.name).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(overrides: &[(&str, &str)]) -> RunConfig {
        let all = [("dataset", "toy")].iter().chain(overrides);
        RunConfig::load(&[], &all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn every_changeable_key_and_no_other_leaves_the_training_the_same() {
        let values = ["9", "False", "elsewhere", "1", "True", "False", "3", "False"];
        for (key, value) in RunConfig::CHANGEABLE.into_iter().zip(values) {
            let changed = config(&[(key, value)]);
            assert!(changed != config(&[]) && changed.differing(&config(&[])).is_empty(), "{key}");
        }
        for (key, value) in [("seed", "3"), ("epochs", "9"), ("compute_path", "fast"), ("hidden_size", "8")] {
            assert_eq!(config(&[(key, value)]).differing(&config(&[])), [key]);
        }
    }
}
