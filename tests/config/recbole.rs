//! What RecBole 1.2 prints and reads.

use dif_sr::config::*;

use super::{load, over, pairs_as_literals, text, yaml};

#[test]
fn every_key_of_recbole_1_2s_log_is_known_and_all_values_but_two_are_read() {
    let log = text("fixtures/config/recbole_1_2_log.txt");
    let pairs: Vec<_> = log.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert_eq!(pairs.len(), 96);
    let pairs = pairs_as_literals(&pairs);
    let refused = [
        // Times would be normalised before they are rounded, and a GPU asked for is none.
        ("normalize_all", "True"),
        ("device", "cpu"),
    ];
    let (others, same): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|pair| refused.contains(pair));
    assert_eq!(others.len(), refused.len());
    let named = [("model", "SASRec"), ("dataset", "ml-100k")];
    let config = load(&[], &[&named[..], &same].concat()).unwrap();
    assert_eq!(
        (config.model.model, config.model.n_layers, config.model.loss_type),
        (Architecture::SasRec, 2, Loss::Bpr)
    );
    for pair in refused {
        let error = load(&[], &[&named[..], &same, &[pair]].concat()).unwrap_err().to_string();
        assert!(error.contains(&format!("`{}`: {} is not supported", pair.0, repr(pair.1))), "{error}");
    }
}

/// As a message shows a value of the log.
fn repr(value: &str) -> String {
    if value == "True" { value.to_owned() } else { format!("'{value}'") }
}

#[test]
fn what_recbole_1_2_prints_is_read_where_it_means_what_is_done_here() {
    let plain = over(&[]).unwrap();
    for (key, value) in [
        (
            "eval_args",
            "{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'mode': {'valid': 'full', 'test': 'full'}, 'group_by': 'user'}",
        ),
        (
            "eval_args",
            "{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'mode': {'valid': 'full'}, 'group_by': None}",
        ),
        ("eval_args", "{'split': {'LS': 'valid_and_test'}, 'order': 'TO'}"),
        (
            "train_neg_sample_args",
            "{'distribution': 'none', 'sample_num': 'none', 'alpha': 'none', 'dynamic': False, 'candidate_num': 0}",
        ),
        ("train_neg_sample_args", "None"),
        ("train_neg_sample_args", "{'strategy': 'none'}"),
        ("eval_neg_sample_args", "{'strategy': 'full', 'distribution': 'uniform'}"),
        ("valid_neg_sample_args", "{'distribution': 'uniform', 'sample_num': 'none'}"),
        ("test_neg_sample_args", "{'distribution': 'uniform', 'sample_num': 'none'}"),
        ("encoding", "utf-8"),
        ("encoding", "UTF8"),
    ] {
        assert_eq!(over(&[(key, value)]).unwrap(), plain, "{key}: {value}");
    }
    let bpr = over(&[("loss_type", "BPR")]).unwrap();
    for value in [
        "{'distribution': 'uniform', 'sample_num': 1, 'alpha': 1.0, 'dynamic': False, 'candidate_num': 0}",
        "{'distribution': 'uniform'}",
        "{'strategy': 'by', 'by': 1, 'distribution': 'uniform', 'dynamic': 'none'}",
    ] {
        assert_eq!(over(&[("loss_type", "BPR"), ("train_neg_sample_args", value)]).unwrap(), bpr, "{value}");
    }
}

#[test]
fn load_col_without_item_reads_no_item_file_and_asks_for_one_where_the_model_needs_it() {
    let model = |name: &str, load_col: &str| over(&[("model", name), ("load_col", load_col)]);
    let inter = "'inter': ['user_id', 'item_id', 'timestamp']";
    for item in ["", ", 'item': []", ", 'item': None", ", 'item': 'None'", ", 'user': ['user_id']"] {
        let load_col = format!("{{{inter}{item}}}");
        let config = model("SASRec", &load_col).unwrap();
        assert_eq!(config.data.load_item, Some(Vec::new()), "{load_col}");
        assert_eq!(yaml(&config.to_yaml()).unwrap(), config, "{load_col}");
        let error = model("SASRecD", &load_col).unwrap_err().to_string();
        assert!(error.contains("add `item: [item_id, categories]`"), "{error}");
    }
    assert_eq!(over(&[("load_col", "{'inter': '*', 'item': '*'}")]).unwrap().data.load_item, None);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_key() {
    let marked = yaml("\u{feff}dataset: toy\nn_heads: 2").unwrap();
    assert_eq!(marked, yaml("dataset: toy\nn_heads: 2").unwrap());
    let error = yaml("\u{feff}dataset: toy/\nn_heads: 2").unwrap_err().to_string();
    assert!(error.starts_with("toy.yaml, line 1: `dataset`"), "{error}");
}
