//! RecBole configuration: what is read, what is refused and in which words.

mod properties;
mod recbole;

use std::fs;
use std::path::{Path, PathBuf};

use dif_sr::Result;
use dif_sr::config::*;
use serde_json::Value as Json;

/// A file of the repository, by a path that messages can show.
fn path(relative: &str) -> PathBuf {
    PathBuf::from(relative)
}

fn text(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap()
}

fn shipped(name: &str, overrides: &[(&str, &str)]) -> Result<RunConfig> {
    load(&[&format!("configs/{name}.yaml")], overrides)
}

fn load(files: &[&str], overrides: &[(&str, &str)]) -> Result<RunConfig> {
    let files: Vec<_> = files.iter().map(|file| path(file)).collect();
    let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    RunConfig::load(&files, &overrides)
}

fn over(overrides: &[(&str, &str)]) -> Result<RunConfig> {
    load(&[], &[&[("dataset", "toy")], overrides].concat())
}

fn yaml(text: &str) -> Result<RunConfig> {
    RunConfig::from_yaml(text, Path::new("toy.yaml"))
}

/// The configuration that the authors' code ran with to produce a golden file.
fn resolved(name: &str) -> RunConfig {
    let golden: Json = serde_json::from_str(&text(&format!("golden/{name}.json"))).unwrap();
    RunConfig::from_yaml(&golden["resolved_config"].to_string(), Path::new(name)).unwrap()
}

/// The same, with the progress bars of our files: the reference ran without.
fn with_progress(mut config: RunConfig) -> RunConfig {
    config.run.show_progress = true;
    config
}

#[test]
fn shipped_configurations_differ_in_the_architecture_only_as_the_authors_do() {
    let architecture = |name| {
        let config = shipped(name, &[]).unwrap();
        let ModelConfig { n_layers, n_heads, attribute_hidden_size, lamdas, .. } = config.model;
        (config.data.max_item_list_length, n_layers, n_heads, attribute_hidden_size, lamdas)
    };
    assert_eq!(architecture("amazon_beauty"), (7, 4, 4, vec![256], vec![10.0]));
    assert_eq!(architecture("amazon_toys_and_games"), (50, 3, 4, vec![64], vec![5.0]));
    assert_eq!(architecture("amazon_sports_and_outdoors"), (50, 3, 8, vec![64], vec![5.0]));
    assert_eq!(architecture("yelp"), (50, 4, 8, vec![64], vec![10.0]));
}

#[test]
fn golden_runs_resolve_to_the_shipped_ml_100k_configuration() {
    assert_eq!(with_progress(resolved("ml-100k_full")), shipped("ml-100k", &[]).unwrap());
    let short = &[("epochs", "3")];
    assert_eq!(with_progress(resolved("ml-100k_dropout")), shipped("ml-100k", short).unwrap());
    let plain = &[("epochs", "3"), ("hidden_dropout_prob", "0"), ("attn_dropout_prob", "0.0")];
    assert_eq!(with_progress(resolved("ml-100k_no_dropout")), shipped("ml-100k", plain).unwrap());
}

