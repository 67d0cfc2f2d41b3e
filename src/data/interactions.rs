//! The `.inter` file, or the three that hold the splits, and what filters leave of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::atomic::{self, Columns, Format};
use super::filter::{self, Core, Side};
use super::table::{Table, TokenSeqs, Tokens};
use crate::config::{DataConfig, Keep};
use crate::{Error, Result};

/// Rows of the `.inter` file, and how many of them each filter dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Filtering {
    /// All of them.
    pub rows_in_file: usize,
    /// User or item missing.
    pub without_user_or_item: usize,
    /// `rm_dup_inter`.
    pub duplicates: usize,
    /// `val_interval`.
    pub outside_values: usize,
    /// `filter_inter_by_user_or_item`: the user is not in the `.user` file.
    pub without_user_row: usize,
    /// `filter_inter_by_user_or_item`: the item is not in the `.item` file.
    pub without_item_row: usize,
    /// `user_inter_num_interval` and `item_inter_num_interval`.
    pub outside_intervals: usize,
}

/// The columns that a data set is made of, the rows of several files one behind the other.
pub(super) struct Interactions<'a> {
    config: &'a DataConfig,
    pub tables: Vec<Table>,
    pub users: Tokens,
    pub items: Tokens,
    /// NaN where unknown; without a column of times, where none is needed, 0.
    pub times: Vec<f64>,
    /// `val_interval`'s columns.
    values: Vec<Vec<f64>>,
    /// The history of each row, where the files state it.
    pub lists: Option<TokenSeqs>,
}

