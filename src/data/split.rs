//! Leave-one-out: every user's last interaction is for the test, the one before it for validation, the rest for training.
//!
//! The reference sorts interactions by (user, time); turns every interaction but a user's first into a row, whose
//! sequence is what the user did before; sorts all rows by the time of their target; groups them by user in order of
//! first appearance; and cuts each group. All its sorts are stable. A user's rows are in order of time already, so the
//! second sort only decides the order of the users: by the time of their first row, then by id.

use std::cmp::Ordering;

use super::dataset::Dataset;
use super::rows::{Rows, SharedRows};
use crate::config::{DataConfig, TimePrecision};
use crate::{Error, Result};

/// Rows to train on, to stop by and to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splits {
    /// To train on.
    pub train: Rows,
    /// To stop by: the last item but one of each user.
    pub valid: Rows,
    /// To judge by: the last item of each user.
    pub test: Rows,
    /// Interactions that stand before an older one of their user: [`Histories::out_of_order`].
    pub out_of_order: usize,
}

/// Reads a data set and cuts it; its warnings say what the order lost, too.
///
/// # Errors
/// As [`Dataset::load`] and [`split`].
pub fn load(config: &DataConfig) -> Result<(Dataset, Splits)> {
    let mut dataset = Dataset::load(config)?;
    let splits = split(&dataset, config)?;
    dataset.warnings.extend(splits.warning(dataset.user.len()));
    Ok((dataset, splits))
}

impl Splits {
    /// What the reader of a result should know of the order of a data set with so many interactions.
    fn warning(&self, interactions: usize) -> Option<String> {
        let n = self.out_of_order;
        (n > 0).then(|| {
            format!(
                "{n} of {interactions} interactions stand before an older one of their user: times are compared in \
                 float32, as in RecBole, where Unix seconds have steps of 64 or 128; `time_precision: float64` orders them exactly"
            )
        })
    }
}

/// A time as the configured precision sees it.
pub(super) fn at_precision(time: f64, precision: TimePrecision) -> f64 {
    match precision {
        TimePrecision::Float32 => f64::from(time as f32),
        TimePrecision::Float64 => time,
    }
}

/// Every user's interactions in order of time; the order of the file decides between equal times.
#[derive(Debug)]
pub struct Histories {
    /// Interactions (indices into the data set's columns), user by user.
    order: Vec<usize>,
    /// Where each user's interactions begin in `order`, and the end of the last one's.
    starts: Vec<usize>,
}

impl Histories {
    /// Sorts the interactions by (user, time), stably.
    pub fn new(dataset: &Dataset, precision: TimePrecision) -> Self {
        let n_users = dataset.users.len();
        let mut starts = vec![0; n_users + 1];
        dataset.user.iter().for_each(|&user| starts[user as usize + 1] += 1);
        (0..n_users).for_each(|user| starts[user + 1] += starts[user]);
        let mut next = starts.clone();
        let mut order = vec![0; dataset.user.len()];
        for (interaction, &user) in dataset.user.iter().enumerate() {
            order[next[user as usize]] = interaction;
            next[user as usize] += 1;
        }
        let time = |&interaction: &usize| at_precision(dataset.time[interaction], precision);
        for user in 0..n_users {
            order[starts[user]..starts[user + 1]].sort_by(|a, b| compare(time(a), time(b)));
        }
        Self { order, starts }
    }

    /// The interactions of one user. Panics if there is no such user.
    pub fn of(&self, user: i64) -> &[usize] {
        &self.order[self.starts[user as usize]..self.starts[user as usize + 1]]
    }

    /// How many interactions stand before an older one of their user, because rounding makes their times equal.
    pub fn out_of_order(&self, dataset: &Dataset) -> usize {
        let of_user = |(_, history): (i64, &[usize])| {
            let mut oldest_behind = f64::INFINITY;
            let times = history.iter().rev().map(|&interaction| dataset.time[interaction]);
            let is_out_of_order = |&time: &f64| {
                let is = time > oldest_behind;
                oldest_behind = oldest_behind.min(time);
                is
            };
            times.filter(is_out_of_order).count()
        };
        self.iter().map(of_user).sum()
    }

    /// All users with their interactions, in the order of their ids; the padding has none.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &[usize])> {
        (1..self.starts.len() as i64 - 1).map(|user| (user, self.of(user)))
    }
}

