//! What a data set is: the figures by which two people see whether they have the same one.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::dataset::Dataset;
use super::interactions::Filtering;
use super::rows::{Hashes, Rows};
use super::split::{Histories, Splits, at_precision, n_held_out};
use crate::config::{DataConfig, TimePrecision};

/// Everything that `dif-sr data inspect` prints; serialised under the keys of the golden files.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// After augmentation, as the golden files count: one interaction a row.
    pub stats: Statistics,
    /// Before augmentation, as the log counts.
    pub log: Summary,
    /// What the filters dropped.
    pub filtering: Filtering,
    /// Tokens, with the padding.
    pub first_users: Vec<String>,
    /// Tokens, with the padding.
    pub first_items: Vec<String>,
    /// For each attribute `n_<attribute>_tokens` and the tokens themselves, `<attribute>_tokens`; with the padding.
    #[serde(flatten)]
    pub attributes: Map<String, Value>,
    /// Rows to train on.
    pub n_train: usize,
    /// Rows to validate on.
    pub n_valid: usize,
    /// Rows to test on.
    pub n_test: usize,
    /// The first rows of the test.
    pub test_rows_first: Vec<Row>,
    /// The first rows of the validation.
    pub valid_rows_first: Vec<Row>,
    /// The first rows of the training, before any shuffle.
    pub train_rows_first_unshuffled: Vec<Row>,
    /// Of the training rows.
    pub train_sha256: Hashes,
    /// Of the validation rows.
    pub valid_sha256: Hashes,
    /// Of the test rows.
    pub test_sha256: Hashes,
    /// Of splits that are made here; files of splits are what they are.
    pub agreement: Option<Agreement>,
    /// What is lost on the way, one sentence each.
    pub warnings: Vec<String>,
}

/// RecBole's figures. `users`, `items` and the sparsity count the padding; the averages do not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Statistics {
    /// Users.
    pub users: usize,
    /// Items.
    pub items: usize,
    /// Interactions.
    pub inters: usize,
    /// 1 − the share of (user, item) pairs that interact.
    pub sparsity: f64,
    /// Interactions for each user that has any.
    pub avg_user: f64,
    /// Interactions for each item that has any.
    pub avg_item: f64,
}

/// RecBole's block in the log: its `Display` is that of the log, line by line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The data set's name.
    pub name: String,
    /// Its figures.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// The columns that were loaded.
    pub remain_fields: Vec<String>,
}

/// One row of a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The user's id.
    pub user: i64,
    /// `[L]`, with the padding.
    pub seq: Vec<i64>,
    /// How many of them are no padding.
    pub len: i64,
    /// The target.
    pub pos: i64,
}

/// What makes two people's copies of a data set, or their results on it, differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// In what times are compared.
    pub time_precision: TimePrecision,
    /// Ties at `time_precision`: there the order of the file decides which item comes first.
    pub ties: Ties,
    /// Ties of the exact times.
    pub ties_at_float64: Ties,
    /// Interactions whose user has interacted with the item in another one, the first of each pair not counted.
    pub duplicate_pairs: usize,
    /// Test rows whose target is among all that the user did before, not only the last L items.
    pub test_items_in_history: usize,
    /// Test rows whose target is older (at `time_precision`) than the latest training target of any other user: what
    /// they predict had happened before something that the model was trained on.
    pub test_older_than_training: usize,
}

/// Equal times of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ties {
    /// Interactions that have the same time as the one before them in the user's history.
    pub interactions: usize,
    /// Users with any of those.
    pub users: usize,
}

impl Statistics {
    /// The figures of interactions between `user[i]` and `item[i]`, in a data set of `n_users` and `n_items` with padding.
    fn new(n_users: usize, n_items: usize, user: impl Iterator<Item = i64>, item: impl Iterator<Item = i64>) -> Self {
        let (inters, with_users) = count(n_users, user);
        let (_, with_items) = count(n_items, item);
        let n = inters as f64;
        Self {
            users: n_users,
            items: n_items,
            inters,
            sparsity: 1.0 - n / n_users as f64 / n_items as f64,
            avg_user: n / with_users as f64,
            avg_item: n / with_items as f64,
        }
    }
}

