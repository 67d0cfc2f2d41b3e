//! The `.item` file: its rows by item, and the attributes that the model reads; and the users of the `.user` file.

use std::collections::HashSet;
use std::path::Path;

use super::atomic::{self, Columns, Format};
use super::table::{Table, Values};
use super::vocabulary::{Renumbering, Vocabulary};
use crate::config::{AttributeKind, DataConfig};
use crate::excerpt::excerpt;
use crate::{Error, Result};

/// Ids that all attributes together may take, padding included, for each byte of the `.item` file: 128 bytes of memory.
pub(super) const IDS_PER_BYTE: usize = 16;

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

/// The `.item` file and its rows by item.
pub(super) struct ItemFile {
    pub table: Table,
    /// The rows that name an item, with the item's id among all items of both files.
    pub rows: Vec<(usize, i64)>,
}

impl ItemFile {
    /// The file at `path`, if it is there and to be loaded. Its items get ids in `items` after those already there.
    pub fn read(path: &Path, format: Format, config: &DataConfig, items: &mut Vocabulary) -> Result<Option<Self>> {
        let load = config.load_item.as_deref();
        if load.is_some_and(<[_]>::is_empty) || !path.exists() {
            return Ok(None);
        }
        let read: Vec<&str> =
            std::iter::once(&config.item_id_field).chain(&config.selected_features).map(String::as_str).collect();
        let cure = config.leave_out("item", &read);
        let table =
            atomic::read(path, format, Columns { load, unload: &config.unload_item, read: &read, cure: &cure })?;
        let column = table.tokens(&config.item_id_field, "ITEM_ID_FIELD")?;
        // The id in `items` of each item of this file, and the row that named it.
        let ids = column.vocabulary.ids_in(items);
        let mut row_of: Vec<Option<usize>> = vec![None; ids.len()];
        let mut rows = Vec::with_capacity(table.n_rows());
        // Rows of items that have one already: the item, its first row and this one.
        let mut repeated: Vec<(i64, usize, usize)> = Vec::new();
        for (row, &id) in column.ids.iter().enumerate().filter(|&(_, &id)| id != 0) {
            match row_of[id as usize] {
                Some(first) => repeated.push((id, first, row)),
                None => {
                    row_of[id as usize] = Some(row);
                    rows.push((row, ids[id as usize]));
                }
            }
        }
        if let Some(&(id, first, row)) = repeated.first() {
            let token = excerpt(column.vocabulary.token(id).unwrap_or_default());
            let (n, of) = (repeated.len(), repeated.iter().map(|(id, ..)| id).collect::<HashSet<_>>().len());
            let problem = format!(
                "expected one row an item, found {n} more for {of} of {} items, the first for `{token}`, which line {} has",
                ids.len() - 1,
                table.line(first)
            );
            let error = Error::new(problem).at(path).line(table.line(row)).column(&config.item_id_field);
            return Err(error.hint("leave one row of each item"));
        }
        Ok(Some(Self { table, rows }))
    }
}

/// The `.user` file.
pub(super) struct UserFile {
    /// Its columns that are loaded. The model takes no attributes of users: only the ids are read.
    pub columns: Vec<String>,
    /// The users of both files, those of the interactions first.
    pub users: Vocabulary,
    /// The ids in `users` of those of this file, in its order.
    pub rows: Vec<i64>,
}

impl UserFile {
    /// The file, if it is there and to be loaded, beside the users of the interactions.
    ///
    /// # Errors
    /// As [`atomic::read`]; the file has no column `USER_ID_FIELD`.
    pub fn read(config: &DataConfig, format: Format, of_interactions: &Vocabulary) -> Result<Option<Self>> {
        let (path, load) = (config.file("user"), &config.load_user);
        if load.is_empty() || !path.exists() {
            return Ok(None);
        }
        let ids = std::slice::from_ref(&config.user_id_field);
        let read: &[&str] = &[&config.user_id_field];
        let table = atomic::read(&path, format, Columns { load: Some(ids), unload: &[], read, cure: "" })?;
        let column = table.tokens(&config.user_id_field, "USER_ID_FIELD")?;
        let is_loaded = |name: &&String| load[..] == ["*"] || load.contains(name);
        let columns = table.header().iter().filter(is_loaded).cloned().collect();
        let mut users = of_interactions.clone();
        let rows = column.vocabulary.ids_in(&mut users).split_off(1);
        Ok(Some(Self { columns, users, rows }))
    }
}

impl Attribute {
    /// The items themselves as their attribute, which RecBole numbers as everywhere else: each item is its own token.
    pub(super) fn of_items(name: &str, items: &Vocabulary) -> Self {
        let ids = (0..items.len() as i64).collect();
        Self { name: name.to_owned(), kind: AttributeKind::Token, vocab: items.clone(), width: 1, ids }
    }

    /// The column `name` of the item file. `rows` are the rows that are left, each with the id of its item; `room` is how many
    /// ids the attributes before it have left.
    pub(super) fn new(
        name: &str,
        table: &Table,
        rows: &[(usize, i64)],
        n_items: usize,
        room: &mut usize,
    ) -> Result<Self> {
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