/// Orders times, none of which is NaN.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

/// How many of a user's rows, the last ones, are not for training: with two rows the second is for the test and none for
/// validation, a single row is for training.
pub fn n_held_out(n_rows: usize) -> usize {
    n_rows.saturating_sub(1).min(2)
}

/// What a user chose, oldest first, by the order of `histories`: every item that the data names for the user.
pub fn history_of(dataset: &Dataset, histories: &Histories, user: i64) -> Vec<i64> {
    let interactions = histories.of(user);
    match &dataset.parts {
        Some(parts) => parts.history(dataset, interactions),
        None => interactions.iter().map(|&interaction| dataset.item[interaction].into()).collect(),
    }
}

/// Cuts the data set as described above, or as its files are cut.
///
/// # Errors
/// No user has two interactions, so that there is nothing to train on; a file of splits has no row to train or to test.
pub fn split(dataset: &Dataset, config: &DataConfig) -> Result<Splits> {
    if let Some(parts) = &dataset.parts {
        return parts.split(dataset, config);
    }
    let histories = Histories::new(dataset, config.time_precision);
    let mut users: Vec<_> = histories.iter().filter(|(_, history)| history.len() > 1).collect();
    if users.is_empty() {
        return Err(Error::new("expected users with two interactions or more, found none after filtering")
            .at(config.data_path.join(&config.dataset))
            .hint("loosen the filters, or check USER_ID_FIELD"));
    }
    let first_row = |history: &[usize]| at_precision(dataset.time[history[1]], config.time_precision);
    users.sort_by(|(_, a), (_, b)| compare(first_row(a), first_row(b)));

    let mut rows = SharedRows::new(config.max_item_list_length);
    for (user, history) in users {
        let held_out = n_held_out(history.len() - 1);
        let part = |target: usize| match history.len() - target {
            1 if held_out >= 1 => 2,
            2 if held_out == 2 => 1,
            _ => 0,
        };
        rows.user(user, history.iter().map(|&interaction| dataset.item[interaction].into()), part);
    }
    let [train, valid, test] = rows.finish();
    Ok(Splits { train, valid, test, out_of_order: histories.out_of_order(dataset) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample;
    use super::*;

    /// Numbers of training, validation and test rows of one user with `n` interactions.
    fn n_rows(n: i64) -> Option<[usize; 3]> {
        let interactions: Vec<_> = (1..=n).map(|item| (1, item, item as f64)).collect();
        let splits = split(&sample::dataset(&interactions), &sample::config()).ok()?;
        Some([splits.train.n(), splits.valid.n(), splits.test.n()])
    }

    #[test]
    fn a_user_of_n_items_has_n_minus_1_rows_and_the_last_two_are_held_out() {
        assert_eq!(n_rows(1), None);
        assert_eq!(n_rows(2), Some([1, 0, 0]));
        assert_eq!(n_rows(3), Some([1, 0, 1]));
        assert_eq!(n_rows(4), Some([1, 1, 1]));
        assert_eq!(n_rows(9), Some([6, 1, 1]));
    }

    #[test]
    fn sequences_are_the_last_l_items_padded_on_the_right() {
        let interactions = [10, 20, 30, 40, 50, 60].map(|time| (1, time / 10, time as f64));
        let splits = split(&sample::dataset(&interactions), &sample::config()).unwrap();
        let padded = |rows: &Rows| (0..rows.n()).map(|row| rows.padded(row).collect()).collect::<Vec<Vec<_>>>();
        assert_eq!(padded(&splits.train), [[1, 0, 0], [1, 2, 0], [1, 2, 3]]);
        assert_eq!(plain(&splits.train).into_iter().map(|row| row.2).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!(plain(&splits.valid), [(1, vec![2, 3, 4], 5)]);
        assert_eq!(plain(&splits.test), [(1, vec![3, 4, 5], 6)]);
    }

    #[test]
    fn float32_times_tie_where_the_exact_ones_do_not_and_the_file_decides() {
        let dataset = sample::dataset(&[(1, 1, 881_250_949.0), (1, 2, 881_250_940.0), (1, 3, 891_250_949.0)]);
        let items = |time_precision| {
            let config = DataConfig { time_precision, ..sample::config() };
            let splits = split(&dataset, &config).unwrap();
            (splits.test.history(0).to_vec(), splits.warning(3))
        };
        let (history, warning) = items(TimePrecision::Float32);
        assert_eq!(history, [1, 2]);
        assert!(warning.is_some_and(|warning| warning.starts_with("1 of 3 interactions stand before an older one")));
        assert_eq!(items(TimePrecision::Float64), (vec![2, 1], None));
    }

    /// The reference's way, literally: sort by (user, time), make rows, sort rows by time, group, cut.
    fn by_definition(dataset: &Dataset, precision: TimePrecision) -> [Vec<(i64, Vec<i64>, i64)>; 3] {
        let time = |i: usize| at_precision(dataset.time[i], precision);
        let mut order: Vec<usize> = (0..dataset.user.len()).collect();
        order.sort_by(|&a, &b| time(a).partial_cmp(&time(b)).unwrap());
        order.sort_by_key(|&i| dataset.user[i]);
        let mut rows = Vec::new();
        for (position, &target) in order.iter().enumerate() {
            let same = order[..position].iter().filter(|&&i| dataset.user[i] == dataset.user[target]);
            let history: Vec<i64> = same.map(|&i| dataset.item[i].into()).collect();
            if !history.is_empty() {
                rows.push((time(target), (dataset.user[target].into(), history, dataset.item[target].into())));
            }
        }
        rows.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
        let mut users: Vec<i64> = Vec::new();
        for (_, (user, ..)) in &rows {
            if !users.contains(user) {
                users.push(*user);
            }
        }
        let [mut train, mut valid, mut test] = [const { Vec::new() }; 3];
        for user in users {
            let mut group: Vec<_> = rows.iter().map(|(_, row)| row.clone()).filter(|row| row.0 == user).collect();
            if group.len() > 1 {
                test.extend(group.pop());
            }
            if group.len() > 1 {
                valid.extend(group.pop());
            }
            train.extend(group);
        }
        [train, valid, test]
    }

    /// Rows as (user, sequence without padding, target).
    fn plain(rows: &Rows) -> Vec<(i64, Vec<i64>, i64)> {
        let history = |i| rows.history(i).iter().map(|&item| item.into()).collect();
        let row = |i: usize| (rows.user(i), history(i), rows.target(i));
        (0..rows.n()).map(row).collect()
    }

    /// (user, item, time); few of each, so that times tie, signed zeros among them.
    fn interactions() -> impl Strategy<Value = Vec<(i64, i64, f64)>> {
        let time = prop_oneof![Just(-0.0), (0..6i32).prop_map(f64::from), (0..40i32).prop_map(|t| 9e8 + f64::from(t))];
        prop::collection::vec((1i64..6, 1i64..9, time), 1..50)
    }

    proptest! {
        #[test]
        fn splits_are_those_of_the_reference(interactions in interactions(), exact: bool) {
            let time_precision = if exact { TimePrecision::Float64 } else { TimePrecision::Float32 };
            let config = DataConfig { max_item_list_length: 50, time_precision, ..sample::config() };
            let dataset = sample::dataset(&interactions);
            let expected = by_definition(&dataset, time_precision);
            match split(&dataset, &config) {
                Ok(splits) => {
                    prop_assert_eq!([&splits.train, &splits.valid, &splits.test].map(plain), expected);
                }
                Err(_) => prop_assert_eq!(expected, [const { Vec::new() }; 3]),
            }
        }

        #[test]
        fn no_interaction_is_lost_and_none_leaks(interactions in interactions()) {
            let dataset = sample::dataset(&interactions);
            let config = DataConfig { max_item_list_length: 50, ..sample::config() };
            let Ok(splits) = split(&dataset, &config) else { return Ok(()) };
            for (user, history) in Histories::new(&dataset, config.time_precision).iter() {
                let items: Vec<i64> = history.iter().map(|&i| dataset.item[i].into()).collect();
                // Training, validation and test rows of a user, in this order, are its history, each row one item on.
                let rows = [&splits.train, &splits.valid, &splits.test].map(plain).concat();
                let rows: Vec<_> = rows.into_iter().filter(|row| row.0 == user).collect();
                prop_assert_eq!(rows.len(), items.len().saturating_sub(1));
                for (i, (_, seq, target)) in rows.iter().enumerate() {
                    prop_assert_eq!((&seq[..], *target), (&items[..=i], items[i + 1]));
                }
            }
        }
    }
}
