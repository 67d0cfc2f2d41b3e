//! Reviews and metadata to RecBole's atomic files, as the RecSysDatasets project converts them.
//!
//! Its converter runs each line of metadata as Python and writes with pandas. What it writes is kept: columns and their order,
//! all products in their order, names of categories as Python writes a set of texts, numbers with a decimal point, quotes where a field
//! has a tab, a line end or a quote, entities such as `&amp;` as they are.
//!
//! DIFFERENCE: an item's categories. There they are a Python set of the names in all paths, in another order in every run. Here
//! they are the names of the first path, in its order, as in the file of the authors' notebook: docs/data.md.
//!
//! DIFFERENCE: `salesRank` may be empty, or have several keys. There every later row's rank then slips by as many; here
//! it stays with its product: none, or the first.
//!
//! DIFFERENCE: a product without the name of a category has none. There it has the token `et(`, what is left of `set()`.
//!
//! DIFFERENCE: of products with the same id the first is kept. There all are, and no reader can tell whose attributes hold.
//!
//! DIFFERENCE: interactions are read from the 5-core reviews. There they are all ratings, from which RecBole takes the 5-core.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::path::Path;

use serde::Deserialize;

use super::lines::Lines;
use super::sources::ItemColumn;
use super::watch::Watch;
use crate::python::{self, Dict, Value};
use crate::{Error, Result};

/// What is read of a review.
#[derive(Deserialize)]
struct Review<'a> {
    #[serde(rename = "reviewerID", borrow)]
    user: Cow<'a, str>,
    #[serde(rename = "asin", borrow)]
    item: Cow<'a, str>,
    /// One to five stars.
    #[serde(rename = "overall")]
    rating: f64,
    /// Seconds since 1970, whole days.
    #[serde(rename = "unixReviewTime")]
    time: i64,
}

/// Writes the `.inter` file of an archive of reviews; gives the number of interactions.
///
/// # Errors
/// The archive is damaged or too large ([`Lines`]); a line is no review; the file cannot be written.
pub fn interactions(archive: &Path, out: &Path, watch: &mut Watch) -> Result<u64> {
    let mut writer = Writer::create(out, &["user_id:token", "item_id:token", "rating:float", "timestamp:float"])?;
    let mut lines = Lines::open(archive)?;
    loop {
        let Some((number, line)) = lines.next()? else { break };
        let review: Result<Review, _> = serde_json::from_slice(line);
        let review = review.map_err(|e| {
            let said = e.to_string();
            let said = said.rsplit_once(" at line ").map_or(&*said, |(problem, _)| problem);
            wrong(archive, number, format!("expected a review in JSON, found at byte {}: {said}", e.column()))
        })?;
        if review.user.is_empty() || review.item.is_empty() {
            return Err(wrong(
                archive,
                number,
                "expected a review of a user and an item, found an empty name".to_owned(),
            ));
        }
        writer.row([&*review.user, &*review.item, &format!("{:?}", review.rating), &review.time.to_string()])?;
        watch.lines(&lines, writer.rows)?;
    }
    writer.finish()
}

/// Writes the `.item` file of an archive of metadata; gives the numbers of items, and of those left out because their id was there.
///
/// # Errors
/// As for [`interactions`].
pub fn items(archive: &Path, out: &Path, columns: &[ItemColumn], watch: &mut Watch) -> Result<(u64, u64)> {
    let header: Vec<&str> = std::iter::once("item_id:token").chain(columns.iter().map(|c| c.header())).collect();
    let mut writer = Writer::create(out, &header)?;
    // The ids of all products: what this takes of memory grows with their number.
    let (mut seen, mut repeated) = (HashSet::new(), 0);
    let mut lines = Lines::open(archive)?;
    loop {
        let Some((number, line)) = lines.next()? else { break };
        let row = product(line, columns).map_err(|problem| wrong(archive, number, problem))?;
        if seen.insert(row[0].clone().into_owned()) {
            writer.row(row.iter().map(|field| &**field))?;
        } else {
            repeated += 1;
        }
        watch.lines(&lines, writer.rows + repeated)?;
    }
    Ok((writer.finish()?, repeated))
}

fn wrong(archive: &Path, line: u64, problem: String) -> Error {
    Error::new(problem).at(archive).line(line).hint("this is not the data set's file, or another version of it")
}