#[test]
fn the_keys_that_the_beauty_golden_states_change_nothing_in_the_shipped_configuration() {
    let golden: Json = serde_json::from_str(&text("golden/Amazon_Beauty_seed_config.json")).unwrap();
    let stated: Vec<_> = golden["config"].as_object().unwrap().iter().collect();
    let values: Vec<_> = stated.iter().map(|(_, v)| v.as_str().map_or(v.to_string(), str::to_owned)).collect();
    let overrides: Vec<_> = stated.iter().zip(&values).map(|((k, _), v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(shipped("amazon_beauty", &overrides).unwrap(), shipped("amazon_beauty", &[]).unwrap());
}

#[test]
fn every_key_of_the_notebooks_log_is_known_and_its_values_give_the_shipped_configuration() {
    let log = text("fixtures/config/notebook_log.txt");
    // Not trimmed: the separators are a tab and a space.
    let pairs: Vec<_> = log.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert_eq!(pairs.len(), 88);
    let mut config = shipped("amazon_beauty", &pairs_as_literals(&pairs)).unwrap();
    assert_eq!((config.run.gpu_id, config.run.use_gpu), (1, Some(true)));
    config.run = shipped("amazon_beauty", &[]).unwrap().run;
    assert_eq!(config, shipped("amazon_beauty", &[]).unwrap());
}

/// Values of the log as one would write them on a command line, where blanks need quotes.
fn pairs_as_literals<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let literal = |value| match value {
        "\t" => "'\\t'",
        " " => "' '",
        other => other,
    };
    pairs.iter().map(|(key, value)| (*key, literal(value))).collect()
}

#[test]
fn the_log_block_is_the_notebooks_without_the_names_of_unused_columns() {
    let run = [
        ("gpu_id", "1"),
        ("use_gpu", "True"),
        ("checkpoint_dir", "saved/Amazon_Beauty/SASRecD_4_4_['categories']_[256]_gate_[10]_212"),
    ];
    let ours = shipped("amazon_beauty", &run).unwrap().log_block();
    // The notebook's log has two blanks after a comma, once.
    let notebook = text("fixtures/config/notebook_log.txt").replace("'Recall',  'NDCG'", "'Recall', 'NDCG'");
    let own = ["threads = None", "compute_path = reference", "precision = float32", "time_precision = float32"];
    let ours: Vec<_> = ours.lines().filter(|line| !own.contains(line)).collect();
    let left_out: Vec<_> = notebook.lines().filter(|line| !line.is_empty() && !ours.contains(line)).collect();
    insta::assert_snapshot!(left_out.join("\n"));
    let kept: Vec<_> = notebook.lines().filter(|line| !left_out.contains(line)).collect();
    assert_eq!(ours, kept);
}

#[test]
fn key_names_are_distinct() {
    let mut names: Vec<_> = key_names().collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), key_names().count());
}

/// `INSTA_UPDATE=always cargo test --test config` rewrites the tables.
#[test]
fn the_documentation_lists_exactly_the_keys_that_the_code_knows() {
    const MARK: &str = "<!-- The tables below are printed by `config::keys_markdown`. -->\n";
    let file = path("docs/configuration.md");
    let document = fs::read_to_string(&file).unwrap();
    let (written, _) = document.split_once(MARK).unwrap();
    let expected = format!("{written}{MARK}\n{}", keys_markdown());
    if std::env::var("INSTA_UPDATE").as_deref() == Ok("always") {
        fs::write(&file, &expected).unwrap();
    }
    assert!(
        document == expected,
        "the tables are not those of the code; run again with INSTA_UPDATE=always to rewrite the tables"
    );
}

#[test]
fn later_files_win_over_earlier_ones_and_the_command_line_over_all() {
    let files = ["configs/ml-100k.yaml", "fixtures/config/later.yaml"];
    let config = load(&files, &[("epochs", "7"), ("epochs", "9")]).unwrap();
    let expected = shipped("ml-100k", &[("epochs", "9"), ("learning_rate", "0.01"), ("topk", "10")]).unwrap();
    assert_eq!(config, expected);
}

#[test]
fn values_over_a_runs_configuration_leave_its_other_values() {
    let run = shipped("ml-100k", &[("data_path", "a/ml-100k/ml-100k")]).unwrap();
    assert_eq!(run.changed(&[], &[]).unwrap(), run);
    let over = [("eval_batch_size".to_owned(), "64".to_owned())];
    let changed = run.changed(&[path("fixtures/config/later.yaml")], &over).unwrap();
    assert_eq!((changed.train.epochs, changed.eval.eval_batch_size), (5, 64));
    assert_eq!((changed.model, changed.data), (run.model, run.data));
}

#[test]
fn numbers_with_an_exponent_are_numbers_in_every_spelling() {
    for spelling in ["1e-4", "1E-4", "1.0e-4", "1.e-4", "+1e-4", ".1e-3", "0.0001"] {
        assert_eq!(yaml(&format!("dataset: toy\nlearning_rate: {spelling}")).unwrap().train.learning_rate, 1e-4);
        assert_eq!(over(&[("learning_rate", spelling)]).unwrap().train.learning_rate, 1e-4);
    }
}

