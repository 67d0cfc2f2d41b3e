//! Small data sets and their configuration, for the tests of this module's parts.

use super::dataset::Dataset;
use super::interactions::Filtering;
use super::vocabulary::Vocabulary;
use crate::config::{DataConfig, RunConfig, TimePrecision};

/// Nothing is filtered; exact times; L = 3.
pub fn config() -> DataConfig {
    let named = [("dataset", "sample"), ("data_path", "folder"), ("MAX_ITEM_LIST_LENGTH", "3")];
    let named = named.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let defaults = RunConfig::load(&[], &named).expect("defaults are valid").data;
    DataConfig { time_precision: TimePrecision::Float64, selected_features: Vec::new(), ..defaults }
}

/// A data set of (user, item, time). Ids are given as they are, and each must occur.
pub fn dataset(interactions: &[(i64, i64, f64)]) -> Dataset {
    let vocabulary = |prefix: char, max: Option<i64>| {
        let mut vocabulary = Vocabulary::default();
        (1..=max.unwrap_or(0)).for_each(|id| assert_eq!(vocabulary.intern(&format!("{prefix}{id}")), id));
        vocabulary
    };
    Dataset {
        name: "sample".into(),
        users: vocabulary('u', interactions.iter().map(|&(user, ..)| user).max()),
        items: vocabulary('i', interactions.iter().map(|&(_, item, _)| item).max()),
        attributes: Vec::new(),
        user: interactions.iter().map(|&(user, ..)| user as u32).collect(),
        item: interactions.iter().map(|&(_, item, _)| item as u32).collect(),
        time: interactions.iter().map(|&(.., time)| time).collect(),
        parts: None,
        warnings: Vec::new(),
        remain_fields: ["user_id", "item_id", "timestamp"].map(str::to_owned).into(),
        filtering: Filtering { rows_in_file: interactions.len(), ..Filtering::default() },
    }
}
