//! Keys of the data set.

use serde_yaml::{Mapping, Value};

use super::Section::{Dataset, Unprinted};
use super::{Key, Kind, parts};
use crate::config::read::*;
use crate::config::{DataConfig, Interval, RunConfig, python};

/// Names of columns that RecBole makes, or of columns that this program does not read.
const NAME: &str = "the column that it names is not used";
/// Names of a knowledge graph's columns.
const GRAPH: &str = "there is no knowledge graph";

pub(super) static KEYS: &[Key] = &[
    key!(Dataset "field_separator": data.field_separator = separator shown character,
        "one ASCII character other than a quote or a line end", "stands between the fields of a line"),
    key!(Dataset "seq_separator": data.seq_separator = text,
        "text of at least one character", "stands between the tokens of a sequence field"),
    key!(Unprinted "encoding" is "utf-8", "files are read as UTF-8").held(parts::encoding),
    key!(Dataset "USER_ID_FIELD": data.user_id_field = text,
        "the name of a column", "column of users"),
    key!(Dataset "ITEM_ID_FIELD": data.item_id_field = text,
        "the name of a column", "column of items, in `.inter` and `.item`"),
    key!(Dataset "RATING_FIELD" is any, "ratings are not used: every interaction is implicit feedback"),
    key!(Dataset "TIME_FIELD": data.time_field = text,
        "the name of a column", "column of times"),
    key!(Dataset "seq_len" is "None", "sequence fields are read in full"),
    key!(Dataset "LABEL_FIELD" is any, NAME),
    key!(Dataset "threshold" is "None",
        "labels are not read, by RecBole's sequential models neither; `val_interval` drops interactions by a value"),
    key!(Dataset "NEG_PREFIX" is any, NAME),
    key!(Dataset "load_col": (set_load_col, |config| load_col(&config.data)),
        "`None`, or `{'inter': [columns], 'item': [columns]}` with `'*'` for all columns; without `item`, or with `[]`, no `.item` file is read, and `.user` only with `user`",
        "columns to load; `None` loads all (RecBole's own default has no times and no attributes, which leaves nothing to order by)"),
    key!(Dataset "unload_col": (set_unload_col, unload_col),
        "`None`, or `{'inter': [columns], 'item': [columns]}` with one of the two or both",
        "columns not to load of a file of which `load_col` names none"),
    key!(Dataset "unused_col" is "None", "`load_col` says what is loaded"),
    key!(Dataset "additional_feat_suffix" is "None", "only `.inter`, `.item` and `.user` are read"),
    key!(Dataset "rm_dup_inter": data.rm_dup_inter = optional(word),
        "`None`, `first` or `last`", "which interaction of a repeated (user, item) pair stays; `None` keeps all"),
    key!(Dataset "val_interval": data.val_interval = val_interval shown intervals,
        "`None`, or one interval for each of some float columns of `.inter`, such as `{'rating': '[3,inf)'}`",
        "interactions with another value are dropped before they are counted; `None` keeps all"),
    key!(Dataset "filter_inter_by_user_or_item": data.filter_inter_by_user_or_item = flag,
        "`True` or `False`", "drop interactions whose item has no row in `.item`, or whose user has none in `.user` where that is read"),
    key!(Dataset "user_inter_num_interval": data.user_inter_num_interval = optional(interval),
        "`None`, or one non-empty interval such as `'[5,inf)'`",
        "users with another number of interactions are dropped, in turn with items until none is; `None` keeps all, as `'[0,inf)'` does"),
    key!(Dataset "item_inter_num_interval": data.item_inter_num_interval = optional(interval),
        "`None`, or one non-empty interval such as `'[5,inf)'`", "the same for items"),
    key!(Dataset "alias_of_user_id" is "None", "no other column holds users"),
    key!(Dataset "alias_of_item_id" is "None",
        "the column of histories of `benchmark_filename` holds items whether it is named or not, and no other does")
    .held(parts::alias_of_item_id),
    key!(Dataset "alias_of_entity_id" is "None", GRAPH),
    key!(Dataset "alias_of_relation_id" is "None", GRAPH),
    key!(Dataset "preload_weight" is "None", "no vectors are loaded"),
    key!(Dataset "normalize_field" is "None", "no column is normalised"),
    key!(Dataset "normalize_all" is "None" or "False",
        "no column is normalised; RecBole 1.2 does it by default, times included, which then tie otherwise"),
    key!(Dataset "ITEM_LIST_LENGTH_FIELD" is any, NAME),
    key!(Dataset "LIST_SUFFIX": data.list_suffix = text, "text of at least one character",
        "behind `ITEM_ID_FIELD` the name of the column of histories in the files of `benchmark_filename`"),
    key!(Dataset "MAX_ITEM_LIST_LENGTH": data.max_item_list_length = whole(1, 100_000),
        "a whole number from 1 to 100000", "L: items of the history that the model sees"),
    key!(Dataset "POSITION_FIELD" is any, NAME),
    key!(Dataset "HEAD_ENTITY_ID_FIELD" is any, GRAPH),
    key!(Dataset "TAIL_ENTITY_ID_FIELD" is any, GRAPH),
    key!(Dataset "RELATION_ID_FIELD" is any, GRAPH),
    key!(Dataset "ENTITY_ID_FIELD" is any, GRAPH),
    key!(Dataset "time_precision": data.time_precision = word,
        "`float32` or `float64`", "precision in which times are compared, see above")
    .own(),
    key!(Unprinted "numerical_features" is "[]", "RecBole 1.2: attributes are tokens"),
    key!(Unprinted "discretization" is "None", "RecBole 1.2: attributes are tokens"),
    key!(Unprinted "kg_reverse_r" is "False", GRAPH),
    key!(Unprinted "entity_kg_num_interval" is any, GRAPH),
    key!(Unprinted "relation_kg_num_interval" is any, GRAPH),
];

