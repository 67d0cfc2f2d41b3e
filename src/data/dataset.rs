//! The data set of a run: interactions and attributes after filtering, with ids.
//!
//! The steps and their order are RecBole 1.0.1's: rows without user or item go, then repeated pairs (`rm_dup_inter`),
//! then items without a row in the `.item` file (`filter_inter_by_user_or_item`), then all that is outside the k-core;
//! users, items and attribute tokens get ids by first appearance in what is left; missing values are filled.
//!
//! DIFFERENCE: a `.user` file is not read, since the model takes no user attributes and the notebook's `load_col` does
//! not name the file. An item with two rows in the `.item` file is an error; the reference silently repeats the item.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use super::atomic::{self, Format};
use super::filter::{self, Core, Limits};
use super::table::{Table, Tokens, Values};
use super::vocabulary::{Renumbering, Vocabulary};
use crate::config::{AttributeKind, DataConfig, Interval, Keep};
use crate::{Error, Result};

/// Ids that all attributes together may take, padding included, for each byte of the `.item` file: 128 bytes of memory.
const IDS_PER_BYTE: usize = 16;

/// Interactions and attributes after filtering.
#[derive(Debug)]
pub struct Dataset {
    /// `dataset`: the name.
    pub name: String,
    /// The users that occur, by first appearance.
    pub users: Vocabulary,
    /// The items that occur, by first appearance, then those that only the `.item` file has.
    pub items: Vocabulary,
    /// In the order of `selected_features`.
    pub attributes: Vec<Attribute>,
    /// The user of each interaction. Interactions are in the order of the file, or of time after `rm_dup_inter`.
    pub user: Vec<i64>,
    /// The item of each interaction.
    pub item: Vec<i64>,
    /// The time of each interaction, as in the file: finite or infinite, never NaN.
    pub time: Vec<f64>,
    /// The columns that were loaded: the `.inter` file's, then the `.item` file's.
    pub remain_fields: Vec<String>,
    /// How many rows each filter dropped.
    pub filtering: Filtering,
}

/// A side information of every item.
#[derive(Debug)]
pub struct Attribute {
    /// Its name in the `.item` file.
    pub name: String,
    /// One token an item, or a list.
    pub kind: AttributeKind,
    /// Its tokens.
    pub vocab: Vocabulary,
    /// S: the longest sequence of tokens, at least 1; 1 for [`AttributeKind::Token`].
    pub width: usize,
    /// `[n_items, S]`, row-major: ids of `vocab`, right-padded with 0. Items without a row are all padding.
    pub ids: Vec<i64>,
}

/// Rows of the `.inter` file, and how many of them each filter dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Filtering {
    /// All of them.
    pub rows_in_file: usize,
    /// User or item missing.
    pub without_user_or_item: usize,
    /// `rm_dup_inter`.
    pub duplicates: usize,
    /// `val_interval`.
    pub outside_values: usize,
    /// `filter_inter_by_user_or_item`.
    pub without_item_row: usize,
    /// `user_inter_num_interval` and `item_inter_num_interval`.
    pub outside_intervals: usize,
}

/// The columns of the `.inter` file that a data set is made of.
struct Interactions<'a> {
    path: &'a Path,
    users: &'a Tokens,
    items: &'a Tokens,
    times: &'a [f64],
    /// `val_interval`'s columns.
    values: Vec<(&'a Interval, &'a [f64])>,
}

/// The `.item` file and its rows by item.
struct ItemFile {
    table: Table,
    /// The rows that name an item, with the item's id among all items of both files.
    rows: Vec<(usize, i64)>,
}