#[test]
fn a_data_path_that_ends_in_the_data_sets_name_is_the_data_sets_folder() {
    for (written, holder, printed) in [
        ("data", "data", "data/toy"),
        ("data/", "data", "data/toy"),
        ("data/toy", "data", "data/toy"),
        ("data/toy/", "data", "data/toy"),
        ("data/toy/toy", "data/toy", "data/toy/toy"),
        ("toy", ".", "./toy"),
        (".", ".", "./toy"),
        ("/", "/", "/toy"),
    ] {
        let config = over(&[("data_path", written)]).unwrap();
        assert_eq!(config.data.data_path, path(holder), "{written}");
        assert!(config.log_block().contains(&format!("\ndata_path = {printed}\n")), "{written}");
        assert_eq!(yaml(&config.to_yaml()).unwrap(), config, "{written}");
    }
}

#[test]
fn a_written_configuration_takes_another_data_set_from_the_same_folder() {
    let config = over(&[("data_path", "data")]).unwrap();
    let other = config.changed(&[], &[("dataset".to_owned(), "other".to_owned())]).unwrap();
    assert_eq!((other.data.dataset.as_str(), &other.data.data_path), ("other", &config.data.data_path));
}

#[test]
fn intervals_are_read_as_recbole_reads_their_text() {
    let of = |value| over(&[("user_inter_num_interval", value)]).unwrap().data.user_inter_num_interval.unwrap();
    let interval = |low, low_closed, high, high_closed| Interval { low, low_closed, high, high_closed };
    assert_eq!(of("[5,inf)"), interval(5.0, true, f64::INFINITY, false));
    assert_eq!(of("( 0 , 100 ]"), interval(0.0, false, 100.0, true));
    assert_eq!(of("(5,10)"), interval(5.0, false, 10.0, false));
    assert_eq!(of("[5,10]"), interval(5.0, true, 10.0, true));
}

#[test]
fn bpr_takes_its_own_negative_sampling() {
    let config = over(&[
        ("loss_type", "BPR"),
        ("neg_sampling", "{'uniform': 1}"),
        ("train_neg_sample_args", "{'strategy': 'by', 'by': 1, 'distribution': 'uniform'}"),
        ("MODEL_INPUT_TYPE", "InputType.PAIRWISE"),
    ]);
    let log = config.unwrap().log_block();
    assert!(log.contains("\nneg_sampling = {'uniform': 1}\n"), "{log}");
}

#[test]
fn golden_cases_load_with_their_shapes() {
    let mut cases = 0;
    for entry in fs::read_dir("golden").unwrap().map(|entry| entry.unwrap().path()).filter(|entry| entry.is_dir()) {
        let (model, case) = ModelConfig::from_case(&entry.join("config.yaml")).unwrap();
        assert_eq!((case.n_items, case.train_steps, case.learning_rate), (40, 5, 0.001));
        assert_eq!(model.lamdas.len(), case.attributes.len());
        cases += 1;
    }
    assert_eq!(cases, 15);
    let (_, case) = ModelConfig::from_case(Path::new("golden/concat_two_attributes/config.yaml")).unwrap();
    let attribute = |name: &str, kind, vocab| CaseAttribute { name: name.to_owned(), kind, vocab };
    let expected = [attribute("categories", AttributeKind::TokenSeq, 12), attribute("brand", AttributeKind::Token, 9)];
    assert_eq!(case.attributes, expected);
}

