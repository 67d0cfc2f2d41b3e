//! The data set of a run: interactions and attributes after filtering, with ids.
//!
//! The steps and their order are RecBole 1.0.1's: rows without user or item go, then repeated pairs (`rm_dup_inter`),
//! then items without a row in the `.item` file (`filter_inter_by_user_or_item`), then all that is outside the k-core;
//! users, items and attribute tokens get ids by first appearance in what is left; missing values are filled. Of splits
//! that are files (`benchmark_filename`) the rows are taken as they are, and items that only histories name come last.
//!
//! DIFFERENCE: a `.user` file, of which the model takes no attributes, is read only where `load_col` names `user`, as the
//! notebook's does not. An item with two rows in the `.item` file is an error; the reference silently repeats the item.

use super::atomic::Format;
use super::interactions::{Filtering, Interactions, fill_times};
use super::items::{Attribute, IDS_PER_BYTE, ItemFile, read_users};
use super::parts::Parts;
use super::vocabulary::{Renumbering, Vocabulary};
use super::warnings;
use crate::config::{DataConfig, Interval};
use crate::{Error, Result};

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
    pub user: Vec<u32>,
    /// The item of each interaction.
    pub item: Vec<u32>,
    /// The time of each interaction, as in the file: finite or infinite, never NaN.
    pub time: Vec<f64>,
    /// The splits that the files state, under `benchmark_filename`.
    pub parts: Option<Parts>,
    /// The columns that were loaded: the `.inter` file's, then the `.item` file's.
    pub remain_fields: Vec<String>,
    /// How many rows each filter dropped.
    pub filtering: Filtering,
    /// What the reader of a result should know of the files, one sentence each.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// Reads `data_path/dataset/dataset.inter`, or the files of `benchmark_filename`, and `.item` if it is there, and
    /// filters them.
    ///
    /// # Errors
    /// A file cannot be read or is not an atomic file; a column that the configuration needs is missing or of another
    /// type; an item has two rows in the `.item` file; no time is known; nothing is left after filtering; files of
    /// splits contradict each other.
    pub fn load(config: &DataConfig) -> Result<Self> {
        let format = Format { field_separator: config.field_separator, seq_separator: &config.seq_separator };
        let mut inter = Interactions::read(config, format)?;
        let mut all_items = inter.items.vocabulary.clone();
        let item_path = config.file("item");
        let item_file = ItemFile::read(&item_path, format, config, &mut all_items)?;
        let listed_items = item_file.iter().flat_map(|file| &file.rows).map(|&(_, item)| item);
        let listed = marked(all_items.len(), listed_items);
        let all_users = &mut inter.users.vocabulary;
        let user_rows = read_users(config, format, all_users)?;
        let listed_users = user_rows.as_ref().map(|rows| marked(all_users.len(), rows.iter().copied()));
        let list_items = inter.lists.as_ref().map(|lists| lists.vocabulary.ids_in(&mut all_items));
        let (core, filtering) = inter.filter(&listed, item_file.is_some(), listed_users.as_deref())?;

        // Ids.
        let mut user_ids = Renumbering::new(&inter.users.vocabulary);
        let user = core.rows.iter().map(|&row| user_ids.id(inter.users.ids[row]) as u32).collect();
        // Listed users without interactions come last, where nothing asks for interactions of theirs.
        let from_none = |interval: &Interval| interval.low <= 0.0;
        if config.benchmark_filename.is_some() || config.user_inter_num_interval.as_ref().is_none_or(from_none) {
            for &user in user_rows.iter().flatten() {
                user_ids.id(user);
            }
        }
        let mut item_ids = Renumbering::new(&all_items);
        let item = core.rows.iter().map(|&row| item_ids.id(inter.items.ids[row]) as u32).collect();
        let item_rows: Vec<(usize, i64)> = item_file
            .iter()
            .flat_map(|file| &file.rows)
            .filter(|&&(_, item)| !core.banned_items[item as usize])
            .map(|&(row, item)| (row, item_ids.id(item)))
            .collect();
        let list_items = list_items.unwrap_or_default();
        let parts = (config.benchmark_filename.as_ref())
            .map(|_| Parts::new(&inter, &core.rows, |token| item_ids.id(list_items[token as usize])));
        let items = item_ids.finish();
        let mut warnings =
            warnings::of(config, &inter, item_file.as_ref(), &filtering, &listed, listed_users.as_deref());

        let times = core.rows.iter().map(|&row| inter.times[row]);
        let time = if inter.lists.is_some() {
            // The histories say what came before what.
            times.map(|time| if time.is_nan() { 0.0 } else { time }).collect()
        } else {
            let times: Vec<f64> = times.collect();
            warnings.extend(warnings::unknown_times(&times));
            fill_times(times).map_err(|error| error.at(inter.path()).column(&config.time_field))?
        };
        let attributes = attributes(config, item_file.as_ref(), &item_rows, &items)?;

        let mut remain_fields: Vec<String> = Vec::new();
        for column in inter.tables.iter().chain(item_file.iter().map(|file| &file.table)).flat_map(|t| t.columns()) {
            if !remain_fields.contains(&column.name) {
                remain_fields.push(column.name.clone());
            }
        }
        let name = config.dataset.clone();
        let users = user_ids.finish();
        let mut dataset =
            Self { name, users, items, attributes, user, item, time, parts, remain_fields, filtering, warnings };
        if let Some(parts) = &dataset.parts {
            let place = |interaction: usize| inter.place(core.rows[interaction]);
            let warnings = parts.check(&dataset, config, place)?;
            dataset.warnings.extend(warnings);
        }
        Ok(dataset)
    }
}

/// Which of `n` ids are among `ids`.
fn marked(n: usize, ids: impl Iterator<Item = i64>) -> Vec<bool> {
    let mut marked = vec![false; n];
    ids.for_each(|id| marked[id as usize] = true);
    marked
}

/// The attributes of `selected_features` for all `items`, of which `rows` are those that have a row of the file.
fn attributes(
    config: &DataConfig,
    file: Option<&ItemFile>,
    rows: &[(usize, i64)],
    items: &Vocabulary,
) -> Result<Vec<Attribute>> {
    let path = config.file("item");
    // Padding is no part of the file: a long list and many items could ask for the square of the file's size.
    let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len() as usize);
    let mut room = (1 << 18) + IDS_PER_BYTE * bytes.max(items.len());
    let attribute = |name: &String| {
        let file = file.ok_or_else(|| {
            Error::new(format!("expected this file, which `selected_features` needs for `{name}`, found none"))
                .at(&path)
                .hint("fetch the file, name it in `load_col`, or remove the feature")
        })?;
        match *name == config.item_id_field {
            true => Ok(Attribute::of_items(name, items)),
            false => Attribute::new(name, &file.table, rows, items.len(), &mut room),
        }
    };
    config.selected_features.iter().map(attribute).collect()
}
