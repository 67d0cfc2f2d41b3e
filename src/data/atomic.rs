//! RecBole's atomic files: a header of `name:type` fields, then one row a line.
//!
//! Rows are read as RecBole's users get them from pandas: fields may be quoted with `"` (a quote inside is doubled, a
//! quote after the first character is an ordinary character), lines end in LF, CRLF or CR, blank lines are skipped,
//! fields missing at the end of a line and pandas' names for "not available" ([`is_missing`](super::table::is_missing)) are missing values.
//!
//! DIFFERENCE: pandas, when it loads named columns, drops surplus fields without a word; here they are an error, because
//! a row that has slipped by one field gives wrong data. `True` is not a number either.

use std::collections::HashSet;
use std::path::Path;

use super::table::{Column, Table, Values};
use crate::excerpt::excerpt;
use crate::{Error, Result};

/// How the fields of a file are separated.
#[derive(Debug, Clone, Copy)]
pub struct Format<'a> {
    /// The byte between two fields.
    pub field_separator: u8,
    /// The text between two elements of a sequence.
    pub seq_separator: &'a str,
}

/// The columns of a file that are loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Columns<'a> {
    /// Those of these that it has; `None` loads all.
    pub load: Option<&'a [String]>,
    /// But not these.
    pub unload: &'a [String],
    /// Of those loaded, the ones that something is made of.
    pub read: &'a [&'a str],
    /// What to do about a bad value in any other; empty for nothing.
    pub cure: &'a str,
}

/// Reads the columns of the file at `path`.
///
/// # Errors
/// The file cannot be read or is empty; a header field is not `name:type`, its type is unknown or its name repeated; a
/// line has too many fields, a number that is none, bytes that are not UTF-8, or a quote that is never closed; the lines
/// leave out more fields at their ends than the file has bytes.
pub fn read(path: &Path, format: Format, columns: Columns) -> Result<Table> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the file", e))?;
    parse_columns(path, bytes, format, columns)
}

/// Reads the columns in `load` that `bytes` have, or all of them; `path` is for messages.
///
/// # Errors
/// As [`read`], but for those of the file system.
pub fn parse(path: &Path, bytes: Vec<u8>, format: Format, load: Option<&[String]>) -> Result<Table> {
    parse_columns(path, bytes, format, Columns { load, ..Columns::default() })
}

fn parse_columns(path: &Path, mut bytes: Vec<u8>, format: Format, columns: Columns) -> Result<Table> {
    if let Some((form, cure)) = other_form(&bytes) {
        return Err(Error::new(format!("expected UTF-8 text, found {form}")).at(path).hint(cure));
    }
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(..3);
    }
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
    let mut left_out = 0;
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
            None => table = Some(parse_header(path, &record, columns).map_err(|error| error.at(path).line(line))?),
            Some(table) => {
                // Otherwise a wide header and many short lines would take memory by the square of the file's size.
                left_out += table.header().len().saturating_sub(record.len());
                if left_out > end {
                    return Err(too_short(table.header().len(), record.len()).at(path).line(line));
                }
                table.check_width(&record, line)?;
                table.push(&record, line, format.seq_separator).map_err(|(error, column)| {
                    let is_read = columns.cure.is_empty() || columns.read.contains(&&*column);
                    if is_read { error } else { error.hint(columns.cure) }
                })?;
                // The tokeniser counts the line end behind a record, too.
                let lines = reader.position().line().saturating_sub(line);
                if lines > 1 && record.iter().any(|field| field.contains('\n')) {
                    table.spans(line, lines);
                }
            }
        }
    }
    table.ok_or_else(|| {
        Error::new("expected a header of `name:type` fields, found an empty file")
            .at(path)
            .hint("fetch or write the file again")
    })
}

/// What a file that is no UTF-8 text is known by, and what to do with it.
fn other_form(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    match bytes {
        [0x1f, 0x8b, ..] => Some(("a gzip file", "unpack it with gunzip")),
        [b'P', b'K', 3, 4, ..] => Some(("a zip archive", "unpack it")),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(("UTF-16", "save the file as UTF-8")),
        _ => None,
    }
}

/// Byte offset and line of the record that the tokeniser, standing at `position`, reads next: it has yet to skip blank
/// lines and the LF of the last CRLF.
fn next_record(bytes: &[u8], position: &csv::Position) -> (usize, u64) {
    let start = position.byte() as usize;
    let ends = bytes[start..].iter().take_while(|&&b| b == b'\n' || b == b'\r');
    let (skipped, lines) = ends.fold((0, 0), |(n, lines), &b| (n + 1, lines + u64::from(b == b'\n')));
    (start + skipped, position.line() + lines)
}

