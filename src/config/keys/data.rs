//! Keys of the data set.

use serde_yaml::{Mapping, Value};

use super::Section::{Dataset, Unprinted};
use super::{Key, accepted, held, honoured, own, parts, unused};
use crate::config::read::*;
use crate::config::{Interval, RunConfig};

/// Names of columns that RecBole makes, or of columns that this program does not read.
const NAME: &str = "the column that it names is not used";
/// Names of a knowledge graph's columns.
const GRAPH: &str = "there is no knowledge graph";

pub(super) static KEYS: &[Key] = &[
    honoured(
        Dataset,
        "field_separator",
        "one ASCII character other than a quote or a line end",
        "stands between the fields of a line",
        |c, v| put(&mut c.data.field_separator, separator(v)),
        |c| char::from(c.data.field_separator).to_string().into(),
    ),
    honoured(
        Dataset,
        "seq_separator",
        "text of at least one character",
        "stands between the tokens of a sequence field",
        |c, v| put(&mut c.data.seq_separator, text(v)),
        |c| c.data.seq_separator.clone().into(),
    ),
    held(Unprinted, "encoding", |_| &["utf-8"], parts::encoding, "files are read as UTF-8"),
    honoured(
        Dataset,
        "USER_ID_FIELD",
        "the name of a column",
        "column of users",
        |c, v| put(&mut c.data.user_id_field, text(v)),
        |c| c.data.user_id_field.clone().into(),
    ),
    honoured(
        Dataset,
        "ITEM_ID_FIELD",
        "the name of a column",
        "column of items, in `.inter` and `.item`",
        |c, v| put(&mut c.data.item_id_field, text(v)),
        |c| c.data.item_id_field.clone().into(),
    ),
    unused(Dataset, "RATING_FIELD", "ratings are not used: every interaction is implicit feedback"),
    honoured(
        Dataset,
        "TIME_FIELD",
        "the name of a column",
        "column of times",
        |c, v| put(&mut c.data.time_field, text(v)),
        |c| c.data.time_field.clone().into(),
    ),
    accepted(Dataset, "seq_len", |_| &["None"], "sequence fields are read in full"),
    unused(Dataset, "LABEL_FIELD", NAME),
    accepted(
        Dataset,
        "threshold",
        |_| &["None"],
        "labels are not read, by RecBole's sequential models neither; `val_interval` drops interactions by a value",
    ),
    unused(Dataset, "NEG_PREFIX", NAME),
    honoured(
        Dataset,
        "load_col",
        "`None`, or `{'inter': [columns], 'item': [columns]}` with `'*'` for all columns; without `item`, or with `[]`, no `.item` file is read, and `.user` only with `user`",
        "columns to load; `None` loads all (RecBole's own default has no times and no attributes, which leaves nothing to order by)",
        set_load_col,
        load_col,
    ),
    honoured(
        Dataset,
        "unload_col",
        "`None`, or `{'inter': [columns], 'item': [columns]}` with one of the two or both",
        "columns not to load of a file of which `load_col` names none",
        set_unload_col,
        unload_col,
    ),
    accepted(Dataset, "unused_col", |_| &["None"], "`load_col` says what is loaded"),
    accepted(Dataset, "additional_feat_suffix", |_| &["None"], "only `.inter` and `.item` are read"),
    honoured(
        Dataset,
        "rm_dup_inter",
        "`None`, `first` or `last`",
        "which interaction of a repeated (user, item) pair stays; `None` keeps all",
        |c, v| put(&mut c.data.rm_dup_inter, optional(v, word)),
        |c| value(c.data.rm_dup_inter),
    ),
    honoured(
        Dataset,
        "val_interval",
        "`None`, or one interval for each of some float columns of `.inter`, such as `{'rating': '[3,inf)'}`",
        "interactions with another value are dropped before they are counted; `None` keeps all",
        |c, v| put(&mut c.data.val_interval, val_interval(v)),
        |c| intervals(&c.data.val_interval),
    ),
    honoured(
        Dataset,
        "filter_inter_by_user_or_item",
        "`True` or `False`",
        "drop interactions whose item has no row in `.item`",
        |c, v| put(&mut c.data.filter_inter_by_user_or_item, v.as_bool()),
        |c| c.data.filter_inter_by_user_or_item.into(),
    ),
    honoured(
        Dataset,
        "user_inter_num_interval",
        "`None`, or one non-empty interval such as `'[5,inf)'`",
        "users with another number of interactions are dropped, in turn with items until none is; `None` keeps all, as `'[0,inf)'` does",
        |c, v| put(&mut c.data.user_inter_num_interval, optional(v, interval)),
        |c| value(c.data.user_inter_num_interval.map(|i| i.to_string())),
    ),
    honoured(
        Dataset,
        "item_inter_num_interval",
        "`None`, or one non-empty interval such as `'[5,inf)'`",
        "the same for items",
        |c, v| put(&mut c.data.item_inter_num_interval, optional(v, interval)),
        |c| value(c.data.item_inter_num_interval.map(|i| i.to_string())),
    ),
    accepted(Dataset, "alias_of_user_id", |_| &["None"], "no other column holds users"),
    held(
        Dataset,
        "alias_of_item_id",
        |_| &["None"],
        parts::alias_of_item_id,
        "the column of histories of `benchmark_filename` holds items whether it is named or not, and no other does",
    ),
    accepted(Dataset, "alias_of_entity_id", |_| &["None"], GRAPH),
    accepted(Dataset, "alias_of_relation_id", |_| &["None"], GRAPH),
    accepted(Dataset, "preload_weight", |_| &["None"], "no vectors are loaded"),
    accepted(Dataset, "normalize_field", |_| &["None"], "no column is normalised"),
    accepted(
        Dataset,
        "normalize_all",
        |_| &["None", "False"],
        "no column is normalised; RecBole 1.2 does it by default, times included, which then tie otherwise",
    ),
    unused(Dataset, "ITEM_LIST_LENGTH_FIELD", NAME),
    honoured(
        Dataset,
        "LIST_SUFFIX",
        "text of at least one character",
        "behind `ITEM_ID_FIELD` the name of the column of histories in the files of `benchmark_filename`",
        |c, v| put(&mut c.data.list_suffix, text(v)),
        |c| c.data.list_suffix.clone().into(),
    ),
    honoured(
        Dataset,
        "MAX_ITEM_LIST_LENGTH",
        "a whole number from 1 to 100000",
        "L: items of the history that the model sees",
        |c, v| put(&mut c.data.max_item_list_length, whole(v, 1, 100_000)),
        |c| c.data.max_item_list_length.into(),
    ),
    unused(Dataset, "POSITION_FIELD", NAME),
    unused(Dataset, "HEAD_ENTITY_ID_FIELD", GRAPH),
    unused(Dataset, "TAIL_ENTITY_ID_FIELD", GRAPH),
    unused(Dataset, "RELATION_ID_FIELD", GRAPH),
    unused(Dataset, "ENTITY_ID_FIELD", GRAPH),
    own(
        Dataset,
        "time_precision",
        "`float32` or `float64`",
        "precision in which times are compared, see above",
        |c, v| put(&mut c.data.time_precision, word(v)),
        |c| value(c.data.time_precision),
    ),
    accepted(Unprinted, "numerical_features", |_| &["[]"], "RecBole 1.2: attributes are tokens"),
    accepted(Unprinted, "discretization", |_| &["None"], "RecBole 1.2: attributes are tokens"),
    accepted(Unprinted, "kg_reverse_r", |_| &["False"], GRAPH),
    unused(Unprinted, "entity_kg_num_interval", GRAPH),
    unused(Unprinted, "relation_kg_num_interval", GRAPH),
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

fn load_col(config: &RunConfig) -> Value {
    let columns = |list: &Option<Vec<String>>| list.as_ref().map_or_else(|| "*".into(), value);
    let data = &config.data;
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

/// `val_interval` as it is written, `None` without columns.
fn intervals(columns: &[(String, Interval)]) -> Value {
    if columns.is_empty() {
        return Value::Null;
    }
    let pairs = columns.iter().map(|(column, interval)| (column.as_str().into(), interval.to_string().into()));
    Value::Mapping(pairs.collect())
}
