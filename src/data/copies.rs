//! The copy of Amazon_Beauty that the published figures are of, and in what another one differs from it.
//!
//! Copies of a data set go by one name and still differ: in attributes, in rows, in the order of rows, which decides ids, batches
//! and ties in time (docs/data.md). What is compared is what a training sees, after the configuration's filters.

use sha2::{Digest, Sha256};

use super::{Dataset, Rows, Splits};
use crate::tensors::hex;

/// What is known of a copy. Digests are SHA-256 of sorted lines, so that they do not depend on the order of rows.
#[derive(Debug)]
struct Copy {
    dataset: &'static str,
    /// Without the padding.
    users: usize,
    items: usize,
    interactions: usize,
    /// Of every interaction: `user TAB item`.
    pairs: &'static str,
    attribute: &'static str,
    /// The attribute's tokens, the padding counted.
    tokens: usize,
    /// Of every item: `item TAB tokens`, separated by blanks.
    item_tokens: &'static str,
    /// Of every test row: `user TAB target`.
    tested: &'static str,
    /// The targets of the training split in order, as `data inspect` and the golden files hash them.
    train: &'static str,
}

/// It gives the statistics, the model and the parameter count of the notebook's log: `golden/Amazon_Beauty_seed_config.json`.
static COMPLETE: Copy = Copy {
    dataset: "Amazon_Beauty",
    users: 22_363,
    items: 12_101,
    interactions: 198_502,
    pairs: "087394684a5132225c925a600fa62bd5cfcfd38a4821dbbfc04b0730a4999476",
    attribute: "categories",
    tokens: 355,
    item_tokens: "11228846a48e5d31404efe0e8b1d7658f2ba2a77d47bf6d7ce47723d6909435e",
    tested: "9104131931149fd7ddaf1a11fb309bb6fa4b3f889c80d2b9dceddb33ef28316a",
    train: "309febe6ef53dd5654a4da1ea5bf4187f9756453d0f2d029538edc53396880a2",
};

/// `COMPLETE.train`'s of the copy that this project measured before.
const OLDER: &str = "1d12f9112d9db772c40302186b6207f2a68e9faaf1c3ef0e100e56f3647af566";

/// In one sentence, in what a data set differs from the copy of it that published figures are of; `None` where it does not, or
/// where no such copy is known.
pub fn difference(dataset: &Dataset, splits: &Splits) -> Option<String> {
    (dataset.name == COMPLETE.dataset).then(|| COMPLETE.difference(dataset, splits)).flatten()
}

impl Copy {
    fn difference(&self, dataset: &Dataset, splits: &Splits) -> Option<String> {
        let order = splits.train.hashes().item_id;
        let differences: Vec<String> = [self.rows(dataset), self.tokens(dataset), self.order(dataset, splits, &order)]
            .into_iter()
            .flatten()
            .collect();
        let known = if order == OLDER { "the older copy" } else { "no copy that is known here" };
        let (name, differences) = (self.dataset, differences.join(", "));
        (!differences.is_empty()).then(|| {
            format!("{name} is {known}; it differs from that of the notebook in this: {differences} (docs/data.md)")
        })
    }

    fn rows(&self, dataset: &Dataset) -> Option<String> {
        let counts = [
            (dataset.users.len() - 1, self.users, "users"),
            (dataset.items.len() - 1, self.items, "items"),
            (dataset.user.len(), self.interactions, "interactions"),
        ];
        let counts: Vec<String> = (counts.into_iter().filter(|(found, expected, _)| found != expected))
            .map(|(found, expected, what)| format!("{found} {what} for {expected}"))
            .collect();
        match counts.is_empty() {
            false => Some(counts.join(", ")),
            true if pairs(dataset) != self.pairs => Some("other items of some users".to_owned()),
            true => None,
        }
    }

    /// Of a run that selects the attribute.
    fn tokens(&self, dataset: &Dataset) -> Option<String> {
        let attribute = dataset.attributes.iter().find(|attribute| attribute.name == self.attribute)?;
        let (found, Self { attribute: name, tokens, .. }) = (attribute.vocab.len(), self);
        let lines = (1..dataset.items.len()).map(|item| {
            let ids = &attribute.ids[item * attribute.width..][..attribute.width];
            let tokens = ids.iter().filter(|&&id| id > 0).filter_map(|&id| attribute.vocab.token(id));
            format!(
                "{}\t{}",
                dataset.items.token(item as i64).unwrap_or_default(),
                tokens.collect::<Vec<_>>().join(" ")
            )
        });
        match found == *tokens {
            false => Some(format!("{found} tokens of `{name}` for {tokens}")),
            true if digest(lines) != self.item_tokens => Some(format!("other tokens of `{name}` of some items")),
            true => None,
        }
    }

