//! Splits that are files: held to what RecBole computed, and to each other.

use std::path::Path;

use dif_sr::config::DataConfig;
use dif_sr::data::split::{Histories, history_of};
use dif_sr::data::{Dataset, Rows, Summary};
use serde_json::{Value, json};

use super::{at_least, config, load};

/// The three files of `fixtures/data/pre_split`, and what RecBole 1.2.1 computed of them.
fn pre_split(length: usize) -> (DataConfig, Value) {
    let recbole = std::fs::read_to_string("fixtures/data/pre_split/recbole.json").unwrap();
    let config = DataConfig {
        benchmark_filename: Some(["train", "valid", "test"].map(str::to_owned)),
        max_item_list_length: length,
        selected_features: vec!["class".into()],
        ..config("fixtures/data", "pre_split")
    };
    (config, serde_json::from_str(&recbole).unwrap())
}

/// User, history without padding and target of every row, as ids.
fn plain_rows(rows: &Rows) -> Value {
    let row = |i: usize| json!([rows.user(i), rows.history(i), rows.target(i)]);
    (0..rows.n()).map(row).collect()
}

#[test]
fn files_of_splits_have_the_rows_ids_and_attributes_that_recbole_computed() {
    let (config, recbole) = pre_split(7);
    let (dataset, splits) = load(&config).unwrap();
    assert_eq!(json!(dataset.users.iter().collect::<Vec<_>>()), recbole["users"]);
    assert_eq!(json!(dataset.items.iter().collect::<Vec<_>>()), recbole["items"]);
    let class = &dataset.attributes[0];
    assert_eq!(json!(class.vocab.iter().collect::<Vec<_>>()), recbole["class_tokens"]);
    assert_eq!(json!(class.ids.chunks(class.width).collect::<Vec<_>>()), recbole["class"]);
    assert_eq!(json!(Summary::new(&dataset).statistics.inters), recbole["inters"]);
    for (name, rows) in [("train", &splits.train), ("valid", &splits.valid), ("test", &splits.test)] {
        assert_eq!(plain_rows(rows), recbole[name], "{name}");
    }
    assert_eq!(
        dataset.warnings,
        [
            "5 of 8 items of the interactions have no row in fixtures/data/pre_split/pre_split.item: their attributes are \
          unknown; `c` is not there, `q` is there alone"
        ]
    );
}

#[test]
fn stated_histories_are_cut_to_their_last_items_and_say_so() {
    let (config, recbole) = pre_split(2);
    let (dataset, splits) = load(&config).unwrap();
    let stated = recbole["test"][0][1].as_array().unwrap();
    assert_eq!(json!(splits.test.history(0)), json!(stated[stated.len() - 2..]));
    assert!(
        dataset
            .warnings
            .iter()
            .any(|warning| warning.starts_with("histories of up to 5 items are cut to their last 2"))
    );
}

#[test]
fn a_user_of_stated_histories_has_all_that_they_name_the_latest_last() {
    let (config, recbole) = pre_split(7);
    let dataset = Dataset::load(&config).unwrap();
    let histories = Histories::new(&dataset, config.time_precision);
    let [history, target] = [1, 2].map(|part| recbole["test"][3][part].clone());
    let latest: Vec<i64> = serde_json::from_value(history).unwrap();
    let latest = [latest, vec![target.as_i64().unwrap()]].concat();
    assert_eq!(history_of(&dataset, &histories, 1), latest);
}

/// Three files of (user, item, time), or of (user, history, item, time).
fn written_parts<const N: usize>(folder: &Path, header: &str, parts: [&[[&str; N]]; 3]) -> DataConfig {
    std::fs::create_dir_all(folder.join("own")).unwrap();
    let names = ["train", "valid", "test"].map(str::to_owned);
    for (name, rows) in names.iter().zip(parts) {
        let rows: String = rows.iter().map(|row| row.join("\t") + "\n").collect();
        std::fs::write(folder.join(format!("own/own.{name}.inter")), format!("{header}\n{rows}")).unwrap();
    }
    DataConfig { benchmark_filename: Some(names), ..config(folder, "own") }
}

const PLAIN: &str = "user_id:token\titem_id:token\ttimestamp:float";
const STATED: &str = "user_id:token\titem_id_list:token_seq\titem_id:token";