/// The fields of a product's row.
fn product<'a>(line: &'a [u8], columns: &[ItemColumn]) -> Result<Vec<Cow<'a, str>>, String> {
    let line = std::str::from_utf8(line)
        .map_err(|e| format!("expected UTF-8, found a byte that is not after {} good bytes", e.valid_up_to()))?;
    let product = python::dict(line).map_err(|python::Problem { at, expected }| {
        let found: String = line[at..].chars().take(20).map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("expected {expected} behind {at} bytes of a Python dictionary, found `{found}`")
    })?;
    let id = text(&product, "asin")?;
    if id.is_empty() {
        return Err("expected a product with an `asin`, found none".to_owned());
    }
    let (sales_type, sales_rank) = match product.get("salesRank") {
        None | Some(Value::None) => Default::default(),
        Some(Value::Dict(ranks)) => match ranks.0.first() {
            Some((kind, _)) => (kind.clone(), number(ranks, kind)?),
            None => Default::default(),
        },
        Some(_) => return Err("expected a dictionary as `salesRank`, found something else".to_owned()),
    };
    let field = |column: &ItemColumn| match column {
        ItemColumn::Title => text(&product, "title"),
        ItemColumn::SalesType => Ok(sales_type.clone()),
        ItemColumn::SalesRank => Ok(sales_rank.clone()),
        ItemColumn::Categories => categories(&product),
        ItemColumn::Price => number(&product, "price"),
        ItemColumn::Brand => text(&product, "brand"),
    };
    std::iter::once(Ok(id)).chain(columns.iter().map(field)).collect()
}

/// A text, empty where there is none. A number stands as it is written.
fn text<'a>(dict: &Dict<'a>, key: &str) -> Result<Cow<'a, str>, String> {
    match dict.get(key) {
        None | Some(Value::None) => Ok(Cow::Borrowed("")),
        Some(Value::Text(text)) => Ok(text.clone()),
        Some(Value::Number(written)) => Ok(Cow::Borrowed(written)),
        Some(_) => Err(format!("expected a text as `{key}`, found something else")),
    }
}

/// A number with a decimal point, empty where there is none.
fn number<'a>(dict: &Dict<'a>, key: &str) -> Result<Cow<'a, str>, String> {
    match dict.get(key) {
        None | Some(Value::None) => Ok(Cow::Borrowed("")),
        Some(Value::Number(written)) => {
            let value: f64 =
                written.parse().map_err(|e| format!("expected a number as `{key}`, found `{written}`: {e}"))?;
            Ok(Cow::Owned(format!("{value:?}")))
        }
        Some(_) => Err(format!("expected a number as `{key}`, found something else")),
    }
}

/// The names of the first path in its order, as Python writes them between the brackets of a list.
fn categories<'a>(product: &Dict<'a>) -> Result<Cow<'a, str>, String> {
    let wrong = || "expected lists of texts as `categories`, found something else".to_owned();
    let paths = match product.get("categories") {
        None | Some(Value::None) => &[][..],
        Some(Value::List(paths)) => paths,
        Some(_) => return Err(wrong()),
    };
    let mut first = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let Value::List(names) = path else { return Err(wrong()) };
        for name in names {
            let Value::Text(name) = name else { return Err(wrong()) };
            if i == 0 {
                first.push(python::repr(name));
            }
        }
    }
    Ok(Cow::Owned(first.join(", ")))
}

/// An atomic file that is being written.
struct Writer<'a> {
    path: &'a Path,
    csv: csv::Writer<File>,
    rows: u64,
}

impl<'a> Writer<'a> {
    fn create(path: &'a Path, header: &[&str]) -> Result<Self> {
        let file = File::create(path).map_err(|e| Error::unwritable(path, e))?;
        // Quotes where a field needs them, doubled inside: what pandas writes.
        let mut csv = csv::WriterBuilder::new().delimiter(b'\t').from_writer(file);
        csv.write_record(header).map_err(|e| Error::unwritable(path, e.into()))?;
        Ok(Self { path, csv, rows: 0 })
    }