    /// Only where the rows are the same.
    fn order(&self, dataset: &Dataset, splits: &Splits, order: &str) -> Option<String> {
        if order == self.train || pairs(dataset) != self.pairs {
            return None;
        }
        let tested = digest(targets(dataset, &splits.test)) == self.tested;
        let tested = if tested { "the same items are tested" } else { "other items are tested" };
        Some(format!("its rows in another order, which gives other ids and batches; {tested}"))
    }
}

fn pairs(dataset: &Dataset) -> String {
    digest(dataset.user.iter().zip(&dataset.item).map(|(&user, &item)| pair(dataset, user.into(), item.into())))
}

fn targets(dataset: &Dataset, rows: &Rows) -> impl Iterator<Item = String> {
    (0..rows.n()).map(|row| pair(dataset, rows.user(row), rows.target(row)))
}

fn pair(dataset: &Dataset, user: i64, item: i64) -> String {
    format!("{}\t{}", dataset.users.token(user).unwrap_or_default(), dataset.items.token(item).unwrap_or_default())
}

/// SHA-256 of the lines, sorted.
fn digest(lines: impl Iterator<Item = String>) -> String {
    let mut lines: Vec<String> = lines.collect();
    lines.sort_unstable();
    let text: String = lines.into_iter().flat_map(|line| [line, "\n".to_owned()]).collect();
    hex(&Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{config, dataset};
    use super::super::split::split;
    use super::super::{Attribute, Vocabulary};
    use super::*;
    use crate::config::AttributeKind;

    /// Two users of three items, with the day of each.
    const ROWS: [(i64, i64, f64); 6] = [(1, 1, 1.0), (1, 2, 2.0), (1, 3, 2.0), (2, 2, 1.0), (2, 1, 2.0), (2, 3, 3.0)];

    /// The data set of these rows, each item with its token of `categories`.
    fn copy(rows: &[(i64, i64, f64)], tokens: [&str; 3]) -> (Dataset, Splits) {
        let mut dataset = dataset(rows);
        dataset.name = "known".to_owned();
        let mut vocab = Vocabulary::default();
        let ids = [0].into_iter().chain(tokens.map(|token| vocab.intern(token))).collect();
        dataset.attributes =
            vec![Attribute { name: "categories".to_owned(), kind: AttributeKind::TokenSeq, vocab, width: 1, ids }];
        let splits = split(&dataset, &config()).unwrap();
        (dataset, splits)
    }

    /// In what such a data set differs from that of [`ROWS`] with the tokens a, b, b.
    fn found(rows: &[(i64, i64, f64)], tokens: [&str; 3]) -> Option<String> {
        let (dataset, splits) = copy(&ROWS, ["a", "b", "b"]);
        let mut known = Copy {
            dataset: "known",
            users: 2,
            items: 3,
            interactions: 6,
            pairs: pairs(&dataset).leak(),
            attribute: "categories",
            tokens: 3,
            item_tokens: "",
            tested: digest(targets(&dataset, &splits.test)).leak(),
            train: splits.train.hashes().item_id.leak(),
        };
        known.item_tokens = digest(["i1\ta", "i2\tb", "i3\tb"].map(str::to_owned).into_iter()).leak();
        let (dataset, splits) = copy(rows, tokens);
        let sentence = known.difference(&dataset, &splits)?;
        let said = sentence
            .strip_prefix("known is no copy that is known here; it differs from that of the notebook in this: ");
        Some(said.expect("a sentence").trim_end_matches(" (docs/data.md)").to_owned())
    }

    #[test]
    fn a_copy_is_told_apart_by_its_rows_its_tokens_and_their_order() {
        assert_eq!(found(&ROWS, ["a", "b", "b"]), None);
        let mut fewer = ROWS.to_vec();
        fewer.pop();
        assert_eq!(found(&fewer, ["a", "b", "b"]).unwrap(), "5 interactions for 6");
        let mut other = ROWS;
        other[4].1 = 3;
        assert_eq!(found(&other, ["a", "b", "b"]).unwrap(), "other items of some users");
        assert_eq!(found(&ROWS, ["a", "b", "c"]).unwrap(), "4 tokens of `categories` for 3");
        assert_eq!(found(&ROWS, ["b", "a", "b"]).unwrap(), "other tokens of `categories` of some items");
    }

    #[test]
    fn another_order_says_whether_the_same_items_are_tested() {
        let order = "its rows in another order, which gives other ids and batches; ";
        // The first user later, each user's own order as it was.
        let later = ROWS.map(|(user, item, time)| (user, item, if user == 1 { time + 9.0 } else { time }));
        assert_eq!(found(&later, ["a", "b", "b"]).unwrap(), format!("{order}the same items are tested"));
        // Two rows of one day.
        let mut day = ROWS;
        day.swap(1, 2);
        assert_eq!(found(&day, ["a", "b", "b"]).unwrap(), format!("{order}other items are tested"));
    }

    #[test]
    fn of_a_data_set_that_is_not_known_nothing_is_said() {
        let (dataset, splits) = copy(&ROWS, ["a", "b", "b"]);
        assert_eq!(difference(&dataset, &splits), None);
    }
}
