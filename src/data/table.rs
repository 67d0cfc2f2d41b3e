//! What an atomic file holds: typed columns, and the line of every row.

use std::path::{Path, PathBuf};

use super::vocabulary::Vocabulary;
use crate::excerpt::excerpt;
use crate::{Error, Result};

/// The columns of one file that were asked for.
#[derive(Debug)]
pub struct Table {
    path: PathBuf,
    /// All columns of the file by name, loaded or not.
    header: Vec<String>,
    columns: Vec<Column>,
    /// The place of each loaded column in a row.
    indices: Vec<usize>,
    /// The line, counted from 1, on which each row starts.
    lines: Vec<u64>,
    /// Quoted fields that hold line ends.
    spanning: Spanning,
}

/// Fields that go over several lines, as a stray quote makes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spanning {
    /// How many rows have one.
    pub rows: usize,
    /// Where the row with most lines starts.
    pub line: u64,
    /// How many lines it has.
    pub lines: u64,
}

/// A column that was loaded.
#[derive(Debug)]
pub struct Column {
    /// Its name in the header.
    pub name: String,
    /// What it holds.
    pub values: Values,
}

/// The values of a column, one a row.
#[derive(Debug)]
pub enum Values {
    /// One token.
    Token(Tokens),
    /// Any number of tokens.
    TokenSeq(TokenSeqs),
    /// NaN where the value is missing.
    Float(Vec<f64>),
    /// Any number of numbers, which are checked and not kept: nothing reads them.
    FloatSeq,
}

/// A column of tokens.
#[derive(Debug, Default)]
pub struct Tokens {
    /// The tokens of the column by first appearance.
    pub vocabulary: Vocabulary,
    /// One id of `vocabulary` a row, 0 where the value is missing.
    pub ids: Vec<i64>,
}

/// A column of token sequences.
#[derive(Debug, Default)]
pub struct TokenSeqs {
    /// The tokens of the column by first appearance.
    pub vocabulary: Vocabulary,
    /// Ids of `vocabulary`; empty where the value is missing.
    pub ids: Ragged,
}

/// Rows of different lengths, one after the other.
#[derive(Debug, Default)]
pub struct Ragged {
    values: Vec<i64>,
    ends: Vec<usize>,
}

impl Ragged {
    /// The number of rows.
    pub(super) fn n(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn push(&mut self, row: impl IntoIterator<Item = i64>) {
        self.values.extend(row);
        self.ends.push(self.values.len());
    }

    /// The values of one row. Panics if there is no such row.
    pub fn row(&self, index: usize) -> &[i64] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.values[start..self.ends[index]]
    }
}

impl Tokens {
    /// Adds the rows of another column behind these.
    pub(super) fn append(&mut self, other: Self) {
        if self.ids.is_empty() {
            *self = other;
            return;
        }
        let new: Vec<i64> = other.vocabulary.ids_in(&mut self.vocabulary);
        self.ids.extend(other.ids.iter().map(|&id| new[id as usize]));
    }
}

impl TokenSeqs {
    /// Adds the rows of another column behind these.
    pub(super) fn append(&mut self, other: Self) {
        if self.ids.n() == 0 {
            *self = other;
            return;
        }
        let new: Vec<i64> = other.vocabulary.ids_in(&mut self.vocabulary);
        (0..other.ids.n()).for_each(|row| self.ids.push(other.ids.row(row).iter().map(|&id| new[id as usize])));
    }
}

impl Values {
    /// An empty column of RecBole's type `kind`.
    pub(super) fn of_type(kind: &str) -> Option<Self> {
        Some(match kind {
            "token" => Self::Token(Tokens::default()),
            "token_seq" => Self::TokenSeq(TokenSeqs::default()),
            "float" => Self::Float(Vec::new()),
            "float_seq" => Self::FloatSeq,
            _ => return None,
        })
    }

    /// RecBole's name of the type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::TokenSeq(_) => "token_seq",
            Self::Float(_) => "float",
            Self::FloatSeq => "float_seq",
        }
    }

    /// The tokens of one row by their ids: empty, or one 0, if the value is missing. Panics if there is no such row.
    pub fn token_ids(&self, row: usize) -> &[i64] {
        match self {
            Self::Token(tokens) => &tokens.ids[row..=row],
            Self::TokenSeq(tokens) => tokens.ids.row(row),
            Self::Float(_) | Self::FloatSeq => &[],
        }
    }

    /// Adds the value of one row. The error says what was expected and found.
    fn push(&mut self, field: &str, seq_separator: &str) -> Result<()> {
        let missing = is_missing(field);
        let pieces = || field.split(seq_separator).filter(|piece| !missing && !piece.is_empty());
        match self {
            Self::Token(tokens) => tokens.ids.push(if missing { 0 } else { tokens.vocabulary.intern(field) }),
            Self::TokenSeq(TokenSeqs { vocabulary, ids }) => ids.push(pieces().map(|piece| vocabulary.intern(piece))),
            Self::Float(values) => values.push(if missing { f64::NAN } else { number(field)? }),
            Self::FloatSeq => pieces().try_for_each(|piece| number(piece).map(drop))?,
        }
        Ok(())
    }
}

/// Whether pandas takes `field` for a missing value.
pub fn is_missing(field: &str) -> bool {
    matches!(
        field,
        "" | "#N/A"
            | "#N/A N/A"
            | "#NA"
            | "-1.#IND"
            | "-1.#QNAN"
            | "-NaN"
            | "-nan"
            | "1.#IND"
            | "1.#QNAN"
            | "<NA>"
            | "N/A"
            | "NA"
            | "NULL"
            | "NaN"
            | "None"
            | "n/a"
            | "nan"
            | "null"
    )
}