fn too_short(expected: usize, found: usize) -> Error {
    let problem =
        format!("expected lines of {expected} fields, found {found} here and more left out so far than bytes");
    Error::new(problem).hint("write every field, if only as an empty one, and check `field_separator`")
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
fn parse_header(path: &Path, record: &csv::StringRecord, wanted: Columns) -> Result<Table> {
    let (mut names, mut known) = (Vec::new(), HashSet::new());
    let mut columns = Vec::new();
    for (index, field) in record.iter().enumerate() {
        let wrong = |problem: String| Error::new(problem).column(excerpt(field));
        let (name, kind) = field.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
            let hint = match (index, field.is_empty()) {
                (0, true) => "leave out the unnamed column, as pandas does with `to_csv(index=False)`",
                (_, true) => "remove the separator at the end of the header",
                _ => "write the header as in `user_id:token`, and check `field_separator`",
            };
            wrong(format!("expected `name:type` in the header, found `{}`", excerpt(field))).hint(hint)
        })?;
        let values = Values::of_type(kind).ok_or_else(|| {
            wrong(format!("expected the type token, token_seq, float or float_seq, found `{}`", excerpt(kind)))
                .hint("correct the header, and check `field_separator`")
        })?;
        if !known.insert(name) {
            return Err(wrong(format!("expected each column once, found a second `{}`", excerpt(name)))
                .hint("rename or remove one of the two"));
        }
        let is_wanted = wanted.load.is_none_or(|load| load.iter().any(|one| one == name))
            && wanted.unload.iter().all(|other| other != name);
        if is_wanted {
            columns.push((index, Column { name: name.to_owned(), values }));
        }
        names.push(name.to_owned());
    }
    Ok(Table::new(path, names, columns))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::table::is_missing;
    use super::*;

    const TABS: Format = Format { field_separator: b'\t', seq_separator: " " };

    fn parse_text(text: &str) -> Result<Table> {
        parse(Path::new("t.inter"), text.into(), TABS, None)
    }

    /// The tokens of column `name`, empty where missing.
    fn tokens(table: &Table, name: &str) -> Vec<String> {
        let column = table.tokens(name, "key").unwrap();
        let token = |&id: &i64| if id == 0 { String::new() } else { column.vocabulary.token(id).unwrap().to_owned() };
        column.ids.iter().map(token).collect()
    }

    #[test]
    fn lines_are_counted_through_crlf_blank_lines_and_quoted_line_ends() {
        for end in ["\n", "\r\n"] {
            let text = ["a:token\tb:float", "", "x\t1", "\"y", "z\"\t2", "  ", "", "w\t3"].join(end);
            let table = parse_text(&text).unwrap();
            let lines: Vec<u64> = (0..table.n_rows()).map(|row| table.line(row)).collect();
            assert_eq!(lines, [3, 4, 8], "line end {end:?}");
            assert_eq!(tokens(&table, "a"), ["x".to_owned(), format!("y{end}z"), "w".to_owned()]);
        }
    }

    #[test]
    fn a_quoted_blank_is_a_row_and_a_bare_one_is_not() {
        let table = parse_text("a:token\tb:float\n\"  \"\n  \n\"\"\n\t\n").unwrap();
        assert_eq!(tokens(&table, "a"), ["  ", "", ""]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_name() {
        let table = parse_text("\u{feff}a:token\tb:float\nx\t1\n").unwrap();
        assert_eq!(tokens(&table, "a"), ["x"]);
        let empty = parse_text("\u{feff}").unwrap_err().to_string();
        assert!(empty.contains("found an empty file"), "{empty}");
    }

    #[test]
    fn a_file_of_another_form_is_named() {
        let found = |bytes: &[u8]| parse(Path::new("t.inter"), bytes.to_vec(), TABS, None).unwrap_err().to_string();
        assert_eq!(found(&[0x1f, 0x8b, 8]), "t.inter: expected UTF-8 text, found a gzip file; unpack it with gunzip");
        assert_eq!(found(&[0xff, 0xfe, b'u', 0]), "t.inter: expected UTF-8 text, found UTF-16; save the file as UTF-8");
    }

    #[test]
    fn numbers_are_those_of_pandas() {
        for (field, value) in
            [(" 3", 3.0), ("3 ", 3.0), ("+5", 5.0), (".5", 0.5), ("5.", 5.0), ("1E+5", 1e5), ("\"3\"", 3.0)]
        {
            let table = parse_text(&format!("a:token\tb:float\nx\t{field}\n")).unwrap();
            assert_eq!(table.floats("b", "key").unwrap(), [value], "{field:?}");
        }
        for field in ["NAN", "1e", "1_0", "0x10", " NA", "1,5", " ", "--3", "3 4", "-", "+nan"] {
            let error = parse_text(&format!("a:token\tb:float\nx\t{field}\n")).unwrap_err().to_string();
            assert!(error.starts_with("t.inter, line 2, column `b`: expected a number, found"), "{field:?}: {error}");
        }
    }

    #[test]
    fn names_of_missing_values_are_padding_no_number_and_no_sequence() {
        for field in ["", "NA", "\"NA\"", "nan", "-nan", "None", "null", "NULL", "<NA>", "n/a", "#N/A N/A", "1.#QNAN"] {
            let text = format!("a:token\tb:float\tc:token_seq\td:float_seq\n{0}\t{0}\t{0}\t{0}\nx\t1\ty\t2\n", field);
            let table = parse_text(&text).unwrap();
            assert_eq!(tokens(&table, "a"), ["", "x"], "{field:?}");
            assert!(table.floats("b", "key").unwrap()[0].is_nan());
            assert_eq!(table.column("c", "key").unwrap().token_ids(0), [0; 0]);
        }
        for field in [" NA", "NONE", "none", "Null", "[PAD]"] {
            let table = parse_text(&format!("a:token\tb:float\n{field}\t1\n")).unwrap();
            assert_eq!(tokens(&table, "a"), [field]);
        }
    }

    #[test]
    fn a_quote_inside_an_unquoted_field_is_a_character() {
        let table = parse_text("a:token\tb:token\na\"b\"\t\"a\"b\"c\"\n \"a\"\t\"x\ty\"\n").unwrap();
        assert_eq!(
            (tokens(&table, "a"), tokens(&table, "b")),
            (vec!["a\"b\"".into(), " \"a\"".into()], vec!["ab\"c\"".into(), "x\ty".into()])
        );
    }

    #[test]
    fn columns_that_are_not_named_are_not_loaded_nor_checked() {
        let load = ["b".to_owned(), "z".to_owned()];
        let table = parse(Path::new("t"), "a:float\tb:token\nno number\tx\n".into(), TABS, Some(&load)).unwrap();
        assert_eq!(table.columns().iter().map(|column| &*column.name).collect::<Vec<_>>(), ["b"]);
        assert_eq!(tokens(&table, "b"), ["x"]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_table_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Path::new("t"), bytes, TABS, None);
        }

        #[test]
        fn any_rows_under_a_good_header_give_a_table_or_an_error(rows in "([a1.\"\t\r\n é-]|NA){0,60}") {
            let header = "a:token\tb:float\tc:token_seq\td:float_seq\n";
            let Ok(table) = parse_text(&format!("{header}{rows}")) else { return Ok(()) };
            let good = |values: &Values, row: usize| match values {
                Values::Token(tokens) => tokens.vocabulary.token(tokens.ids[row]).is_some(),
                Values::TokenSeq(tokens) => tokens.ids.row(row).iter().all(|&id| id > 0),
                Values::Float(values) => values.len() == table.n_rows(),
                Values::FloatSeq => true,
            };
            for column in table.columns() {
                prop_assert!((0..table.n_rows()).all(|row| good(&column.values, row)));
            }
        }

        #[test]
        fn what_is_quoted_is_read_back(fields in prop::collection::vec(("[a\"\t\r\n NA]{0,6}", "[a\"\t\r\n ]{1,6}"), 0..8)) {
            let quote = |field: &str| format!("\"{}\"", field.replace('"', "\"\""));
            let rows: String = fields.iter().map(|(a, b)| format!("{}\t{}\r\n", quote(a), quote(b))).collect();
            let table = parse_text(&format!("a:token\tb:token\n{rows}")).unwrap();
            let expected = |field: &String| if is_missing(field) { String::new() } else { field.clone() };
            prop_assert_eq!(tokens(&table, "a"), fields.iter().map(|(a, _)| expected(a)).collect::<Vec<_>>());
            prop_assert_eq!(tokens(&table, "b"), fields.iter().map(|(_, b)| expected(b)).collect::<Vec<_>>());
        }
    }
}