    fn row<'f>(&mut self, fields: impl IntoIterator<Item = &'f str>) -> Result<()> {
        self.rows += 1;
        self.csv.write_record(fields).map_err(|e| Error::unwritable(self.path, e.into()))
    }

    /// Everything is on the disk; gives the number of rows.
    fn finish(self) -> Result<u64> {
        let file = self.csv.into_inner().map_err(|e| Error::unwritable(self.path, e.into_error()))?;
        file.sync_all().map_err(|e| Error::unwritable(self.path, e))?;
        Ok(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::super::lines::tests::packed;
    use super::*;
    use crate::fetch::sources::SOURCES;

    /// The files that two archives of this content give.
    fn converted(content: &[u8]) -> (Result<String>, Result<String>) {
        let folder = tempfile::tempdir().unwrap();
        let (archive, out) = (packed(folder.path(), content), folder.path().join("out"));
        let (stop, mut report) = (AtomicBool::new(false), |_: &super::super::Event| {});
        let mut watch = Watch { stop: &stop, report: &mut report };
        let read = || std::fs::read_to_string(&out).unwrap();
        let inter = interactions(&archive, &out, &mut watch).map(|_| read());
        let item = items(&archive, &out, &SOURCES[0].columns, &mut watch).map(|_| read());
        (inter, item)
    }

    fn item_row(line: &str) -> String {
        let (_, items) = converted(line.as_bytes());
        items.unwrap().split_once('\n').unwrap().1.to_owned()
    }

    #[test]
    fn a_review_becomes_user_item_rating_and_time() {
        let review = r#"{"reviewText": "\ud800 é", "unixReviewTime": 1390348800, "asin": "B1", "overall": 5, "reviewerID": "A\u0031"}"#;
        let (inter, _) = converted(review.as_bytes());
        assert_eq!(
            inter.unwrap(),
            "user_id:token\titem_id:token\trating:float\ttimestamp:float\nA1\tB1\t5.0\t1390348800\n"
        );
    }

    #[test]
    fn a_product_becomes_a_row_with_nothing_where_something_is_missing() {
        for (line, row) in [
            ("{'asin': 'B1'}", "B1\t\t\t\t\t\t\n"),
            ("{'asin': 'B1', 'title': None, 'categories': [[]], 'salesRank': {}}", "B1\t\t\t\t\t\t\n"),
            ("{'asin': '0012', 'price': 7, 'salesRank': {'Beauty': 12, 'Toys': 3}}", "0012\t\tBeauty\t12.0\t\t7.0\t\n"),
            ("{'asin': 'B1', 'title': 'a\\tb\"', 'brand': 'x &amp; y'}", "B1\t\"a\tb\"\"\"\t\t\t\t\tx &amp; y\n"),
            (
                "{'asin': 'B1', 'categories': [['Beauty', \"Women's\"], ['Beauty', 'Face']]}",
                "B1\t\t\t\t\"'Beauty', \"\"Women's\"\"\"\t\t\n",
            ),
        ] {
            assert_eq!(item_row(line), row, "{line}");
        }
    }

    #[test]
    fn of_two_products_with_one_id_the_first_is_kept() {
        assert_eq!(item_row("{'asin': 'B1', 'brand': 'x'}\n{'asin': 'B1', 'brand': 'y'}\n"), "B1\t\t\t\t\t\tx\n");
    }

    #[test]
    fn a_line_that_is_no_product_is_named() {
        for (line, problem) in [
            ("{'title': 'x'}", "expected a product with an `asin`, found none"),
            ("{'asin': ['B1']}", "expected a text as `asin`, found something else"),
            ("{'asin': 'B1', 'price': '7'}", "expected a number as `price`, found something else"),
            ("{'asin': 'B1', 'salesRank': 7}", "expected a dictionary as `salesRank`, found something else"),
            (
                "{'asin': 'B1', 'categories': ['Beauty']}",
                "expected lists of texts as `categories`, found something else",
            ),
            ("{'asin': exit()}", "expected a text, a number, None, True, False, a list or a dictionary behind 9 bytes"),
        ] {
            let (_, items) = converted(format!("{{'asin': 'B0'}}\n{line}\n").as_bytes());
            let error = items.unwrap_err().to_string();
            assert!(error.contains(&format!("archive.json.gz, line 2: {problem}")), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_bytes_give_files_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = converted(&bytes);
        }

        #[test]
        fn any_fields_of_a_product_give_a_row_or_an_error(values in prop::collection::vec("'x'|1.5|None|\\[\\]|\\[\\['a', 'b'\\]\\]|\\{'a': 2\\}|\\{\\}", 5)) {
            let keys = ["title", "price", "salesRank", "categories", "brand"];
            let pairs: String = keys.iter().zip(&values).map(|(key, value)| format!(", '{key}': {value}")).collect();
            let (_, items) = converted(format!("{{'asin': 'B1'{pairs}}}").as_bytes());
            if let Ok(items) = items {
                prop_assert_eq!(items.lines().nth(1).unwrap().split('\t').count(), 7);
            }
        }
    }
}
