//! What the reader of a result should know of the files: what was lost on the way, with counts and an example.

use super::interactions::{Filtering, Interactions};
use super::items::ItemFile;
use super::vocabulary::Vocabulary;
use crate::config::{DataConfig, Interval};
use crate::excerpt::excerpt;

/// One sentence for each. The users that have a row in the `.user` file are listed, and beside the `.item` file the items that
/// have one there.
pub(super) fn of(
    config: &DataConfig,
    inter: &Interactions,
    filtering: &Filtering,
    listed_users: Option<&[bool]>,
    listed_items: Option<(&ItemFile, &[bool])>,
) -> Vec<String> {
    let item_file = listed_items.map(|(file, _)| file);
    let mut warnings = Vec::new();
    for table in inter.tables.iter().chain(item_file.map(|file| &file.table)) {
        let spanning = table.spanning();
        if spanning.rows > 0 {
            warnings.push(format!(
                "{}: {} of {} rows have fields that go on over several lines, the one on line {} over {}: if the text has no \
                 such lines, a stray quote takes in those behind it",
                table.path().display(),
                spanning.rows,
                table.n_rows(),
                spanning.line,
                spanning.lines
            ));
        }
    }
    let Filtering { rows_in_file, without_user_or_item, without_item_row, .. } = *filtering;
    if without_user_or_item > 0 {
        warnings.push(format!(
            "{without_user_or_item} of {rows_in_file} interactions have no user or no item and are left out (`NA`, `null`, \
             `None` and the like count as missing, as in pandas)"
        ));
    }
    if let Some((file, listed)) = listed_items {
        warnings.extend(without_row(config, inter, file, without_item_row, rows_in_file, listed));
    }
    warnings.extend(listed_users.and_then(|listed| users_without_row(config, inter, listed)));
    for (what, tokens) in [("users", &inter.users.vocabulary), ("items", &inter.items.vocabulary)] {
        warnings.extend(differing_by_blanks(what, tokens));
    }
    if let Some(file) = item_file
        && file.rows.len() < file.table.n_rows()
    {
        let (without, of) = (file.table.n_rows() - file.rows.len(), file.table.n_rows());
        let path = file.table.path().display();
        warnings.push(format!("{path}: {without} of {of} rows name no item and are left out"));
    }
    warnings.extend(filters_of_splits(config));
    warnings
}

/// Tokens that are another's but for blanks around them.
fn differing_by_blanks(what: &str, tokens: &Vocabulary) -> Option<String> {
    let is_twin = |token: &&str| token.trim() != *token && tokens.id(token.trim()).is_some_and(|id| id > 0);
    let mut twins = tokens.iter().skip(1).filter(is_twin);
    let first = twins.next()?;
    let (n, all) = (1 + twins.count(), tokens.len() - 1);
    Some(format!(
        "{n} of {all} {what} differ from another by blanks alone, such as `{}`: they are two here",
        excerpt(first)
    ))
}

/// Interactions with unknown times. `rows` are those of the files.
pub(super) fn unknown_times(times: &[f64], rows: &[usize], inter: &Interactions) -> Option<String> {
    let mut unknown = (0..times.len()).filter(|&i| times[i].is_nan());
    let (path, line) = inter.place(rows[unknown.next()?]);
    let (n, all, path) = (1 + unknown.count(), times.len(), path.display());
    Some(format!(
        "{n} of {all} interactions have no time and get the mean of the others', the first in {path}, line {line}"
    ))
}

/// Users of the interactions that the `.user` file does not list.
fn users_without_row(config: &DataConfig, inter: &Interactions, listed: &[bool]) -> Option<String> {
    let users = &inter.users.vocabulary;
    let mut unlisted = (1..users.len()).filter(|&user| !listed[user]);
    let first = users.token(unlisted.next()? as i64).map(excerpt)?;
    if !config.filter_inter_by_user_or_item || config.benchmark_filename.is_some() {
        return None;
    }
    let (n, all, path) = (1 + unlisted.count(), users.len() - 1, config.file("user"));
    Some(format!(
        "{n} of {all} users have no row in {}: their interactions are left out (`filter_inter_by_user_or_item`); `{first}` \
         is not there",
        path.display()
    ))
}

/// Items of the interactions that the `.item` file does not list.
fn without_row(
    config: &DataConfig,
    inter: &Interactions,
    file: &ItemFile,
    dropped: usize,
    rows_in_file: usize,
    listed: &[bool],
) -> Option<String> {
    let of_inter = inter.items.vocabulary.len();
    let unlisted: Vec<usize> = (1..of_inter).filter(|&item| !listed[item]).collect();
    // Where the model reads no attributes and nothing goes, a row is missed by nobody.
    if unlisted.is_empty() || (dropped == 0 && config.selected_features.is_empty()) {
        return None;
    }
    let path = file.table.path().display();
    let lack = format!("{} of {} items of the interactions have no row in {path}", unlisted.len(), of_inter - 1);
    let consequence = match dropped {
        0 => "their attributes are unknown".to_owned(),
        _ => format!("{dropped} of {rows_in_file} interactions are left out (`filter_inter_by_user_or_item`)"),
    };
    let token = |item: usize| inter.items.vocabulary.token(item as i64).map(excerpt).unwrap_or_default();
    let only_there = file.rows.iter().find(|&&(_, item)| item as usize >= of_inter);
    let column = file.table.tokens(&config.item_id_field, "ITEM_ID_FIELD").ok();
    let only_there = only_there.zip(column).and_then(|(&(row, _), column)| column.vocabulary.token(column.ids[row]));
    let there = only_there.map(|token| format!(", `{}` is there alone", excerpt(token))).unwrap_or_default();
    Some(format!("{lack}: {consequence}; `{}` is not there{there}", token(unlisted[0])))
}

/// Filters that are asked for and filter nothing, because the splits are files.
fn filters_of_splits(config: &DataConfig) -> Option<String> {
    config.benchmark_filename.as_ref()?;
    let cuts = |interval: &Option<Interval>| {
        interval.is_some_and(|interval| !(interval.contains(0.0) && interval.contains(1e18)))
    };
    let keys = [
        ("user_inter_num_interval", cuts(&config.user_inter_num_interval)),
        ("item_inter_num_interval", cuts(&config.item_inter_num_interval)),
        ("val_interval", !config.val_interval.is_empty()),
        ("rm_dup_inter", config.rm_dup_inter.is_some()),
    ];
    let keys: Vec<_> = keys.into_iter().filter(|(_, asked)| *asked).map(|(key, _)| format!("`{key}`")).collect();
    (!keys.is_empty()).then(|| {
        format!(
            "{} filters nothing: as in RecBole, the rows of `benchmark_filename` are taken as they are",
            keys.join(", ")
        )
    })
}
