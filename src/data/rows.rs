//! The rows of a split. Interactions are kept once, and a row is a place among them, so that memory does not grow with
//! the length of sequences.

use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::tensors::hex;

/// Histories, each with the item to predict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// L: the most items of a history.
    l: usize,
    /// The items of one user after the other, oldest first, of which rows are parts.
    items: Arc<Vec<u32>>,
    rows: Arc<Vec<Row>>,
}

/// A row: the items from `start`, `len` of them, and the one behind them, which is to be predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    user: u32,
    start: u32,
    len: u32,
}

/// SHA-256 of each column of [`Rows`] as little-endian `i64`, row-major; under RecBole's names of the columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hashes {
    /// Of the users, `[n]`.
    pub user_id: String,
    /// Of the targets, `[n]`.
    pub item_id: String,
    /// Of the histories with their padding, `[n, L]`.
    pub item_id_list: String,
    /// Of their lengths, `[n]`.
    pub item_length: String,
}

impl Rows {
    /// Rows that state user, history (oldest first, not empty) and target; of a history the last L items are kept.
    ///
    /// ```
    /// use dif_sr::data::Rows;
    /// let rows = Rows::new(2, [(1, vec![5, 6, 7], 8)]);
    /// assert_eq!((rows.user(0), rows.history(0), rows.target(0)), (1, &[6, 7][..], 8));
    /// ```
    ///
    /// # Panics
    /// An id, or the number of items, beyond 32 bits.
    pub fn new<H: AsRef<[i64]>>(l: usize, rows: impl IntoIterator<Item = (i64, H, i64)>) -> Self {
        let mut all = SharedRows::<1>::new(l);
        for (user, history, target) in rows {
            let history = history.as_ref();
            let kept = &history[history.len().saturating_sub(l)..];
            all.row(0, user, all.items.len(), kept.len());
            all.extend(kept.iter().chain([&target]).copied());
        }
        let [rows] = all.finish();
        rows
    }

    /// L: the most items of a history.
    pub fn l(&self) -> usize {
        self.l
    }

    /// The number of rows.
    pub fn n(&self) -> usize {
        self.rows.len()
    }

    /// The row's user. Panics, as the other columns do, if there is no such row.
    pub fn user(&self, row: usize) -> i64 {
        self.rows[row].user.into()
    }

    /// The last 1 to L items before the target, oldest first, without padding.
    pub fn history(&self, row: usize) -> &[u32] {
        let Row { start, len, .. } = self.rows[row];
        &self.items[start as usize..][..len as usize]
    }

    /// The item to predict.
    pub fn target(&self, row: usize) -> i64 {
        let Row { start, len, .. } = self.rows[row];
        self.items[(start + len) as usize].into()
    }

    /// The history as the model reads it: right-padded with 0, `[L]`.
    pub fn padded(&self, row: usize) -> impl Iterator<Item = i64> {
        let history = self.history(row).iter().map(|&item| item.into());
        history.chain(std::iter::repeat(0)).take(self.l)
    }

    /// What identifies the rows and their order.
    pub fn hashes(&self) -> Hashes {
        let rows = || 0..self.n();
        Hashes {
            user_id: sha256(rows().map(|row| self.user(row))),
            item_id: sha256(rows().map(|row| self.target(row))),
            item_id_list: sha256(rows().flat_map(|row| self.padded(row))),
            item_length: sha256(rows().map(|row| self.history(row).len() as i64)),
        }
    }
}

fn sha256(values: impl Iterator<Item = i64>) -> String {
    let mut digest = Sha256::new();
    values.for_each(|value| digest.update(value.to_le_bytes()));
    hex(&digest.finalize())
}

/// The rows of N splits, which share their items, while they are made.
pub(super) struct SharedRows<const N: usize> {
    l: usize,
    items: Vec<u32>,
    rows: [Vec<Row>; N],
}

impl<const N: usize> SharedRows<N> {
    pub fn new(l: usize) -> Self {
        Self { l, items: Vec::new(), rows: [const { Vec::new() }; N] }
    }

    /// Adds a user's items, oldest first: each but the first is the target of a row, in the split that `part` names by
    /// the target's index.
    pub fn user(&mut self, user: i64, items: impl ExactSizeIterator<Item = i64>, part: impl Fn(usize) -> usize) {
        let (begin, n) = (self.items.len(), items.len());
        self.extend(items);
        for target in 1..n {
            let len = target.min(self.l);
            self.row(part(target), user, begin + target - len, len);
        }
    }

    fn row(&mut self, part: usize, user: i64, start: usize, len: usize) {
        self.rows[part].push(Row { user: narrow(user), start: narrow(start), len: narrow(len) });
    }

    fn extend(&mut self, items: impl Iterator<Item = i64>) {
        self.items.extend(items.map(narrow));
    }

    pub fn finish(self) -> [Rows; N] {
        let Self { l, mut items, mut rows } = self;
        items.shrink_to_fit();
        rows.iter_mut().for_each(Vec::shrink_to_fit);
        let items = Arc::new(items);
        rows.map(|rows| Rows { l, items: items.clone(), rows: Arc::new(rows) })
    }
}

/// So many interactions take 150 GB before they are too many.
fn narrow(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or_else(|_| panic!("expected fewer than 4,294,967,296 interactions"))
}