#[test]
fn files_of_splits_without_histories_give_each_row_what_its_user_did_before() {
    let folder = tempfile::tempdir().unwrap();
    let train = [["v", "x", "1"], ["u", "b", "2"], ["u", "a", "1"], ["v", "a", "3"]];
    let valid = [["u", "c", "3"], ["v", "b", "4"], ["w", "a", "1"]];
    let test = [["u", "a", "9"], ["u", "d", "4"]];
    let config = written_parts(folder.path(), PLAIN, [&train, &valid, &test]);
    let (dataset, splits) = load(&config).unwrap();
    assert_eq!(dataset.items.iter().collect::<Vec<_>>(), ["[PAD]", "x", "b", "a", "c", "d"]);
    // By user, as numbered in the files, then by time.
    assert_eq!(plain_rows(&splits.train), json!([[1, [1], 3], [2, [3], 2]]));
    assert_eq!(plain_rows(&splits.valid), json!([[1, [1, 3], 2], [2, [3, 2], 4]]));
    assert_eq!(plain_rows(&splits.test), json!([[2, [3, 2, 4], 5], [2, [2, 4, 5], 3]]));
    assert_eq!(dataset.warnings, ["1 rows to validate or to test are their user's first and are left out"]);
}

#[test]
fn files_of_splits_that_contradict_each_other_are_refused_with_counts() {
    let folder = tempfile::tempdir().unwrap();
    let error = |config: &DataConfig| load(config).err().unwrap().to_string();
    let train = [["u", "a", "1"], ["u", "b", "5"]];

    let config = written_parts(folder.path(), PLAIN, [&train, &[["u", "c", "3"]], &[["u", "d", "4"]]]);
    let message = error(&config);
    assert!(message.contains("own.valid.inter, line 2: ") && message.contains("found 2 that are older"), "{message}");

    let config = written_parts(folder.path(), PLAIN, [&train, &[["u", "b", "5"]], &[["u", "d", "6"]]]);
    let message = error(&config);
    assert!(message.contains("own.valid.inter, line 2: ") && message.contains("found 1 in a second one"), "{message}");

    let stated = [["u", "a", "b"]];
    let config = written_parts(folder.path(), STATED, [&stated, &stated, &stated]);
    std::fs::write(folder.path().join("own/own.test.inter"), format!("{PLAIN}\nu\tc\t1\n")).unwrap();
    let message = error(&config);
    assert!(message.contains("own.test.inter, column `item_id_list`: expected each file"), "{message}");

    std::fs::remove_file(folder.path().join("own/own.test.inter")).unwrap();
    let message = error(&config);
    assert!(message.contains("own.test.inter: cannot read the file"), "{message}");
}

#[test]
fn a_file_named_twice_needs_stated_histories() {
    let folder = tempfile::tempdir().unwrap();
    let twice = |config: DataConfig| {
        let names = ["train", "test", "test"].map(str::to_owned);
        load(&DataConfig { benchmark_filename: Some(names), ..config })
    };
    let train = [["u", "a", "1"], ["u", "b", "2"]];
    let error =
        twice(written_parts(folder.path(), PLAIN, [&train, &[], &[["u", "c", "3"]]])).err().unwrap().to_string();
    assert!(error.contains("expected three files in `benchmark_filename`, found `test` twice"), "{error}");
    let stated = [["u", "a", "b"]];
    let (_, splits) = twice(written_parts(folder.path(), STATED, [&stated, &[], &[["u", "a b", "c"]]])).unwrap();
    assert_eq!(splits.valid, splits.test);
}

#[test]
fn files_of_splits_tell_of_empty_histories_repeated_rows_and_filters_that_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let train = [["u", "a", "b"], ["v", "", "a"]];
    let config = written_parts(folder.path(), STATED, [&train, &[["u", "a b", "c"]], &[["u", "a", "b"]]]);
    let config = DataConfig { user_inter_num_interval: at_least(5.0), ..config };
    let (dataset, splits) = load(&config).unwrap();
    assert_eq!((splits.train.n(), splits.valid.n(), splits.test.n()), (1, 1, 1));
    let [filters, repeated, empty] = &dataset.warnings[..] else { panic!("{:?}", dataset.warnings) };
    assert!(filters.starts_with("`user_inter_num_interval` filters nothing"), "{filters}");
    assert_eq!(repeated, "1 of 4 rows of `benchmark_filename` are in another of the files, too");
    assert!(empty.starts_with("1 of 4 rows of `benchmark_filename` have an empty `item_id_list`"), "{empty}");
    assert!(empty.contains("the first on line 3 of "), "{empty}");
}
