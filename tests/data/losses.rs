//! What is lost of the data is told, and what a bad value needs is said.

use std::path::Path;

use dif_sr::config::{AttributeKind, DataConfig, Interval, RunConfig};
use dif_sr::data::Dataset;

use super::{at_least, config, written};

/// A data set of its own with an `.item` file: the interactions are `u a`, `u b`, `u c`, `v a` in order of time.
fn with_items(folder: &Path, items: &str) -> DataConfig {
    let rows = [("u", "a", 1.0), ("u", "b", 2.0), ("u", "c", 3.0), ("v", "a", 4.0)];
    let config = written(folder, &rows);
    std::fs::write(folder.join("own/own.item"), items).unwrap();
    config
}

#[test]
fn items_as_their_own_attribute_have_their_own_ids() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_items(folder.path(), "item_id:token\nc\nz\na\n");
    let config =
        DataConfig { selected_features: vec!["item_id".into()], filter_inter_by_user_or_item: false, ..config };
    let dataset = Dataset::load(&config).unwrap();
    let [items] = &dataset.attributes[..] else { panic!("one attribute") };
    // RecBole gives every item a row of the item features, which holds the item's number.
    assert_eq!(items.ids, [0, 1, 2, 3, 4]);
    assert_eq!(items.vocab.iter().collect::<Vec<_>>(), dataset.items.iter().collect::<Vec<_>>());
    assert_eq!((items.kind, items.width), (AttributeKind::Token, 1));
}

#[test]
fn rows_lost_to_a_stray_quote_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let items = "item_id:token\ttitle:token\na\t\"Best\nb\tSecond\nc\tThird\"\nz\tplain\n";
    let dataset = Dataset::load(&with_items(folder.path(), items)).unwrap();
    let [spanning, lost] = &dataset.warnings[..] else { panic!("{:?}", dataset.warnings) };
    assert!(
        spanning.contains("own.item: 1 of 2 rows have fields that go on over several lines, the one on line 2 over 3")
    );
    assert!(lost.starts_with("2 of 3 items of the interactions have no row in "), "{lost}");
    assert!(
        lost.contains(": 2 of 4 interactions are left out (`filter_inter_by_user_or_item`); `b` is not there, `z` is")
    );
}

#[test]
fn ids_that_the_two_files_write_in_two_ways_are_told_with_one_of_each() {
    let folder = tempfile::tempdir().unwrap();
    let items = "item_id:token\tclass:token\na.0\tx\nb\tx\nc.0\ty\n\ty\n";
    let config = with_items(folder.path(), items);
    let config = DataConfig { selected_features: vec!["class".into()], filter_inter_by_user_or_item: false, ..config };
    let dataset = Dataset::load(&config).unwrap();
    let [unknown, unnamed] = &dataset.warnings[..] else { panic!("{:?}", dataset.warnings) };
    assert!(unknown.starts_with("2 of 3 items of the interactions have no row in "), "{unknown}");
    assert!(unknown.ends_with("their attributes are unknown; `a` is not there, `a.0` is there alone"), "{unknown}");
    assert!(unnamed.ends_with("own.item: 1 of 4 rows name no item and are left out"), "{unnamed}");
}

#[test]
fn interactions_without_user_or_time_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(folder.path(), &[("u", "a", 1.0), ("u", "b", f64::NAN), ("u", "c", 3.0), ("", "a", 4.0)]);
    let text = std::fs::read_to_string(folder.path().join("own/own.inter")).unwrap().replace("NaN", "");
    std::fs::write(folder.path().join("own/own.inter"), text).unwrap();
    let dataset = Dataset::load(&config).unwrap();
    let [unnamed, untimed] = &dataset.warnings[..] else { panic!("{:?}", dataset.warnings) };
    assert_eq!(
        unnamed,
        "1 of 4 interactions have no user or no item and are left out (`NA`, `null`, `None` and the like count as missing, \
         as in pandas)"
    );
    assert!(untimed.starts_with("1 of 3 interactions have no time and get the mean of the others', the first in "));
    assert!(untimed.ends_with("own.inter, line 3"), "{untimed}");
}

#[test]
fn users_without_a_row_of_the_user_file_go_where_load_col_names_it_as_in_recbole() {
    let none = DataConfig { load_user: vec!["user_id".into(), "age".into()], ..config("fixtures/data", "user_file") };
    let users = |config: &DataConfig| {
        let dataset = Dataset::load(config).unwrap();
        let users: Vec<_> = dataset.users.iter().skip(1).map(str::to_owned).collect();
        (users.join(" "), dataset.user.len(), dataset.warnings.len())
    };
    // What RecBole 1.2.1 gives, which numbers the users without interactions last.
    assert_eq!(users(&none), ("u w x".to_owned(), 7, 1));
    let kept = DataConfig { filter_inter_by_user_or_item: false, ..none.clone() };
    assert_eq!(users(&kept), ("u v w x".to_owned(), 9, 0));
    let some = |config| DataConfig { user_inter_num_interval: at_least(1.0), ..config };
    assert_eq!(users(&some(none.clone())), ("u w".to_owned(), 7, 1));
    assert_eq!(users(&some(kept)), ("u v w".to_owned(), 9, 0));
    assert_eq!(
        Dataset::load(&none).unwrap().warnings,
        ["1 of 3 users have no row in fixtures/data/user_file/user_file.user: their interactions are left out \
          (`filter_inter_by_user_or_item`); `v` is not there"]
    );
    let unnamed = DataConfig { load_user: Vec::new(), ..none };
    assert_eq!(users(&unnamed), ("u v w".to_owned(), 9, 0));
}