impl<'a> Interactions<'a> {
    /// Reads `dataset.inter`, or the three files of `benchmark_filename`.
    pub fn read(config: &'a DataConfig, format: Format) -> Result<Self> {
        let list = config.list_field();
        let mut read: Vec<&str> = vec![&config.user_id_field, &config.item_id_field, &config.time_field];
        let parts = config.benchmark_filename.as_ref();
        // Files of splits are not filtered.
        let filters = if parts.is_some() { &[] } else { &config.val_interval[..] };
        read.extend(filters.iter().map(|(column, _)| column.as_str()));
        read.extend(parts.map(|_| list.as_str()));
        let cure = config.leave_out("inter", &read);
        let (load, unload) = (config.load_inter.as_deref(), &config.unload_inter[..]);
        let columns = Columns { load, unload, read: &read, cure: &cure };
        let files = match parts {
            None => vec![config.file("inter")],
            Some(parts) => parts.iter().map(|part| config.file(&format!("{part}.inter"))).collect(),
        };
        let mut this = Self {
            config,
            tables: Vec::new(),
            users: Tokens::default(),
            items: Tokens::default(),
            times: Vec::new(),
            values: vec![Vec::new(); filters.len()],
            lists: None,
        };
        let tables = files.iter().map(|file| {
            atomic::read(file, format, columns).map_err(|error| match file.is_file() {
                true => error,
                false => error.hint("check `data_path` and `dataset`, or get public data by `dif-sr data fetch`"),
            })
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        let with_lists = parts.is_some() && has_lists(&tables, &list)?;
        tables.into_iter().try_for_each(|table| this.add(table, with_lists))?;
        Ok(this)
    }

    /// Adds the rows of one file.
    fn add(&mut self, mut table: Table, with_lists: bool) -> Result<()> {
        let config = self.config;
        self.users.append(table.take_tokens(&config.user_id_field, "USER_ID_FIELD")?);
        self.items.append(table.take_tokens(&config.item_id_field, "ITEM_ID_FIELD")?);
        if with_lists {
            let lists = table.take_token_seqs(&config.list_field(), "benchmark_filename")?;
            self.lists.get_or_insert_default().append(lists);
        }
        // Stated histories need no times.
        let time = &config.time_field;
        if with_lists && table.columns().iter().all(|column| column.name != *time) {
            self.times.resize(self.times.len() + table.n_rows(), 0.0);
        } else {
            self.times.extend(table.floats(time, "TIME_FIELD")?);
        }
        for ((column, _), values) in config.val_interval.iter().zip(&mut self.values) {
            values.extend(table.floats(column, "val_interval")?);
        }
        self.tables.push(table);
        Ok(())
    }

    /// The file of the only table, or the folder of several.
    pub fn path(&self) -> PathBuf {
        match &self.tables[..] {
            [table] => table.path().to_owned(),
            _ => self.config.data_path.join(&self.config.dataset),
        }
    }

    /// The file and the line of a row.
    pub fn place(&self, mut row: usize) -> (&Path, u64) {
        for table in &self.tables {
            if row < table.n_rows() {
                return (table.path(), table.line(row));
            }
            row -= table.n_rows();
        }
        (Path::new(""), 0)
    }

    /// The interactions that all filters leave, and how many each dropped. Users and items are listed that the `.user` and the
    /// `.item` file have, if there is one.
    pub fn filter(&self, listed_users: Option<&[bool]>, listed_items: Option<&[bool]>) -> Result<(Core, Filtering)> {
        let (config, users, items) = (self.config, &self.users.ids, &self.items.ids);
        let rows_in_file = users.len();
        let mut rows: Vec<usize> = (0..rows_in_file).collect();
        if rows.is_empty() {
            return Err(Error::new("expected interactions, found a header alone")
                .at(self.path())
                .hint("fetch or write the file again"));
        }
        let mut filtering = Filtering { rows_in_file, ..Filtering::default() };
        let dropped = |before: usize, after: usize, by: &str| match before - after {
            all if after == 0 => Err(Error::new(format!(
                "expected interactions to be left, found none: {by} dropped the last {all} of {rows_in_file}"
            ))
            .at(self.path())
            .hint("correct the data or loosen the filter")),
            some => Ok(some),
        };
        let keep = |rows: &mut Vec<usize>, by: &str, keep: &dyn Fn(usize) -> bool| {
            let before = rows.len();
            rows.retain(|&row| keep(row));
            dropped(before, rows.len(), by)
        };

        let has_ids = |row: usize| users[row] != 0 && items[row] != 0;
        filtering.without_user_or_item = keep(&mut rows, "missing users or items", &has_ids)?;
        let mut users = Side { ids: users, listed: listed_users, interval: config.user_inter_num_interval.as_ref() };
        let mut items = Side { ids: items, listed: listed_items, interval: config.item_inter_num_interval.as_ref() };
        if config.benchmark_filename.is_some() {
            // RecBole filters nothing then.
            (users.interval, items.interval) = (None, None);
            return Ok((filter::k_core(rows, &users, &items), filtering));
        }
        if let Some(keep) = config.rm_dup_inter {
            let before = rows.len();
            drop_duplicates(&mut rows, keep, users.ids, items.ids, &self.times);
            filtering.duplicates = before - rows.len();
        }
        let inside = |row: usize| {
            config.val_interval.iter().zip(&self.values).all(|((_, interval), values)| interval.contains(values[row]))
        };
        filtering.outside_values = keep(&mut rows, "`val_interval`", &inside)?;
        if config.filter_inter_by_user_or_item {
            let has_row = |side: &Side, row: usize| side.listed.is_none_or(|listed| listed[side.ids[row] as usize]);
            let by = |what| format!("`filter_inter_by_user_or_item` (no {what} has a row in the .{what} file)");
            filtering.without_user_row = keep(&mut rows, &by("user"), &|row| has_row(&users, row))?;
            filtering.without_item_row = keep(&mut rows, &by("item"), &|row| has_row(&items, row))?;
        }
        let before = rows.len();
        let core = filter::k_core(rows, &users, &items);
        filtering.outside_intervals = dropped(before, core.rows.len(), &describe(&users, &items))?;
        Ok((core, filtering))
    }
}

/// Whether all files of the splits state the histories in the column `list`.
fn has_lists(tables: &[Table], list: &str) -> Result<bool> {
    let with = |table: &&Table| table.header().iter().any(|name| name == list);
    let (some, others): (Vec<_>, Vec<_>) = tables.iter().partition(with);
    match (some.first(), others.first()) {
        (Some(with), Some(without)) => Err(Error::new(format!(
            "expected each file of `benchmark_filename` to have the column, or none, found it in {} alone",
            with.path().display()
        ))
        .at(without.path())
        .column(list)
        .hint("write the history of every row, or leave the column out of all files")),
        (some, _) => Ok(some.is_some()),
    }
}

/// Sorts by time (stable, unknown times last) and leaves the first or the last row of each (user, item) pair.
fn drop_duplicates(rows: &mut Vec<usize>, keep: Keep, users: &[i64], items: &[i64], times: &[f64]) {
    rows.sort_by(|&a, &b| {
        let (a, b) = (times[a], times[b]);
        a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    });
    let mut seen = HashSet::with_capacity(rows.len());
    let mut is_new = |&row: &usize| seen.insert((users[row], items[row]));
    match keep {
        Keep::First => rows.retain(is_new),
        Keep::Last => {
            rows.reverse();
            rows.retain(|row| is_new(row));
            rows.reverse();
        }
    }
}

/// Fills unknown times with the mean of the known ones.
pub(super) fn fill_times(mut times: Vec<f64>) -> Result<Vec<f64>> {
    let known = times.iter().filter(|time| !time.is_nan());
    let (n, sum) = known.fold((0, 0.0), |(n, sum), time| (n + 1, sum + time));
    if n < times.len() {
        let mean = sum / n as f64;
        if mean.is_nan() {
            return Err(Error::new("expected times, found none from which the missing ones could be filled")
                .hint("give the interactions finite times"));
        }
        times.iter_mut().filter(|time| time.is_nan()).for_each(|time| *time = mean);
    }
    Ok(times)
}

/// The k-core's intervals, by their keys.
fn describe(users: &Side, items: &Side) -> String {
    let named = [("user_inter_num_interval", users.interval), ("item_inter_num_interval", items.interval)];
    let described = named.iter().filter_map(|(key, interval)| interval.map(|interval| format!("`{key}` {interval}")));
    described.collect::<Vec<_>>().join(" with ")
}