/// A number as pandas reads it, infinities included, except that it is rounded to the nearest `f64`.
fn number(field: &str) -> Result<f64> {
    match field.trim_matches([' ', '\t']).parse::<f64>() {
        Ok(value) if !value.is_nan() => Ok(value),
        _ => Err(Error::new(format!("expected a number, found `{}`", excerpt(field)))
            .hint(
                "correct the value (a date as Unix seconds), leave the field empty if it is unknown, or give the column the \
                 type `token` if it holds words",
            )),
    }
}

impl Table {
    /// A table without rows. `header` names all columns of the file; `columns` are those to load, each with its place.
    pub(super) fn new(path: &Path, header: Vec<String>, columns: Vec<(usize, Column)>) -> Self {
        let (indices, columns) = columns.into_iter().unzip();
        Self { path: path.to_path_buf(), header, columns, indices, lines: Vec::new(), spanning: Spanning::default() }
    }

    /// Holds the row that starts on `line` to the header.
    pub(super) fn check_width(&self, record: &csv::StringRecord, line: u64) -> Result<()> {
        if record.len() <= self.header.len() {
            return Ok(());
        }
        let problem = format!("expected at most {} fields, found {}", self.header.len(), record.len());
        Err(Error::new(problem)
            .at(&self.path)
            .line(line)
            .hint("remove the surplus separator, or quote the field that holds it"))
    }

    /// Adds the row that starts on `line`; an error comes with the column in which it is.
    pub(super) fn push(
        &mut self,
        record: &csv::StringRecord,
        line: u64,
        seq_separator: &str,
    ) -> Result<(), (Error, String)> {
        for (column, &index) in self.columns.iter_mut().zip(&self.indices) {
            column
                .values
                .push(record.get(index).unwrap_or_default(), seq_separator)
                .map_err(|error| (error.at(&self.path).line(line).column(&column.name), column.name.clone()))?;
        }
        self.lines.push(line);
        Ok(())
    }

    /// Notes that the row that starts on `line` has fields that go on over `lines` lines.
    pub(super) fn spans(&mut self, line: u64, lines: u64) {
        self.spanning.rows += 1;
        if lines > self.spanning.lines {
            (self.spanning.line, self.spanning.lines) = (line, lines);
        }
    }

    /// Fields that go over several lines.
    pub fn spanning(&self) -> Spanning {
        self.spanning
    }

    /// All columns of the file by name, loaded or not.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The file that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of rows.
    pub fn n_rows(&self) -> usize {
        self.lines.len()
    }

    /// The line of the file, counted from 1, on which a row starts. Panics if there is no such row.
    pub fn line(&self, row: usize) -> u64 {
        self.lines[row]
    }

    /// The columns that were loaded, in the order of the file.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The values of the column `name`, which the configuration's key `key` asks for.
    ///
    /// # Errors
    /// The file has no such column, or it was not loaded.
    pub fn column(&self, name: &str, key: &str) -> Result<&Values> {
        if let Some(column) = self.columns.iter().find(|column| column.name == name) {
            return Ok(&column.values);
        }
        let has = self.header.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let error = if self.header.iter().any(|known| known == name) {
            Error::new(format!(
                "expected `load_col` to name this column, which `{key}` asks for, found that it does not"
            ))
            .hint("add it to `load_col`, or remove `load_col` and `unload_col`")
        } else {
            Error::new(format!("expected a column of this name, which `{key}` asks for, found {has}"))
                .hint(format!("correct `{key}` or the header"))
        };
        Err(error.at(&self.path).column(name))
    }

    /// The tokens of the column `name`, which the configuration's key `key` asks for.
    ///
    /// # Errors
    /// There is no such column, or it is not of type token.
    pub fn tokens(&self, name: &str, key: &str) -> Result<&Tokens> {
        match self.column(name, key)? {
            Values::Token(tokens) => Ok(tokens),
            other => Err(self.wrong_type(name, key, "token", other)),
        }
    }

    /// As [`Table::tokens`], taken out of the table, in which the column is empty from here on.
    pub(super) fn take_tokens(&mut self, name: &str, key: &str) -> Result<Tokens> {
        self.take(name, key, "token", |values| if let Values::Token(tokens) = values { Some(tokens) } else { None })
    }

    /// The token sequences of the column `name`, taken as by [`Table::take_tokens`].
    pub(super) fn take_token_seqs(&mut self, name: &str, key: &str) -> Result<TokenSeqs> {
        self.take(name, key, "token_seq", |values| if let Values::TokenSeq(seqs) = values { Some(seqs) } else { None })
    }

    fn take<T: Default>(
        &mut self,
        name: &str,
        key: &str,
        kind: &str,
        of_kind: fn(&mut Values) -> Option<&mut T>,
    ) -> Result<T> {
        let column = self.columns.iter_mut().find(|column| column.name == name);
        match column.and_then(|column| of_kind(&mut column.values)) {
            Some(values) => Ok(std::mem::take(values)),
            None => Err(self.wrong_type(name, key, kind, self.column(name, key)?)),
        }
    }

    /// The numbers of the column `name`, which the configuration's key `key` asks for; NaN where missing.
    ///
    /// # Errors
    /// There is no such column, or it is not of type float.
    pub fn floats(&self, name: &str, key: &str) -> Result<&[f64]> {
        match self.column(name, key)? {
            Values::Float(values) => Ok(values),
            other => Err(self.wrong_type(name, key, "float", other)),
        }
    }

    /// The error for a column that is not of the type that `key` needs.
    pub fn wrong_type(&self, name: &str, key: &str, expected: &str, found: &Values) -> Error {
        Error::new(format!("expected the type {expected}, which `{key}` needs, found {}", found.kind()))
            .at(&self.path)
            .column(name)
            .hint(format!("correct the header, or name another column in `{key}`"))
    }
}