/// Interactions of users a to d, of whom d is not in the `.user` file, which has e beside; item 5 is not in the `.item` file.
fn with_users_and_items(folder: &Path) -> DataConfig {
    let rows = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1"), ("b", "5"), ("c", "3"), ("d", "2"), ("d", "5")];
    let config = written(folder, &rows.map(|(user, item)| (user, item, 1.0)));
    let write = |kind: &str, text: &str| std::fs::write(config.file(kind), text).unwrap();
    write("user", "user_id:token\tage:float\ttown:token\na\t1\tx\nb\t2\tx\nc\t3\ty\ne\t4\ty\n");
    write("item", "item_id:token\tkind:token\n1\tp\n2\tp\n3\tq\n");
    DataConfig { load_user: vec!["user_id".into(), "town".into()], selected_features: vec!["kind".into()], ..config }
}

#[test]
fn interactions_lost_with_a_user_and_with_an_item_are_counted_apart() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_users_and_items(folder.path());
    let dataset = Dataset::load(&config).unwrap();
    assert_eq!((dataset.filtering.without_user_row, dataset.filtering.without_item_row), (2, 1));
    let [items, users] = &dataset.warnings[..] else { panic!("{:?}", dataset.warnings) };
    assert!(items.contains("1 of 4 items of the interactions have no row in"), "{items}");
    assert!(items.contains(": 1 of 8 interactions are left out (`filter_inter_by_user_or_item`)"), "{items}");
    assert!(users.starts_with("1 of 4 users have no row in"), "{users}");
}

#[test]
fn listed_users_with_too_many_interactions_are_not_numbered_again() {
    let folder = tempfile::tempdir().unwrap();
    let at_most_two = Interval { low: 0.0, low_closed: true, high: 2.0, high_closed: true };
    let config = DataConfig { user_inter_num_interval: Some(at_most_two), ..with_users_and_items(folder.path()) };
    let dataset = Dataset::load(&config).unwrap();
    // As in RecBole, whose table of users loses them: a has three.
    assert_eq!(dataset.users.iter().skip(1).collect::<Vec<_>>(), ["b", "c", "e"]);
}

#[test]
fn the_columns_of_the_user_file_that_load_col_names_remain() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_users_and_items(folder.path());
    let remain = |config: &DataConfig| Dataset::load(config).unwrap().remain_fields.join(" ");
    assert_eq!(remain(&config), "user_id item_id timestamp town kind");
    let all = DataConfig { load_user: vec!["*".into()], ..config };
    assert_eq!(remain(&all), "user_id item_id timestamp age town kind");
}

#[test]
fn users_that_differ_by_blanks_alone_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let config = written(folder.path(), &[("u", "a", 1.0), ("u ", "b", 2.0), ("u", "b", 3.0), (" v", " a", 4.0)]);
    let dataset = Dataset::load(&config).unwrap();
    assert_eq!(
        dataset.warnings,
        [
            "1 of 3 users differ from another by blanks alone, such as `u `: they are two here",
            "1 of 3 items differ from another by blanks alone, such as ` a`: they are two here"
        ]
    );
}

#[test]
fn columns_of_unload_col_are_not_loaded_nor_checked() {
    let folder = tempfile::tempdir().unwrap();
    let items = "item_id:token\tclass:token\tprice:float\na\tx\t1\nb\tx\t—\nc\ty\t2\n";
    let config = DataConfig { unload_item: vec!["price".into()], ..with_items(folder.path(), items) };
    let dataset = Dataset::load(&config).unwrap();
    assert_eq!(dataset.remain_fields, ["user_id", "item_id", "timestamp", "class"]);
}

#[test]
fn headers_of_other_programs_are_known_by_their_empty_names() {
    let folder = tempfile::tempdir().unwrap();
    let error = |header: &str| {
        let config = written(folder.path(), &[("u", "a", 1.0)]);
        std::fs::write(folder.path().join("own/own.inter"), format!("{header}\n0\tu\ta\t1\n")).unwrap();
        Dataset::load(&config).unwrap_err().to_string()
    };
    let of_pandas = error("\tuser_id:token\titem_id:token\ttimestamp:float");
    assert!(
        of_pandas.ends_with("leave out the unnamed column, as pandas does with `to_csv(index=False)`"),
        "{of_pandas}"
    );
    let trailing = error("user_id:token\titem_id:token\ttimestamp:float\t");
    assert!(trailing.ends_with("remove the separator at the end of the header"), "{trailing}");
}

#[test]
fn a_bad_value_in_a_column_that_nothing_reads_comes_with_the_load_col_that_leaves_it_out() {
    let folder = tempfile::tempdir().unwrap();
    let items = "item_id:token\tclass:token\tprice:float\na\tx\t1\nb\tx\t—\nc\ty\t2\n";
    let config = DataConfig { selected_features: vec!["class".into()], ..with_items(folder.path(), items) };
    let error = Dataset::load(&config).unwrap_err().to_string();
    assert!(error.contains("own.item, line 3, column `price`: expected a number, found `—`; "), "{error}");
    let (_, load_col) = error.split_once("`load_col: ").unwrap();
    let keys = [("dataset", "own"), ("selected_features", "[class]"), ("load_col", load_col.trim_end_matches('`'))];
    let cured = RunConfig::load(&[], &keys.map(|(k, v)| (k.to_owned(), v.to_owned()))).unwrap().data;
    let dataset = Dataset::load(&DataConfig { load_inter: cured.load_inter, load_item: cured.load_item, ..config });
    assert_eq!(dataset.unwrap().attributes[0].vocab.len(), 3);
}