/// One line for each fixture: its name and the message it gets.
fn messages<T>(folder: &str, read: impl Fn(&Path) -> Result<T>) -> String {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let message = |file: &PathBuf| read(file).map_or_else(|e| e.to_string(), |_| "accepted".to_owned());
    files.iter().map(message).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_bad_file_gets_its_message() {
    insta::assert_snapshot!(messages("fixtures/config/bad", |file| RunConfig::load(&[file.to_path_buf()], &[])));
}

#[test]
fn every_bad_case_gets_its_message() {
    insta::assert_snapshot!(messages("fixtures/config/bad_case", ModelConfig::from_case));
}

#[test]
fn every_bad_override_gets_its_message() {
    let table: &[&[(&str, &str)]] = &[
        &[("n_head", "4")],
        &[("Learning_Rate", "4")],
        &[("embedding_size", "64")],
        &[("model", "BERT4Rec")],
        &[("model", "SASRec"), ("fusion_type", "sum")],
        &[("model", "SASRec"), ("selected_features", "[categories]")],
        &[("model", "SASRecF"), ("lamdas", "[10]")],
        &[("model", "SASRecF"), ("selected_features", "[]")],
        &[("model", "SASRecF"), ("hidden_size", "254")],
        &[("dataset", "a/b")],
        &[("dataset", "2024")],
        &[("gpu_id", "-1")],
        &[("use_gpu", "1")],
        &[("seed", "4294967296")],
        &[("data_path", "")],
        &[("show_progress", "2")],
        &[("threads", "0")],
        &[("checkpoint_dir", "5")],
        &[("epochs", "0")],
        &[("train_batch_size", "2.5")],
        &[("learning_rate", "0")],
        &[("learner", "sgd")],
        &[("eval_step", "0")],
        &[("stopping_step", "-1")],
        &[("clip_grad_norm", "{'max_norm': 5, 'norm': 2}")],
        &[("weight_decay", "-0.1")],
        &[("loss_decimal_place", "18")],
        &[("eval_args", "{'split': {'RS': [0.8, 0.1, 0.1]}, 'group_by': 'user', 'order': 'RO', 'mode': 'full'}")],
        &[("eval_args", "{'split': {'LS': 'test_only'}, 'order': 'TO', 'mode': 'full'}")],
        &[("eval_args", "{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'mode': 'uni100'}")],
        &[(
            "eval_args",
            "{'split': {'LS': 'valid_and_test'}, 'order': 'TO', 'mode': {'valid': 'full', 'test': 'uni100'}}",
        )],
        &[("eval_args", "{'split': {'LS': 'valid_and_test'}, 'mode': 'full'}")],
        &[("eval_args", "{'order': 'TO', 'mode': 'full'}")],
        &[("eval_args", "full")],
        &[("train_neg_sample_args", "{'distribution': 'uniform', 'sample_num': 1}")],
        &[("loss_type", "BPR"), ("train_neg_sample_args", "{'distribution': 'popularity', 'sample_num': 1}")],
        &[("loss_type", "BPR"), ("train_neg_sample_args", "{'distribution': 'uniform', 'sample_num': 5}")],
        &[("loss_type", "BPR"), ("train_neg_sample_args", "{'distribution': 'none', 'sample_num': 'none'}")],
        &[("test_neg_sample_args", "{'distribution': 'uniform', 'sample_num': 100}")],
        &[("encoding", "latin-1")],
        &[("metrics", "[Recall, AUC]")],
        &[("metrics", "[Recall, recall]")],
        &[("topk", "[10, 0]")],
        &[("valid_metric", "Recall")],
        &[("valid_metric", "Recall@20")],
        &[("metrics", "[Recall, NDCG]")],
        &[("eval_batch_size", "many")],
        &[("metric_decimal_place", "None")],
        &[("field_separator", "::")],
        &[("seq_separator", "''")],
        &[("TIME_FIELD", "item_id")],
        &[("load_col", "{'inter': ['user_id', 'item_id', 'timestamp']}")],
        &[("load_col", "{'item': ['item_id', 'categories']}")],
        &[("load_col", "{'inter': '*', 'net': '*'}")],
        &[("load_col", "{'inter': ['user_id', 'item_id'], 'item': '*'}")],
        &[("load_col", "{'inter': '*', 'item': ['item_id', 'brand']}")],
        &[("load_col", "{'inter': '*', 'item': ['item_id', 'category']}")],
        &[("load_col", "{'inter': '*', 'item': '*', 'user': ['age']}")],
        &[("unload_col", "{'inter': ['timestamp']}")],
        &[("unload_col", "{'item': ['brand', 'categories']}")],
        &[
            ("unload_col", "{'inter': ['rating']}"),
            ("load_col", "{'inter': ['user_id', 'item_id', 'timestamp'], 'item': '*'}"),
        ],
        &[("unload_col", "['rating']")],
        &[("min_user_inter_num", "5")],
        &[("eval_setting", "TO_LS,full")],
        &[("rm_dup_inter", "middle")],
        &[("val_interval", "{'date': '[1577714400,1546264800]'}")],
        &[("filter_inter_by_user_or_item", "maybe")],
        &[("user_inter_num_interval", "5")],
        &[("item_inter_num_interval", "[9,5]")],
        &[("normalize_all", "True")],
        &[("MAX_ITEM_LIST_LENGTH", "0")],
        &[("time_precision", "float16")],
        &[("neg_sampling", "{'uniform': 1}")],
        &[("loss_type", "BPR"), ("neg_sampling", "None")],
        &[("n_layers", "0")],
        &[("hidden_size", "254")],
        &[("n_heads", "3")],
        &[("attribute_hidden_size", "[30]")],
        &[("attribute_hidden_size", "64")],
        &[("inner_size", "1000001")],
        &[("hidden_dropout_prob", "1")],
        &[("attn_dropout_prob", "-0.1")],
        &[("hidden_act", "GELU")],
        &[("layer_norm_eps", "'1e-12'")],
        &[("initializer_range", "0")],
        &[("selected_features", "[categories, brand]")],
        &[("selected_features", "[brand, brand]")],
        &[("selected_features", "[]")],
        &[("selected_features", "[a, b]"), ("attribute_hidden_size", "[8, 8]")],
        &[("pooling_mode", "min")],
        &[("loss_type", "BCE")],
        &[("fusion_type", "add")],
        &[("attribute_predictor", "MLP")],
        &[("lamdas", "[-1]")],
        &[("weight_sharing", "item")],
        &[("device", "cuda")],
        &[("use_gpu", "True"), ("device", "cpu")],
        &[("enable_amp", "True")],
    ];
    let message = |overrides: &&[(&str, &str)]| over(overrides).map_or_else(|e| e.to_string(), |_| "accepted".into());
    insta::assert_snapshot!(table.iter().map(message).collect::<Vec<String>>().join("\n"));
}

#[test]
fn adam_is_taken_in_every_spelling_that_recbole_takes() {
    for name in ["adam", "Adam", "ADAM"] {
        assert_eq!(over(&[("learner", name)]).unwrap(), over(&[]).unwrap());
    }
}

#[test]
fn a_name_that_is_a_number_is_taken_in_quotes() {
    assert_eq!(over(&[("dataset", "'2024'")]).unwrap().data.dataset, "2024");
    assert_eq!(yaml("dataset: '2024'").unwrap().data.dataset, "2024");
}

/// As an overlay does over a configuration of DIF-SR.
#[test]
fn none_takes_back_a_key_that_the_model_does_not_read() {
    let plain = over(&[("model", "SASRec")]).unwrap();
    assert_eq!(over(&[("model", "SASRec"), ("lamdas", "None"), ("fusion_type", "~")]).unwrap(), plain);
    let laid_over =
        |name| load(&["configs/amazon_beauty.yaml", &format!("configs/baselines/{name}.yaml")], &[]).unwrap();
    let sasrec = laid_over("sasrec");
    assert_eq!((sasrec.model.model, sasrec.data.selected_features.len()), (Architecture::SasRec, 0));
    let sasrecf = laid_over("sasrecf");
    assert_eq!(
        (sasrecf.model.model, sasrecf.data.selected_features),
        (Architecture::SasRecF, vec!["categories".into()])
    );
}

#[test]
fn a_run_without_a_data_set_says_how_to_name_one() {
    insta::assert_snapshot!(load(&[], &[]).unwrap_err());
}

#[test]
fn the_notebooks_ini_file_gets_the_name_of_the_yaml_file_whether_it_exists_or_not() {
    insta::assert_snapshot!(load(&["amazon_config.ini"], &[]).unwrap_err());
    assert!(refuse_ini(Path::new("configs/amazon_beauty.yaml")).is_ok());
}

#[test]
fn a_missing_file_is_named() {
    insta::assert_snapshot!(load(&["configs/none.yaml"], &[]).unwrap_err());
}
