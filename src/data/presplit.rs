//! Splits that are files: `benchmark_filename: [train, valid, test]` names `dataset.train.inter` and its like.
//!
//! A row that states its history (`item_id_list`) is taken as it is, in the order of the files, as RecBole takes it.
//!
//! DIFFERENCE: without that column RecBole fails. Here every row becomes a target whose history is what its user did
//! before, in whichever file, as RecBole makes rows of a single file: by user, then by time. Of a history longer than L
//! the last L items count, on which RecBole's position table ends; rows without a history, on which it fails, are left
//! out. The column's items are the data set's items whether `alias_of_item_id` says so or not: without it RecBole gives
//! them numbers of their own, which are other items' rows of the table.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::dataset::Dataset;
use super::parts::Parts;
use super::rows::{Rows, SharedRows};
use super::split::{Histories, Splits};
use super::table::Ragged;
use crate::config::DataConfig;
use crate::{Error, Result};

/// The file and the line of an interaction.
type Place<'a> = dyn Fn(usize) -> (&'a Path, u64) + 'a;

impl Parts {
    /// The rows of each file.
    pub(super) fn split(&self, dataset: &Dataset, config: &DataConfig) -> Result<Splits> {
        let length = config.max_item_list_length;
        let mut out_of_order = 0;
        let [train, valid, test] = match &self.lists {
            Some(lists) => [0, 1, 2].map(|part| {
                let stated = (0..dataset.user.len()).filter(|&i| self.of(i) == part && !lists.row(i).is_empty());
                Rows::new(length, stated.map(|i| (dataset.user[i].into(), lists.row(i), dataset.item[i].into())))
            }),
            None => {
                let mut rows = SharedRows::new(length);
                let histories = Histories::new(dataset, config.time_precision);
                out_of_order = histories.out_of_order(dataset);
                for (user, history) in histories.iter() {
                    let items = history.iter().map(|&interaction| dataset.item[interaction].into());
                    rows.user(user, items, |target| self.of(history[target]));
                }
                rows.finish()
            }
        };
        for (rows, part) in [(&train, 0), (&test, 2)] {
            if rows.n() == 0 {
                let name = config.benchmark_filename.as_ref().map_or("", |names| &names[part]);
                return Err(Error::new("expected rows with a history, found none")
                    .at(config.file(&format!("{name}.inter")))
                    .hint("check the file, and the order of the names in `benchmark_filename`"));
            }
        }
        Ok(Splits { train, valid, test, out_of_order })
    }

    /// What a user chose, oldest first: the latest stated history with its target, and before it what others name besides.
    pub(super) fn history(&self, dataset: &Dataset, interactions: &[usize]) -> Vec<i64> {
        let Some((&last, lists)) = interactions.last().zip(self.lists.as_ref()) else {
            return interactions.iter().map(|&interaction| dataset.item[interaction].into()).collect();
        };
        let stated =
            |interaction: usize| lists.row(interaction).iter().copied().chain([i64::from(dataset.item[interaction])]);
        let mut seen: HashSet<i64> = stated(last).collect();
        let others = interactions.iter().flat_map(|&interaction| stated(interaction)).filter(|&item| seen.insert(item));
        let others: Vec<i64> = others.collect();
        others.into_iter().chain(stated(last)).collect()
    }

    /// Holds the files to each other; returns what the reader of a result should know of them. `place` is an interaction's.
    pub(super) fn check(&self, dataset: &Dataset, config: &DataConfig, place: &Place) -> Result<Vec<String>> {
        match &self.lists {
            Some(lists) => Ok(self.remarks(lists, dataset, config, place)),
            None => self.check_order(dataset, config, place),
        }
    }

