//! What users read, held to files that a reviewer can read: what changes there has changed for them.
//!
//! Nothing here depends on processor, time or path. `cargo insta review` shows what a change of the code does to them.

mod common;

use std::fs;
use std::path::Path;

use common::{TOY, root, shipped, write_toy};
use dif_sr::config::{AttributeKind, ModelConfig, RunConfig};
use dif_sr::data::split::split;
use dif_sr::data::{Dataset, Inspection};
use dif_sr::model::{ItemFeature, Model};
use dif_sr::tensors::TensorFile;
use dif_sr::train::Prepared;
use tch::{Device, Kind, Tensor};

/// The shipped configurations, `configs/<name>.yaml`.
const SHIPPED: [&str; 5] = ["amazon_beauty", "amazon_sports_and_outdoors", "amazon_toys_and_games", "ml-100k", "yelp"];

/// A model for `n_items` items and attributes of these kinds and vocabularies.
fn model(config: &RunConfig, n_items: i64, attributes: &[(AttributeKind, i64)]) -> Model {
    let feature = |(i, &(kind, vocab)): (usize, &(AttributeKind, i64))| ItemFeature {
        name: config.data.selected_features[i].clone(),
        kind,
        vocab,
        ids: Tensor::zeros([n_items, 1], (Kind::Int64, Device::Cpu)),
    };
    let features = attributes.iter().enumerate().map(feature).collect();
    Model::new(&config.model, n_items, config.data.max_item_list_length as i64, features, Kind::Float)
}

/// As the log prints a model.
fn printed(model: &Model) -> String {
    format!("{}\nTrainable parameters: {}\n", model.tree(), model.trainable_parameters())
}

/// The notebook's model: 12,102 items and 355 tokens of `categories`, the padding counted.
fn notebook() -> Model {
    model(&shipped(&["amazon_beauty"], &[]), 12_102, &[(AttributeKind::TokenSeq, 355)])
}

#[test]
fn the_notebooks_model_prints_as_the_notebook_prints_it() {
    let model = notebook();
    let expected = fs::read_to_string(root().join("fixtures/model/notebook.txt")).expect("a fixture");
    assert_eq!(printed(&model).trim_end(), expected.trim_end());
    assert_eq!(model.trainable_parameters(), 5_827_683);
}

/// Nothing of it is told to the program: items and tokens are counted in the files.
#[test]
fn the_model_of_the_golden_amazon_beauty_prints_as_the_notebook_prints_it() {
    let Some(data_path) = common::GOLDEN_BEAUTY.as_deref() else { return };
    let config = common::config("amazon_beauty", &[("data_path", data_path)]);
    let Prepared { model, dataset, .. } = Prepared::new(&config).unwrap_or_else(|e| panic!("{e}"));
    let expected = fs::read_to_string(root().join("fixtures/model/notebook.txt")).expect("a fixture");
    assert_eq!(printed(&model).trim_end(), expected.trim_end());
    assert_eq!((dataset.items.len(), dataset.attributes[0].vocab.len()), (12_102, 355));
}

/// The overlays of `configs/baselines`.
const BASELINES: [&str; 5] = ["sasrec", "sasrecf", "dif_sr_no_predictor", "dif_sr_sum", "dif_sr_concat"];

/// The notebook's configuration with a baseline laid over it.
fn baseline(name: &str, overrides: &[(&str, &str)]) -> RunConfig {
    shipped(&["amazon_beauty", &format!("baselines/{name}")], overrides)
}

#[test]
fn the_baselines_print_as_recboles_own_classes_print() {
    let attributes = [(AttributeKind::TokenSeq, 355), (AttributeKind::Token, 9)];
    let sasrecf = baseline("sasrecf", &[("n_layers", "1"), ("selected_features", "[categories, brand]")]);
    let models = [
        ("sasrec", model(&baseline("sasrec", &[("n_layers", "1")]), 12_102, &[])),
        ("sasrecf", model(&sasrecf, 12_102, &attributes)),
    ];
    for (name, model) in models {
        let expected = fs::read_to_string(root().join(format!("fixtures/model/{name}.txt"))).expect("a fixture");
        assert_eq!(printed(&model), expected, "{name}");
    }
}