fn set_load_col(config: &mut RunConfig, value: &Value) -> Option<()> {
    let named = |v: &Value| if v.as_str() == Some("*") { Some(None) } else { texts(v).map(Some) };
    let none = |v: &&Value| !v.is_null() && v.as_str() != Some("None") && !v.as_sequence().is_some_and(Vec::is_empty);
    let of_files = |v: &Value| {
        let files = v.as_mapping()?;
        let known = files.keys().all(|file| matches!(file.as_str(), Some("inter" | "item" | "user")));
        let of_file = |file: &str| files.get(file).filter(none).map_or(Some(Some(Vec::new())), named);
        let user = of_file("user")?.unwrap_or_else(|| vec!["*".to_owned()]);
        known.then_some((named(files.get("inter")?)?, of_file("item")?, user))
    };
    let data = &mut config.data;
    (data.load_inter, data.load_item, data.load_user) = optional(value, of_files)?.unwrap_or_default();
    Some(())
}

impl DataConfig {
    /// What to write to load of a file (`inter` or `item`) the columns in `read` alone.
    pub(crate) fn leave_out(&self, file: &str, read: &[&str]) -> String {
        let mut data = self.clone();
        let load = if file == "inter" { &mut data.load_inter } else { &mut data.load_item };
        *load = Some(read.iter().map(|&column| column.to_owned()).collect());
        let load_col = python::repr(&load_col(&data));
        format!("correct the value, or leave out the column, which nothing reads: `load_col: {load_col}`")
    }
}

fn load_col(data: &DataConfig) -> Value {
    let columns = |list: &Option<Vec<String>>| list.as_ref().map_or_else(|| "*".into(), value);
    if data.load_inter.is_none() && data.load_item.is_none() && data.load_user.is_empty() {
        return Value::Null;
    }
    let mut files =
        Mapping::from_iter([("inter".into(), columns(&data.load_inter)), ("item".into(), columns(&data.load_item))]);
    match &data.load_user[..] {
        [] => {}
        [all] if all == "*" => drop(files.insert("user".into(), "*".into())),
        named => drop(files.insert("user".into(), value(named))),
    }
    files.into()
}

fn set_unload_col(config: &mut RunConfig, value: &Value) -> Option<()> {
    let of_files = |v: &Value| {
        let files = v.as_mapping()?;
        let known = files.keys().all(|file| matches!(file.as_str(), Some("inter" | "item" | "user")));
        let columns = |file: &str| files.get(file).map_or(Some(Vec::new()), |v| items(v, text));
        known.then_some((columns("inter")?, columns("item")?))
    };
    (config.data.unload_inter, config.data.unload_item) = optional(value, of_files)?.unwrap_or_default();
    Some(())
}

fn unload_col(config: &RunConfig) -> Value {
    let files = [("inter", &config.data.unload_inter), ("item", &config.data.unload_item)];
    let named = files.into_iter().filter(|(_, columns)| !columns.is_empty());
    let named: Mapping = named.map(|(file, columns)| (file.into(), value(columns))).collect();
    if named.is_empty() { Value::Null } else { named.into() }
}

fn character(byte: &u8) -> Value {
    char::from(*byte).to_string().into()
}

/// `val_interval` as it is written, `None` without columns.
fn intervals(columns: &[(String, Interval)]) -> Value {
    if columns.is_empty() {
        return Value::Null;
    }
    columns.iter().map(|(column, interval)| (column.as_str().into(), value(interval))).collect::<Mapping>().into()
}