impl Dataset {
    /// Reads `data_path/dataset/dataset.inter`, and `.item` if it is there, and filters them.
    ///
    /// # Errors
    /// A file cannot be read or is not an atomic file; a column that the configuration needs is missing or of another
    /// type; an item has two rows in the `.item` file; no time is known; nothing is left after filtering.
    pub fn load(config: &DataConfig) -> Result<Self> {
        let folder = config.data_path.join(&config.dataset);
        let file = |suffix: &str| folder.join(format!("{}.{suffix}", config.dataset));
        let format = Format { field_separator: config.field_separator, seq_separator: &config.seq_separator };

        let inter_path = file("inter");
        let inter = atomic::read(&inter_path, format, config.load_inter.as_deref()).map_err(|error| {
            if inter_path.is_file() { error } else { error.hint("check `data_path` and `dataset`, or fetch the data") }
        })?;
        let interactions = Interactions {
            path: &inter_path,
            users: inter.tokens(&config.user_id_field, "USER_ID_FIELD")?,
            items: inter.tokens(&config.item_id_field, "ITEM_ID_FIELD")?,
            times: inter.floats(&config.time_field, "TIME_FIELD")?,
            values: (config.val_interval.iter())
                .map(|(column, interval)| Ok((interval, inter.floats(column, "val_interval")?)))
                .collect::<Result<_>>()?,
        };
        let Interactions { users, items, times, .. } = interactions;
        let mut all_items = items.vocabulary.clone();
        let item_file = ItemFile::read(&file("item"), format, config, &mut all_items)?;
        let mut listed = vec![false; all_items.len()];
        item_file.iter().flat_map(|file| &file.rows).for_each(|&(_, item)| listed[item as usize] = true);
        let (core, filtering) = interactions.filter(config, &listed, item_file.is_some())?;

        // Ids.
        let mut user_ids = Renumbering::new(&users.vocabulary);
        let user = core.rows.iter().map(|&row| user_ids.id(users.ids[row])).collect();
        let mut item_ids = Renumbering::new(&all_items);
        let item = core.rows.iter().map(|&row| item_ids.id(items.ids[row])).collect();
        let item_rows: Vec<(usize, i64)> = item_file
            .iter()
            .flat_map(|file| &file.rows)
            .filter(|&&(_, item)| !core.banned_items[item as usize])
            .map(|&(row, item)| (row, item_ids.id(item)))
            .collect();
        let items = item_ids.finish();

        let time = fill_times(core.rows.iter().map(|&row| times[row]).collect())
            .map_err(|error| error.at(&inter_path).column(&config.time_field))?;
        // Padding is no part of the file: a long list and many items could ask for the square of the file's size.
        let bytes = std::fs::metadata(file("item")).map_or(0, |metadata| metadata.len() as usize);
        let mut room = (1 << 18) + IDS_PER_BYTE * bytes.max(items.len());
        let attributes = config
            .selected_features
            .iter()
            .map(|name| {
                let file = item_file.as_ref().ok_or_else(|| {
                    Error::new(format!("expected this file, which `selected_features` needs for `{name}`, found none"))
                        .at(file("item"))
                        .hint("fetch the file, name it in `load_col`, or remove the feature")
                })?;
                Attribute::new(name, &file.table, &item_rows, items.len(), &mut room)
            })
            .collect::<Result<_>>()?;

        let mut remain_fields: Vec<String> = Vec::new();
        for column in inter.columns().iter().chain(item_file.iter().flat_map(|file| file.table.columns())) {
            if !remain_fields.contains(&column.name) {
                remain_fields.push(column.name.clone());
            }
        }
        let users = user_ids.finish();
        Ok(Self { name: config.dataset.clone(), users, items, attributes, user, item, time, remain_fields, filtering })
    }
}

impl Interactions<'_> {
    /// The interactions that all filters leave, and how many each dropped. `listed` are the items of the `.item` file.
    fn filter(&self, config: &DataConfig, listed: &[bool], has_item_file: bool) -> Result<(Core, Filtering)> {
        let (users, items) = (&self.users.ids, &self.items.ids);
        let rows_in_file = users.len();
        let emptied = |dropped: usize, by: &str| {
            Error::new(format!(
                "expected interactions to be left, found none: {by} dropped the last {dropped} of {rows_in_file}"
            ))
            .at(self.path)
            .hint("correct the data or loosen the filter")
        };
        let mut rows: Vec<usize> = (0..rows_in_file).collect();
        if rows.is_empty() {
            return Err(Error::new("expected interactions, found a header alone")
                .at(self.path)
                .hint("fetch or write the file again"));
        }

        rows.retain(|&row| users[row] != 0 && items[row] != 0);
        let with_ids = rows.len();
        if rows.is_empty() {
            return Err(emptied(rows_in_file, "missing users or items"));
        }

        if let Some(keep) = config.rm_dup_inter {
            drop_duplicates(&mut rows, keep, users, items, self.times);
        }
        let distinct = rows.len();

        for (interval, values) in &self.values {
            rows.retain(|&row| interval.contains(values[row]));
        }
        let with_value = rows.len();
        if rows.is_empty() {
            return Err(emptied(distinct, "`val_interval`"));
        }

        if config.filter_inter_by_user_or_item && has_item_file {
            rows.retain(|&row| listed[items[row] as usize]);
        }
        let with_item_row = rows.len();
        if rows.is_empty() {
            return Err(emptied(with_value, "`filter_inter_by_user_or_item` (no item has a row in the .item file)"));
        }

        let limits =
            Limits { users: config.user_inter_num_interval.as_ref(), items: config.item_inter_num_interval.as_ref() };
        let core = filter::k_core(rows, users, items, listed, &limits);
        if core.rows.is_empty() {
            return Err(emptied(with_item_row, &describe(&limits)));
        }
        let filtering = Filtering {
            rows_in_file,
            without_user_or_item: rows_in_file - with_ids,
            duplicates: with_ids - distinct,
            outside_values: distinct - with_value,
            without_item_row: with_value - with_item_row,
            outside_intervals: with_item_row - core.rows.len(),
        };
        Ok((core, filtering))
    }
}