    /// What there is to say of stated histories.
    fn remarks(&self, lists: &Ragged, dataset: &Dataset, config: &DataConfig, place: &Place) -> Vec<String> {
        let mut remarks = Vec::new();
        let n = dataset.user.len();
        let (repeated, _) = self.repeated(dataset, config);
        if repeated > 0 {
            remarks.push(format!("{repeated} of {n} rows of `benchmark_filename` are in another of the files, too"));
        }
        let empty: Vec<usize> = (0..n).filter(|&interaction| lists.row(interaction).is_empty()).collect();
        if let Some(&first) = empty.first() {
            let ((path, line), list) = (place(first), config.list_field());
            remarks.push(format!(
                "{} of {n} rows of `benchmark_filename` have an empty `{list}` and are left out, the first on line {line} of {}",
                empty.len(),
                path.display()
            ));
        }
        let longest = (0..n).map(|interaction| lists.row(interaction).len()).max().unwrap_or(0);
        let length = config.max_item_list_length;
        if longest > length {
            remarks.push(format!(
                "histories of up to {longest} items are cut to their last {length} (`MAX_ITEM_LIST_LENGTH`)"
            ));
        }
        remarks
    }

    /// Refuses files without histories that do not say what came before what.
    fn check_order(&self, dataset: &Dataset, config: &DataConfig, place: &Place) -> Result<Vec<String>> {
        let refuse = |first: usize, problem: String, cure: String| {
            let (path, line) = place(first);
            Err(Error::new(problem).at(path).line(line).hint(cure))
        };
        let names: Vec<&str> = config.benchmark_filename.iter().flatten().map(String::as_str).collect();
        if let Some(twice) = (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
            let problem = format!("expected three files in `benchmark_filename`, found `{}` twice", names[twice]);
            let cure = format!("write each row's history in a column `{}`, or give three files", config.list_field());
            return Err(Error::new(problem).at(config.file(&format!("{}.inter", names[twice]))).hint(cure));
        }
        if let (repeated, Some(first)) = self.repeated(dataset, config) {
            let problem = format!(
                "expected each interaction in one file of `benchmark_filename`, found {repeated} in a second one, too"
            );
            return refuse(first, problem, "leave out of each file what another has".to_owned());
        }
        let histories = Histories::new(dataset, config.time_precision);
        let older = self.older(&histories);
        if let Some(&first) = older.iter().min() {
            let (names, n) = (names.join(", "), older.len());
            let problem = format!(
                "expected every user's rows in the order of the files {names}, found {n} that are older than a row of an \
                 earlier file"
            );
            let cure = format!("cut by time, or write each row's history in a column `{}`", config.list_field());
            return refuse(first, problem, cure);
        }
        let begins_late = |history: &[usize]| history.first().is_some_and(|&first| self.of(first) > 0);
        let new = histories.iter().filter(|(_, history)| begins_late(history)).count();
        let remark = || format!("{new} rows to validate or to test are their user's first and are left out");
        Ok((new > 0).then(remark).into_iter().collect())
    }

    /// How many interactions are in a file of another name, too, and one of them.
    fn repeated(&self, dataset: &Dataset, config: &DataConfig) -> (usize, Option<usize>) {
        let names = config.benchmark_filename.as_ref();
        let name = |interaction: usize| names.map_or("", |names| &names[self.of(interaction)]);
        let mut seen = HashMap::with_capacity(dataset.user.len());
        let mut repeated = (0..dataset.user.len()).filter(|&i| {
            let list = self.lists.as_ref().map_or(&[] as &[i64], |lists| lists.row(i));
            let key = (dataset.user[i], dataset.item[i], dataset.time[i].to_bits(), list);
            *seen.entry(key).or_insert(name(i)) != name(i)
        });
        let first = repeated.next();
        (usize::from(first.is_some()) + repeated.count(), first)
    }

    /// The interactions that are older than one of their user in an earlier file.
    fn older(&self, histories: &Histories) -> Vec<usize> {
        let mut older = Vec::new();
        for (_, history) in histories.iter() {
            let mut earliest = 2;
            older.extend(history.iter().rev().filter(|&&interaction| {
                earliest = earliest.min(self.of(interaction));
                self.of(interaction) > earliest
            }));
        }
        older
    }
}
