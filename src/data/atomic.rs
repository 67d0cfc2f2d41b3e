//! RecBole's atomic files: a header of `name:type` fields, then one row a line.
//!
//! Rows are read as RecBole's users get them from pandas: fields may be quoted with `"` (a quote inside is doubled, a
//! quote after the first character is an ordinary character), lines end in LF, CRLF or CR, blank lines are skipped,
//! fields missing at the end of a line and pandas' names for "not available" ([`is_missing`](super::table::is_missing)) are missing values.
//!
//! DIFFERENCE: pandas, when it loads named columns, drops surplus fields without a word; here they are an error, because
//! a row that has slipped by one field gives wrong data. `True` is not a number either.

use std::path::Path;

use super::table::{Column, Table, Values, excerpt};
use crate::{Error, Result};

/// How the fields of a file are separated.
#[derive(Debug, Clone, Copy)]
pub struct Format<'a> {
    /// The byte between two fields.
    pub field_separator: u8,
    /// The text between two elements of a sequence.
    pub seq_separator: &'a str,
}

/// Reads the file at `path`: the columns in `load` that it has, or all of them.
///
/// # Errors
/// The file cannot be read or is empty; a header field is not `name:type`, its type is unknown or its name repeated; a
/// line has too many fields, a number that is none, bytes that are not UTF-8, or a quote that is never closed.
pub fn read(path: &Path, format: Format, load: Option<&[String]>) -> Result<Table> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the file", e))?;
    parse(path, bytes, format, load)
}

/// Reads `bytes` as [`read`] does; `path` is for messages.
pub fn parse(path: &Path, mut bytes: Vec<u8>, format: Format, load: Option<&[String]>) -> Result<Table> {
    // One more record after the file's own: an unclosed quote swallows it, which the tokeniser does not tell otherwise.
    let end = bytes.len();
    bytes.extend(b"\n.");
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(format.field_separator)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes.as_slice());
    let mut record = csv::StringRecord::new();
    let mut table: Option<Table> = None;
    loop {
        let (start, line) = next_record(&bytes, reader.position());
        if start > end {
            break;
        }
        if let Err(error) = reader.read_record(&mut record) {
            let header = table.as_ref().map_or(&[] as &[_], Table::header);
            return Err(explain(&error, header).at(path).line(line));
        }
        if reader.position().byte() as usize > end + 1 {
            return Err(Error::new("expected a `\"` that closes a quoted field, found the end of the file")
                .at(path)
                .line(line)
                .hint("close the quote that opens a field of this line, or double it if it belongs to the text"));
        }
        let blank = record.len() == 1 && bytes[start] != b'"' && record[0].bytes().all(|b| b == b' ' || b == b'\t');
        match &mut table {
            _ if blank => {}
            None => table = Some(parse_header(path, &record, load).map_err(|error| error.at(path).line(line))?),
            Some(table) => table.push(&record, line, format.seq_separator)?,
        }
    }
    table.ok_or_else(|| {
        Error::new("expected a header of `name:type` fields, found an empty file")
            .at(path)
            .hint("fetch or write the file again")
    })
}

/// Byte offset and line of the record that the tokeniser, standing at `position`, reads next: it has yet to skip blank
/// lines and the LF of the last CRLF.
fn next_record(bytes: &[u8], position: &csv::Position) -> (usize, u64) {
    let start = position.byte() as usize;
    let ends = bytes[start..].iter().take_while(|&&b| b == b'\n' || b == b'\r');
    let (skipped, lines) = ends.fold((0, 0), |(n, lines), &b| (n + 1, lines + u64::from(b == b'\n')));
    (start + skipped, position.line() + lines)
}

/// What the tokeniser found wrong.
fn explain(error: &csv::Error, header: &[String]) -> Error {
    let csv::ErrorKind::Utf8 { err, .. } = error.kind() else {
        return Error::new(format!("cannot split the line into fields: {error}"));
    };
    let error = Error::new(format!(
        "expected UTF-8, found a byte that is not after {} good bytes of field {}",
        err.valid_up_to(),
        err.field() + 1
    ))
    .hint("convert the file to UTF-8");
    match header.get(err.field()) {
        Some(name) => error.column(name),
        None => error,
    }
}

/// The table that the header describes, yet without rows.
fn parse_header(path: &Path, record: &csv::StringRecord, load: Option<&[String]>) -> Result<Table> {
    let mut names: Vec<String> = Vec::new();
    let mut columns = Vec::new();
    for (index, field) in record.iter().enumerate() {
        let wrong = |problem: String| Error::new(problem).column(excerpt(field));
        let (name, kind) = field.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            wrong(format!("expected `name:type` in the header, found `{}`", excerpt(field)))
                .hint("write the header as in `user_id:token`, and check `field_separator`")
        })?;
        let values = Values::of_type(kind).ok_or_else(|| {
            wrong(format!("expected the type token, token_seq, float or float_seq, found `{}`", excerpt(kind)))
                .hint("correct the header, and check `field_separator`")
        })?;
        if names.iter().any(|known| known == name) {
            return Err(wrong(format!("expected each column once, found a second `{}`", excerpt(name)))
                .hint("rename or remove one of the two"));
        }
        if load.is_none_or(|load| load.iter().any(|wanted| wanted == name)) {
            columns.push((index, Column { name: name.to_owned(), values }));
        }
        names.push(name.to_owned());
    }
    Ok(Table::new(path, names, columns))
}
