//! `ranks.tsv`: where every target of the test stands.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::tensors::hex;

/// A row of the file. A token with a tab, a quote or a line end is quoted, as pandas reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankRow {
    /// The user's token.
    pub user: String,
    /// The target's token.
    pub item: String,
    /// Items with a higher score: 0 is the first place.
    pub rank: usize,
    /// Other items with the same score; runs of long ago did not note them.
    #[serde(default)]
    pub ties: usize,
}

impl RankRow {
    pub(super) const FILE: &str = "ranks.tsv";

    /// The text of the file.
    pub(super) fn write(rows: impl IntoIterator<Item = Self>) -> Vec<u8> {
        let mut table = csv::WriterBuilder::new().has_headers(false).delimiter(b'\t').from_writer(Vec::new());
        table.write_record(["user", "item", "rank", "ties"]).expect("memory takes every record");
        rows.into_iter().for_each(|row| table.serialize(row).expect("memory takes every record of four fields"));
        table.into_inner().expect("memory is flushed")
    }

    /// The user of each row, by in the order of their first rows, from 0; empty where each user has one row.
    pub fn users(rows: &[Self]) -> Vec<usize> {
        let mut numbers = HashMap::new();
        let number = |row: &Self| {
            let next = numbers.len();
            *numbers.entry(row.user.clone()).or_insert(next)
        };
        let users: Vec<usize> = rows.iter().map(number).collect();
        if numbers.len() == users.len() { Vec::new() } else { users }
    }

    /// SHA-256 of the lines `user TAB item`: runs with the same judge the same targets.
    pub fn targets_sha256(rows: &[Self]) -> String {
        let mut digest = Sha256::new();
        rows.iter().for_each(|row| digest.update(format!("{}\t{}\n", row.user, row.item)));
        hex(&digest.finalize())
    }
}