#[test]
fn parameters_of_the_baselines_with_the_notebooks_sizes() {
    for name in BASELINES {
        let config = baseline(name, &[]);
        let attributes = vec![(AttributeKind::TokenSeq, 355); config.data.selected_features.len()];
        insta::assert_snapshot!(format!("parameters_{name}"), parameters(&model(&config, 12_102, &attributes)));
    }
}

#[test]
fn resolved_configurations_of_the_baselines() {
    for name in BASELINES {
        let config = baseline(name, &[]);
        let notebook = shipped(&["amazon_beauty"], &[]);
        let (ours, notebooks) = (config.to_yaml(), notebook.to_yaml());
        let only = |of: &str, sign: &str, other: &str| -> Vec<String> {
            let lines = of.lines().filter(|line| !other.lines().any(|of| of == *line));
            lines.map(|line| format!("{sign} {line}")).collect()
        };
        let change = [only(&notebooks, "-", &ours), only(&ours, "+", &notebooks)].concat();
        insta::assert_snapshot!(format!("baseline_{name}"), change.join("\n"));
    }
}

/// A name, values over the notebook's configuration, and the kinds and vocabularies of its attributes.
type Variant = (&'static str, &'static [(&'static str, &'static str)], &'static [(AttributeKind, i64)]);

#[test]
fn module_trees_of_the_other_variants() {
    let variants: [Variant; 6] = [
        ("sum", &[("fusion_type", "sum")], &[(AttributeKind::TokenSeq, 20)]),
        ("concat", &[("fusion_type", "concat")], &[(AttributeKind::TokenSeq, 20)]),
        (
            "two_attributes",
            &[
                ("selected_features", "[categories, brand]"),
                ("attribute_hidden_size", "[64, 32]"),
                ("lamdas", "[10, 5]"),
            ],
            &[(AttributeKind::TokenSeq, 20), (AttributeKind::Token, 9)],
        ),
        (
            "no_attributes",
            &[
                ("selected_features", "[]"),
                ("attribute_hidden_size", "[]"),
                ("lamdas", "[]"),
                ("attribute_predictor", "not"),
            ],
            &[],
        ),
        ("no_predictor", &[("attribute_predictor", "not")], &[(AttributeKind::TokenSeq, 20)]),
        (
            "bpr",
            &[("loss_type", "BPR"), ("neg_sampling", "{'uniform': 1}"), ("attribute_predictor", "not")],
            &[(AttributeKind::TokenSeq, 20)],
        ),
    ];
    for (name, overrides, attributes) in variants {
        let config = shipped(&["amazon_beauty"], &[&[("n_layers", "1")], overrides].concat());
        insta::assert_snapshot!(format!("model_{name}"), printed(&model(&config, 100, attributes)));
    }
}

#[test]
fn parameters_of_the_notebooks_model() {
    insta::assert_snapshot!(parameters(&notebook()));
}

/// A line for each tensor of a model.
fn parameters(model: &Model) -> String {
    let mut rows = Vec::new();
    for (name, parameter) in model.named_parameters() {
        rows.push(format!("{name:<72}{:>14}{:>9}", format!("{:?}", parameter.size()), parameter.numel()));
    }
    rows.push(format!("{:<72}{:>14}{:>9}", "trained", "", model.trainable_parameters()));
    for (name, table) in model.named_tables() {
        rows.push(format!("{name:<72}{:>14}{:>9}  not trained", format!("{:?}", table.size()), table.numel()));
    }
    rows.join("\n")
}

#[test]
fn resolved_configurations() {
    for name in SHIPPED {
        let config = shipped(&[name], &[]);
        insta::assert_snapshot!(format!("config_{name}"), config.to_yaml());
        insta::assert_snapshot!(format!("config_log_{name}"), config.log_block());
    }
}

#[test]
fn statistics_of_ml_100k() {
    let config = common::config("ml-100k", &[("data_path", common::ML_100K.as_str())]).data;
    let dataset = Dataset::load(&config).unwrap_or_else(|e| panic!("{e}"));
    let splits = split(&dataset, &config).unwrap_or_else(|e| panic!("{e}"));
    insta::assert_snapshot!(Inspection::new(&dataset, &splits, &config));
}

/// Standard output of `dif-sr` in `folder`, with lines of at most 100 columns.
fn stdout(folder: &Path, arguments: &[&str]) -> String {
    let mut command = assert_cmd::Command::cargo_bin("dif-sr").expect("the binary is built with the tests");
    let output = command.current_dir(folder).env("COLUMNS", "100").args(arguments).output().expect("the binary runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn log_of_a_short_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    // Two decimals and no masks: what rounds otherwise on another processor does not show.
    let short = [
        "train",
        "--out=run",
        "--epochs=2",
        "--hidden_dropout_prob=0",
        "--attn_dropout_prob=0",
        "--loss_decimal_place=2",
        "--metric_decimal_place=2",
    ];
    let printed = stdout(folder.path(), &[&short, &TOY[..]].concat());
    let log = fs::read_to_string(folder.path().join("run/log.txt")).expect("a log");
    insta::with_settings!({ filters => vec![
        (r"\d\d [A-Z][a-z]{2} \d\d:\d\d    INFO", "[date]    INFO"),
        (r"time: \d+\.\d+s", "time: [seconds]"),
    ] }, {
        insta::assert_snapshot!("short_run_log", log);
        insta::assert_snapshot!("short_run_result", printed);
    });
}

#[test]
fn help_of_every_command() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut commands: Vec<Vec<String>> = vec![vec![]];
    let mut text = String::new();
    while !commands.is_empty() {
        let command = commands.remove(0);
        let arguments: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = stdout(folder.path(), &arguments);
        text += &format!("$ dif-sr {}\n{help}\n", arguments.join(" "));
        commands.extend(subcommands(&help).into_iter().map(|name| [&command[..], &[name]].concat()));
    }
    assert!(text.contains("$ dif-sr data inspect --help"), "commands below commands are found");
    insta::assert_snapshot!(text);
}

/// The commands that a help text lists, but for `help` itself.
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A line that goes on with the one before it is indented further.
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    names.map(|(name, _)| name.to_owned()).filter(|name| !name.is_empty() && name != "help").collect()
}