/// The number of ids, all below `n`, and of distinct ones.
fn count(n: usize, ids: impl Iterator<Item = i64>) -> (usize, usize) {
    let mut seen = vec![false; n];
    let total = ids.map(|id| seen[id as usize] = true).count();
    (total, seen.into_iter().filter(|&seen| seen).count())
}

impl Summary {
    /// The block of the log, which RecBole writes before augmentation.
    pub fn new(dataset: &Dataset) -> Self {
        let (users, items) = (dataset.users.len(), dataset.items.len());
        let [user, item] = [&dataset.user, &dataset.item].map(|ids| ids.iter().map(|&id| id.into()));
        Self {
            name: dataset.name.clone(),
            statistics: Statistics::new(users, items, user, item),
            remain_fields: dataset.remain_fields.clone(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { users, items, inters, sparsity, avg_user, avg_item } = self.statistics;
        writeln!(f, "{}", self.name)?;
        writeln!(f, "The number of users: {users}")?;
        writeln!(f, "Average actions of users: {avg_user:?}")?;
        writeln!(f, "The number of items: {items}")?;
        writeln!(f, "Average actions of items: {avg_item:?}")?;
        writeln!(f, "The number of inters: {inters}")?;
        writeln!(f, "The sparsity of the dataset: {:?}%", sparsity * 100.0)?;
        write!(f, "Remain Fields: ['{}']", self.remain_fields.join("', '"))
    }
}

impl Agreement {
    fn new(dataset: &Dataset, precision: TimePrecision) -> Self {
        let histories = Histories::new(dataset, precision);
        let mut duplicate_pairs = 0;
        let mut test_items_in_history = 0;
        // By user: the latest training target's time, and the test target's time.
        let mut latest_training: Vec<(i64, f64)> = Vec::new();
        let mut tests: Vec<(i64, f64)> = Vec::new();
        for (user, history) in histories.iter() {
            let items: Vec<u32> = history.iter().map(|&interaction| dataset.item[interaction]).collect();
            duplicate_pairs += items.len() - items.iter().collect::<HashSet<_>>().len();
            let time = |index: usize| at_precision(dataset.time[history[index]], precision);
            if items.len() > 1 {
                let held_out = n_held_out(items.len() - 1);
                latest_training.push((user, time(items.len() - 1 - held_out)));
                if held_out > 0 {
                    let (target, before) = (items[items.len() - 1], &items[..items.len() - 1]);
                    tests.push((user, time(items.len() - 1)));
                    test_items_in_history += usize::from(before.contains(&target));
                }
            }
        }
        // The latest of all users but one is the latest of all, or the second latest for the user who holds that.
        latest_training.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let latest_of_others = |user| latest_training.iter().find(|&&(other, _)| other != user).map(|&(_, time)| time);
        let older = tests.iter().filter(|&&(user, time)| latest_of_others(user).is_some_and(|latest| time < latest));
        Self {
            time_precision: precision,
            ties: Ties::new(dataset, &histories, precision),
            ties_at_float64: Ties::new(
                dataset,
                &Histories::new(dataset, TimePrecision::Float64),
                TimePrecision::Float64,
            ),
            duplicate_pairs,
            test_items_in_history,
            test_older_than_training: older.count(),
        }
    }
}

impl Ties {
    fn new(dataset: &Dataset, histories: &Histories, precision: TimePrecision) -> Self {
        let time = |interaction: usize| at_precision(dataset.time[interaction], precision);
        let mut ties = Self { interactions: 0, users: 0 };
        for (_, history) in histories.iter() {
            let n = history.windows(2).filter(|pair| time(pair[0]) == time(pair[1])).count();
            ties.interactions += n;
            ties.users += usize::from(n > 0);
        }
        ties
    }
}

impl Inspection {
    /// Describes `dataset` and the `splits` that were cut from it under `config`.
    pub fn new(dataset: &Dataset, splits: &Splits, config: &DataConfig) -> Self {
        let all = [&splits.train, &splits.valid, &splits.test];
        let mut attributes = Map::new();
        for attribute in &dataset.attributes {
            let tokens: Vec<&str> = attribute.vocab.iter().collect();
            attributes.insert(format!("n_{}_tokens", attribute.name), json!(tokens.len()));
            attributes.insert(format!("{}_tokens", attribute.name), json!(tokens));
        }
        Self {
            stats: Statistics::new(
                dataset.users.len(),
                dataset.items.len(),
                all.iter().flat_map(|rows| (0..rows.n()).map(|row| rows.user(row))),
                all.iter().flat_map(|rows| (0..rows.n()).map(|row| rows.target(row))),
            ),
            log: Summary::new(dataset),
            filtering: dataset.filtering,
            first_users: dataset.users.iter().take(8).map(str::to_owned).collect(),
            first_items: dataset.items.iter().take(12).map(str::to_owned).collect(),
            attributes,
            n_train: splits.train.n(),
            n_valid: splits.valid.n(),
            n_test: splits.test.n(),
            test_rows_first: first_rows(&splits.test),
            valid_rows_first: first_rows(&splits.valid),
            train_rows_first_unshuffled: first_rows(&splits.train),
            train_sha256: splits.train.hashes(),
            valid_sha256: splits.valid.hashes(),
            test_sha256: splits.test.hashes(),
            agreement: dataset.parts.is_none().then(|| Agreement::new(dataset, config.time_precision)),
            warnings: dataset.warnings.clone(),
        }
    }
}

/// The first four rows.
fn first_rows(rows: &Rows) -> Vec<Row> {
    let row = |i| Row {
        user: rows.user(i),
        seq: rows.padded(i).collect(),
        len: rows.history(i).len() as i64,
        pos: rows.target(i),
    };
    (0..rows.n().min(4)).map(row).collect()
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filtering {
            rows_in_file,
            without_user_or_item,
            duplicates,
            outside_values,
            without_user_row,
            without_item_row,
            outside_intervals,
        } = self.filtering;
        writeln!(f, "{}\n", self.log)?;
        for (what, n) in [
            ("Rows of the .inter file", rows_in_file),
            ("  dropped without user or item", without_user_or_item),
            ("  dropped by rm_dup_inter", duplicates),
            ("  dropped by val_interval", outside_values),
            ("  dropped by filter_inter_by_user_or_item", without_user_row + without_item_row),
            ("  dropped by *_inter_num_interval", outside_intervals),
        ] {
            writeln!(f, "{what:<47}{n:>9}")?;
        }
        for (key, n) in self.attributes.iter().filter_map(|(key, value)| Some((key, value.as_u64()?))) {
            writeln!(f, "{key:<47}{n:>9}")?;
        }
        let splits = [
            ("train", self.n_train, &self.train_sha256),
            ("valid", self.n_valid, &self.valid_sha256),
            ("test", self.n_test, &self.test_sha256),
        ];
        for (name, n, hashes) in splits {
            writeln!(f, "\nRows of {name:<39}{n:>9}")?;
            writeln!(f, "  SHA-256 of user_id       {}", hashes.user_id)?;
            writeln!(f, "  SHA-256 of item_id       {}", hashes.item_id)?;
            writeln!(f, "  SHA-256 of item_id_list  {}", hashes.item_id_list)?;
            writeln!(f, "  SHA-256 of item_length   {}", hashes.item_length)?;
        }
        if let Some(agreement) = &self.agreement {
            write!(f, "\n{agreement}")?;
        }
        self.warnings.iter().try_for_each(|warning| write!(f, "\n\nWarning: {warning}"))
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time_precision, ties, ties_at_float64, .. } = self;
        writeln!(f, "What decides whether two copies agree")?;
        let at_float32 = (*time_precision == TimePrecision::Float32).then_some(("float32", ties));
        for (precision, ties) in at_float32.into_iter().chain([("float64", ties_at_float64)]) {
            let what = format!("  interactions tied in time at {precision}");
            let Ties { interactions, users } = ties;
            writeln!(f, "{what:<47}{interactions:>9}   by {users} users; there the order of the file decides")?;
        }
        writeln!(f, "  repeated (user, item) pairs                  {:>9}", self.duplicate_pairs)?;
        writeln!(f, "  test items already in the user's history     {:>9}", self.test_items_in_history)?;
        write!(f, "  test items older than others' training items {:>9}", self.test_older_than_training)
    }
}