impl ItemFile {
    /// The file at `path`, if it is there and to be loaded. Its items get ids in `items` after those already there.
    fn read(path: &Path, format: Format, config: &DataConfig, items: &mut Vocabulary) -> Result<Option<Self>> {
        let load = config.load_item.as_deref();
        if load.is_some_and(<[_]>::is_empty) || !path.exists() {
            return Ok(None);
        }
        let table = atomic::read(path, format, load)?;
        let column = table.tokens(&config.item_id_field, "ITEM_ID_FIELD")?;
        // The id in `items` of each item of this file, and the row that named it.
        let ids: Vec<i64> = column.vocabulary.iter().skip(1).map(|token| items.intern(token)).collect();
        let mut row_of: Vec<Option<usize>> = vec![None; ids.len()];
        let mut rows = Vec::with_capacity(table.n_rows());
        for (row, &id) in column.ids.iter().enumerate().filter(|&(_, &id)| id != 0) {
            let known = (id - 1) as usize;
            if let Some(first) = row_of[known].replace(row) {
                let token = column.vocabulary.token(id).unwrap_or_default();
                return Err(Error::new(format!(
                    "expected one row an item, found a second one for `{token}`, which line {} has",
                    table.line(first)
                ))
                .at(path)
                .line(table.line(row))
                .column(&config.item_id_field)
                .hint("remove one of the two"));
            }
            rows.push((row, ids[known]));
        }
        Ok(Some(Self { table, rows }))
    }
}

impl Attribute {
    /// The column `name` of the item file. `rows` are the rows that are left, each with the id of its item; `room` is how many
    /// ids the attributes before it have left.
    fn new(name: &str, table: &Table, rows: &[(usize, i64)], n_items: usize, room: &mut usize) -> Result<Self> {
        const KEY: &str = "selected_features";
        if rows.is_empty() {
            return Err(Error::new(format!("expected items to be left for the attribute `{name}`, found none"))
                .at(table.path())
                .hint("check that the .inter and the .item file name the same items"));
        }
        let column = table.column(name, KEY)?;
        let (kind, vocabulary) = match column {
            Values::Token(tokens) => (AttributeKind::Token, &tokens.vocabulary),
            Values::TokenSeq(tokens) => (AttributeKind::TokenSeq, &tokens.vocabulary),
            other => return Err(table.wrong_type(name, KEY, "token or token_seq", other)),
        };
        let (width, widest) = rows.iter().map(|&(row, _)| (column.token_ids(row).len(), row)).max().unwrap_or((0, 0));
        let width = width.max(1);
        *room = room.checked_sub(n_items.saturating_mul(width)).ok_or_else(|| {
            Error::new(format!(
                "expected lists of tokens that all items can be padded to, found one of {width}, for {n_items} items"
            ))
            .at(table.path())
            .line(table.line(widest))
            .column(name)
            .hint(
                "shorten the list, or select fewer features: the padding of all would take more than 128 times the memory \
                 of the file",
            )
        })?;
        let mut renumbering = Renumbering::new(vocabulary);
        let mut ids = vec![0; n_items * width];
        for &(row, item) in rows {
            let cells = &mut ids[item as usize * width..][..width];
            cells.iter_mut().zip(column.token_ids(row)).for_each(|(cell, &token)| *cell = renumbering.id(token));
        }
        let vocab = renumbering.finish();
        if vocab.len() == 1 {
            return Err(Error::new(format!(
                "expected tokens of `selected_features`, found none in the {} items left",
                rows.len()
            ))
            .at(table.path())
            .column(name)
            .hint("fill the column, or remove the feature"));
        }
        Ok(Self { name: name.to_owned(), kind, vocab, width, ids })
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
fn fill_times(mut times: Vec<f64>) -> Result<Vec<f64>> {
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

/// The k-core's limits, by their keys.
fn describe(limits: &Limits) -> String {
    let named = [("user_inter_num_interval", limits.users), ("item_inter_num_interval", limits.items)];
    let described = named.iter().filter_map(|(key, interval)| interval.map(|interval| format!("`{key}` {}", interval)));
    described.collect::<Vec<_>>().join(" with ")
}