/// The golden files themselves, tensor by tensor: what a changed golden means can be read here.
#[test]
fn golden_cases_at_a_glance() {
    let cases = common::folders("golden");
    assert_eq!(cases.len(), 15, "the golden README hands over 15 model cases");
    for case in cases {
        let name = case.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        let file = TensorFile::read(&case.join("tensors.safetensors")).unwrap_or_else(|e| panic!("{e}"));
        let (config, shape) = ModelConfig::from_case(&case.join("config.yaml")).unwrap_or_else(|e| panic!("{e}"));
        let head = format!(
            "{:?} fusion, {:?} pooling, {:?}, {:?}, predictor {:?}; {} items, {} positions, attributes: {}\n",
            config.fusion_type,
            config.pooling_mode,
            config.hidden_act,
            config.loss_type,
            config.attribute_predictor,
            shape.n_items,
            shape.max_item_list_length,
            shape.attributes.len(),
        );
        let tensors: Vec<String> = file.tensors.iter().map(|(name, tensor)| glance(name, tensor)).collect();
        insta::assert_snapshot!(format!("golden_{name}"), head + &tensors.join("\n"));
    }
}

/// A tensor in one line: name, kind, shape, mean, smallest and largest value, the first three; or its one value.
fn glance(name: &str, tensor: &Tensor) -> String {
    let values = Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("one dimension of float64");
    let number = |x: f64| if tensor.kind() == Kind::Int64 { format!("{x}") } else { format!("{x:.5e}") };
    if tensor.dim() == 0 {
        return format!("{name} {:?}: {}", tensor.kind(), number(values[0]));
    }
    // Summed in order, not by libtorch, whose order depends on the processor.
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let (min, max) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    let first: Vec<String> = values.iter().take(3).map(|&x| number(x)).collect();
    format!(
        "{name} {:?} {:?}: mean {mean:.5e}, min {}, max {}, first {}",
        tensor.kind(),
        tensor.size(),
        number(min),
        number(max),
        first.join(" ")
    )
}
