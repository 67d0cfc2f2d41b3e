//! The data set of a run: interactions and attributes after filtering, with ids.
//!
//! The steps and their order are RecBole 1.0.1's: rows without user or item go, then repeated pairs (`rm_dup_inter`),
//! then values outside of `val_interval`, then users and items without a row in the `.user` and the `.item` file
//! (`filter_inter_by_user_or_item`), then all that is outside the k-core;
//! users, items and attribute tokens get ids by first appearance in what is left; missing values are filled. Of splits
//! that are files (`benchmark_filename`) the rows are taken as they are, and items that only histories name come last.
//!
//! DIFFERENCE: a `.user` file, of which the model takes no attributes, is read only where `load_col` names `user`, as the
//! notebook's does not. An item with two rows in the `.item` file is an error; the reference silently repeats the item.

use super::atomic::Format;
use super::interactions::{Filtering, Interactions, fill_times};
use super::items::{Attribute, IDS_PER_BYTE, ItemFile, UserFile};
use super::parts::Parts;
use super::table::Table;
use super::vocabulary::{Renumbering, Vocabulary};
use super::warnings;
use crate::config::DataConfig;
use crate::{Error, Result};

/// Interactions and attributes after filtering.
#[derive(Debug)]
pub struct Dataset {
    /// `dataset`: the name.
    pub name: String,
    /// The users that occur, by first appearance, then those that only the `.user` file has.
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
    /// The columns that were loaded: the `.inter` file's, then the `.user` file's, then the `.item` file's.
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
        let inter = Interactions::read(config, format)?;
        let mut all_items = inter.items.vocabulary.clone();
        let item_path = config.file("item");
        let item_file = ItemFile::read(&item_path, format, config, &mut all_items)?;
        let listed_items =
            item_file.as_ref().map(|file| marked(all_items.len(), file.rows.iter().map(|&(_, item)| item)));
        let user_file = UserFile::read(config, format, &inter.users.vocabulary)?;
        let all_users = user_file.as_ref().map_or(&inter.users.vocabulary, |file| &file.users);
        let listed_users = user_file.as_ref().map(|file| marked(all_users.len(), file.rows.iter().copied()));
        let list_items = inter.lists.as_ref().map(|lists| lists.vocabulary.ids_in(&mut all_items));
        let (core, filtering) = inter.filter(listed_users.as_deref(), listed_items.as_deref())?;

        // Ids.
        let mut user_ids = Renumbering::new(all_users);
        let user = core.rows.iter().map(|&row| user_ids.id(inter.users.ids[row]) as u32).collect();
        // Listed users without interactions come last, where nothing asks for interactions of theirs.
        let listed = user_file.iter().flat_map(|file| &file.rows);
        for &user in listed.filter(|&&user| !core.banned_users[user as usize]) {
            user_ids.id(user);
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
        let listed_items = item_file.as_ref().zip(listed_items.as_deref());
        let mut warnings = warnings::of(config, &inter, &filtering, listed_users.as_deref(), listed_items);

        let times = core.rows.iter().map(|&row| inter.times[row]);
        let time = if inter.lists.is_some() {
            // The histories say what came before what.
            times.map(|time| if time.is_nan() { 0.0 } else { time }).collect()
        } else {
            let times: Vec<f64> = times.collect();
            warnings.extend(warnings::unknown_times(&times, &core.rows, &inter));
            fill_times(times).map_err(|error| error.at(inter.path()).column(&config.time_field))?
        };
        let attributes = attributes(config, item_file.as_ref(), &item_rows, &items)?;

        let mut remain_fields: Vec<String> = Vec::new();
        let of_tables = inter.tables.iter().flat_map(Table::columns).map(|column| &column.name);
        let of_users = user_file.iter().flat_map(|file| &file.columns);
        let of_items = item_file.iter().flat_map(|file| file.table.columns()).map(|column| &column.name);
        for name in of_tables.chain(of_users).chain(of_items) {
            if !remain_fields.contains(name) {
                remain_fields.push(name.clone());
            }
        }
        let name = config.dataset.clone();
        let users = user_ids.finish();
        let mut dataset =
            Self { name, users, items, attributes, user, item, time, parts, remain_fields, filtering, warnings };
        if let Some(parts) = &dataset.parts {
            let place = |interaction: usize| inter.place(core.rows[interaction]);
            let warnings = parts.check(&dataset, config, &place)?;
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
                .hint("put the file there, name its columns in `load_col` where that is set, or remove the feature")
        })?;
        match *name == config.item_id_field {
            true => Ok(Attribute::of_items(name, items)),
            false => Attribute::new(name, &file.table, rows, items.len(), &mut room),
        }
    };
    config.selected_features.iter().map(attribute).collect()
}
