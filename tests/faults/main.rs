//! Does the harness notice? Faults that re-implementations of DIF-SR really have, each planted in an implementation of its
//! own, and the check that catches it.

#[path = "../common/mod.rs"]
mod common;
mod implementation;
mod pipeline;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use common::process::{code, dif_sr, stderr, stdout};
use common::{AMAZON_BEAUTY, ML_100K, root};
use dif_sr::data::Dataset;
use dif_sr::eval::Ranking;
use dif_sr::golden::{Case, judge_of, to_judge};
use dif_sr::tensors::{TensorFile, write};
use dif_sr::train::Prepared;
use implementation::{Implementation, Planted};
use judge::{Cause, Departure, Report, Stage};
use tch::{Kind, Tensor};

/// The cases that the second implementation covers.
const COVERED: [&str; 13] = [
    "gate",
    "concat",
    "sum",
    "gate_two_attributes",
    "concat_two_attributes",
    "sum_two_attributes",
    "mean_pooling",
    "act_relu",
    "act_swish",
    "act_tanh",
    "act_sigmoid",
    "no_predictor",
    "long_sequence",
];

/// Those in which every fault is planted: one of each sort.
const PLANTED_IN: [&str; 6] = ["gate", "concat", "sum", "gate_two_attributes", "mean_pooling", "no_predictor"];

/// Each planted fault with its name, and the stage of `gate` that must depart first.
const MODEL_FAULTS: [(Planted, &str, &str); 11] = [
    (Planted::ScaleByAttributeHeadSize, "scale by the attribute head size", "layer 0: attention probabilities"),
    (Planted::MaskBeforeFusion, "mask before fusion", "layer 0: fused scores"),
    (Planted::AttributeTableTrained, "train the attribute table", "optimizer steps"),
    (Planted::PaddingRowZeroed, "zero the padding row", "embedding"),
    (Planted::PositionAddedToInput, "position added to the input", "layer 0: fused scores"),
    (Planted::OffByOneGather, "off-by-one in the last-position gather", "sequence output"),
    (Planted::LeftPadding, "left padding", "layer 0: fused scores"),
    (Planted::LabelClippedTo1, "label clipping to 1", "losses"),
    (Planted::Index0InAttributeLoss, "index 0 in the attribute loss", "losses"),
    (Planted::TanhGelu, "tanh-GELU", "layer 0: output"),
    (Planted::LayerNormEps1e5, "LayerNorm epsilon 1e-5", "layer 0: fused scores"),
];

/// The name in the table of the fault that the judge must name.
fn named(planted: Planted) -> &'static str {
    match planted {
        Planted::ScaleByAttributeHeadSize => "scale_by_attribute_head_size",
        Planted::MaskBeforeFusion => "mask_before_fusion",
        Planted::AttributeTableTrained => "attribute_table_trained",
        Planted::PaddingRowZeroed => "padding_row_zeroed",
        Planted::PositionAddedToInput => "position_added_to_input",
        Planted::OffByOneGather => "off_by_one_gather",
        Planted::LeftPadding => "left_padding",
        Planted::LabelClippedTo1 => "label_clipped_to_1",
        Planted::Index0InAttributeLoss => "index_0_in_attribute_loss",
        Planted::TanhGelu => "tanh_gelu",
        Planted::LayerNormEps1e5 => "layer_norm_eps_1e_5",
    }
}

/// The faults that a departure is told to be, each alternative with those that act together, and where something else shows.
fn causes(departure: &Departure) -> (Vec<Vec<&str>>, Option<Stage>) {
    let Cause::Reproduced { alternatives, unexplained_from, .. } = &departure.cause else { panic!("{departure}") };
    let ids = alternatives.iter().map(|faults| faults.iter().map(|fault| fault.id.as_str()).collect());
    (ids.collect(), *unexplained_from)
}

/// A golden case as this file's implementation and the crate read it.
struct Golden {
    config: serde_yaml::Value,
    tensors: BTreeMap<String, Tensor>,
    case: Case,
}

impl Golden {
    fn new(name: &str) -> Self {
        tch::set_num_threads(1);
        let folder = root().join("golden").join(name);
        let text = std::fs::read_to_string(folder.join("config.yaml")).expect("readable");
        let tensors = TensorFile::read(&folder.join("tensors.safetensors")).unwrap_or_else(|e| panic!("{e}")).tensors;
        let case = Case::load(&folder).unwrap_or_else(|e| panic!("{e}"));
        Self { config: serde_yaml::from_str(&text).expect("YAML"), tensors, case }
    }

    fn dump(&self, fault: Option<Planted>, kind: Kind) -> BTreeMap<String, Tensor> {
        Implementation::new(&self.config, &self.tensors, fault, kind).dump()
    }

    fn judge(&self, tensors: &BTreeMap<String, Tensor>, stages: &[&str]) -> Report {
        let dump = tensors.iter().map(|(name, tensor)| (name.clone(), to_judge(tensor))).collect();
        let judge = judge_of(&self.case, Kind::Double);
        let judge = if stages.is_empty() { judge } else { judge.require(stages).unwrap_or_else(|e| panic!("{e}")) };
        judge.judge(&dump).unwrap_or_else(|e| panic!("{e}"))
    }

    /// How a dump departs.
    fn departure(&self, tensors: &BTreeMap<String, Tensor>) -> Departure {
        self.judge(tensors, &[]).departure.expect("it departs")
    }
}

#[test]
fn an_implementation_without_a_fault_passes_in_either_precision() {
    for name in COVERED {
        let golden = Golden::new(name);
        for kind in [Kind::Double, Kind::Float] {
            let report = golden.judge(&golden.dump(None, kind), &[]);
            assert!(report.holds(), "{name}, {kind:?}: {report}");
        }
    }
}

/// A dump that is short of the stages before the fault's own still tells, and float32 is enough for what is not small.
#[test]
fn a_fault_is_named_from_a_dump_of_scores_alone_and_from_float32() {
    let golden = Golden::new("gate");
    let mut dump = golden.dump(Some(Planted::ScaleByAttributeHeadSize), Kind::Float);
    dump.retain(|name, _| name == "out.scores");
    let report = golden.judge(&dump, &["scores"]);
    let departure = report.departure.expect("it departs");
    assert_eq!((report.precision, departure.stage), ("float32", Stage::Scores));
    assert_eq!(causes(&departure), (vec![vec!["scale_by_attribute_head_size"]], None));
}

/// Of two faults in different stages, the first is named and the second announced.
#[test]
fn two_faults_are_told_apart() {
    let golden = Golden::new("gate");
    let mut dump = golden.dump(Some(Planted::TanhGelu), Kind::Double);
    let mean = golden.dump(Some(Planted::Index0InAttributeLoss), Kind::Double);
    dump.insert("out.loss.attribute.categories".into(), mean["out.loss.attribute.categories"].copy());
    assert_eq!(causes(&golden.departure(&dump)), (vec![vec!["tanh_gelu"]], Some(Stage::Losses)));
}

/// No fault of the table fits: the sentence says what the stage computes and what to dump beside.
#[test]
fn an_unknown_fault_is_located() {
    let golden = Golden::new("gate");
    let mut dump = golden.dump(None, Kind::Double);
    dump.retain(|name, _| !name.contains(".1.") || name.ends_with(".output"));
    let output = dump.get_mut("out.layer.1.output").expect("a layer output");
    *output = &*output * 1.001;
    let text = golden.departure(&dump).to_string();
    assert!(text.starts_with("departs first at layer 1: output (`out.layer.1.output` at ["), "{text}");
    assert!(text.contains("`out.layer.1.output` is 1.0010000 times what is expected, in every element"), "{text}");
    assert!(text.contains("gives these numbers; layer 0: output is right, so look at"), "{text}");
    assert!(text.contains("; to come closer, dump layer 1: "), "{text}");
}

/// What the table says of a fault.
struct Caught {
    fault: &'static str,
    check: &'static str,
    departs: String,
    cause: String,
    not_visible: Vec<&'static str>,
}

/// Plants every fault in a case. Says where the dump departs and why, or `None` of a fault that the case does not show.
fn plant_all_in(name: &str) -> Vec<Option<(String, String)>> {
    let golden = Golden::new(name);
    let departures = MODEL_FAULTS.iter().map(|&(planted, fault, stage)| {
        let departure = golden.judge(&golden.dump(Some(planted), Kind::Double), &[]).departure?;
        let (found, unexplained) = causes(&departure);
        assert_eq!(unexplained, None, "{fault}, {name}: {departure}");
        // Of two attributes the name says which.
        let is_named = |faults: &Vec<&str>| matches!(faults[..], [id] if id.starts_with(named(planted)));
        assert!(found.iter().any(is_named), "{fault}, {name}: {departure}");
        let because = departure.cause.to_string();
        if name == "gate" {
            assert_eq!(departure.stage.to_string(), stage, "{fault}");
        }
        let because = because.trim_end_matches(" (reproduces every number of the dump)");
        Some((format!("{}: `{}`", departure.stage, departure.tensor.name), because.to_owned()))
    });
    departures.collect()
}

#[test]
fn every_planted_fault_is_caught() {
    let cases = thread::scope(|scope| {
        let planting = PLANTED_IN.map(|name| (name, scope.spawn(move || plant_all_in(name))));
        planting.map(|(name, case)| (name, case.join().unwrap_or_else(|_| panic!("{name} departs as printed above"))))
    });
    let of_model = MODEL_FAULTS.iter().enumerate().map(|(i, &(_, fault, _))| {
        let seen_in = |name: &str| cases.iter().find(|case| case.0 == name).and_then(|case| case.1[i].clone());
        let (departs, cause) = seen_in("gate").unwrap_or_else(|| panic!("{fault} is caught on gate"));
        let not_visible = PLANTED_IN.into_iter().filter(|name| seen_in(name).is_none()).collect();
        Caught { fault, check: "`dif-sr verify --against`, on `gate`", departs, cause, not_visible }
    });
    let mut table: Vec<Caught> = of_model.collect();
    table.extend([ranked_with_id_0(), sorted_unstably(), filtered_once(), permuted_afresh()]);
    insta::assert_snapshot!("table", markdown(&table));
}

fn markdown(table: &[Caught]) -> String {
    let mut text = String::from("| fault | caught by | departs first at | cause named | not visible in |\n");
    text += "| --- | --- | --- | --- | --- |\n";
    for Caught { fault, check, departs, cause, not_visible } in table {
        let not_visible: Vec<String> = not_visible.iter().map(|name| format!("`{name}`")).collect();
        text += &format!("| {fault} | {check} | {departs} | {cause} | {} |\n", not_visible.join(", "));
    }
    text
}

/// On scores: the training never makes id 0 a target, so that metrics of trained models hardly show it.
fn ranked_with_id_0() -> Caught {
    let Golden { case, .. } = Golden::new("gate");
    let (scores, targets) = (&case.expected["out.scores"], &case.batch.pos_items);
    let ours = Ranking::of_scores(scores, targets).rank;
    assert_eq!(pipeline::ranks(scores, targets, true), ours);
    let faulty = pipeline::ranks(scores, targets, false);
    let rows = ours.iter().zip(&faulty).filter(|(ours, faulty)| ours != faulty).count();
    assert!(rows > 0, "id 0 outranks a target");
    Caught {
        fault: "evaluation without hiding id 0",
        check: "`eval::Ranking`, on the scores of `gate`",
        departs: format!("ranks of {rows} of {} rows", ours.len()),
        cause: "—".into(),
        not_visible: vec![],
    }
}

fn sorted_unstably() -> Caught {
    let golden = common::golden("ml-100k_no_dropout");
    let config = common::config("ml-100k", &[("data_path", ML_100K.as_str())]).data;
    let dataset = Dataset::load(&config).unwrap_or_else(|e| panic!("{e}"));
    let l = config.max_item_list_length;
    let stable = pipeline::splits(&dataset, l, true);
    assert_eq!(pipeline::first_difference(&stable, &golden), None);
    let faulty = pipeline::first_difference(&pipeline::splits(&dataset, l, false), &golden);
    Caught {
        fault: "unstable sort on ties",
        check: "split hashes, `golden/ml-100k_*.json`",
        departs: format!("`{}`", faulty.expect("ml-100k has ties")),
        cause: "—".into(),
        not_visible: vec![],
    }
}

fn filtered_once() -> Caught {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // u2 has one interaction; without it i3 has one left, without which u1 has one left.
    pipeline::write_chain(folder.path(), &[&["i1", "i2"], &["i2", "i3"], &["i3"], &["i1", "i2"]]);
    let chain = folder.path().display().to_string();
    let (ours, raw) = (loaded(&chain, "chain", "[2,inf)"), loaded(&chain, "chain", "None"));
    assert_eq!(ours.user.len(), pipeline::k_core(&raw, 2, false).len());
    let least = |items: &mut dyn Iterator<Item = i64>| pipeline::counts(items).into_values().min();
    assert_eq!(least(&mut ours.item.iter().map(|&item| item.into())), Some(2));
    let faulty = pipeline::k_core(&raw, 2, true);
    assert_eq!(least(&mut faulty.iter().map(|pair| pair.1)), Some(1), "an item with too few is left");

    // Neither data set of the goldens shows it: one pass is enough there.
    let beauty = AMAZON_BEAUTY.as_deref().map(|path| (path, "Amazon_Beauty"));
    for (path, name) in [(ML_100K.as_str(), "ml-100k")].into_iter().chain(beauty) {
        let raw = loaded(path, name, "None");
        assert_eq!(pipeline::k_core(&raw, 5, true).len(), pipeline::k_core(&raw, 5, false).len(), "{name}");
    }
    Caught {
        fault: "k-core applied once",
        check: "`data::Dataset`, on users of whom each removal takes the next below k",
        departs: format!("{} interactions instead of {}", faulty.len(), ours.user.len()),
        cause: "—".into(),
        not_visible: vec!["ml-100k", "Amazon_Beauty"],
    }
}

/// A data set without attributes whose users and items have interactions as `interval` says.
fn loaded(data_path: &str, dataset: &str, interval: &str) -> Dataset {
    let intervals = [("user_inter_num_interval", interval), ("item_inter_num_interval", interval)];
    let none = [("load_col", "None"), ("selected_features", "[]"), ("attribute_hidden_size", "[]"), ("lamdas", "[]")];
    let named = [("data_path", data_path), ("dataset", dataset)];
    let config = common::config("ml-100k", &[&intervals[..], &none, &named].concat());
    Dataset::load(&config.data).unwrap_or_else(|e| panic!("{e}"))
}

fn permuted_afresh() -> Caught {
    let golden = common::golden("ml-100k_no_dropout");
    let expected: Vec<Vec<i64>> = golden["batches"]
        .as_array()
        .expect("batches")
        .iter()
        .map(|batch| serde_json::from_value(batch["pos_first"].clone()).expect("ids"))
        .collect();
    let targets = |fresh| {
        // Seeds the generator and draws the initial parameters from it.
        let fixed = [("data_path", ML_100K.as_str())];
        let prepared = Prepared::new(&common::config("ml-100k", &fixed)).unwrap_or_else(|e| panic!("{e}"));
        let train = &prepared.splits.train;
        let targets: Vec<i64> = (0..train.n()).map(|row| train.target(row)).collect();
        pipeline::first_targets(&targets, 2048, 3, fresh)
    };
    assert_eq!(targets(false), expected);
    let faulty = targets(true);
    let first = faulty.iter().zip(&expected).position(|(ours, golden)| ours != golden).expect("it departs");
    assert_eq!(first, 48, "the first epoch cannot show it");
    Caught {
        fault: "per-epoch fresh permutation",
        check: "targets of each batch, `golden/ml-100k_no_dropout.json`",
        departs: format!("batch {} of epoch {}, counted from 0", first % 48, first / 48),
        cause: "—".into(),
        not_visible: vec![],
    }
}

/// Runs `dif-sr verify --against dump.safetensors CASE` in `folder`.
fn verify(folder: &Path, more: &[&str]) -> (i32, String, String) {
    let output = dif_sr(folder, &[&["verify", "--against", "dump.safetensors"], more].concat());
    (code(&output), stdout(&output), stderr(&output))
}

fn write_dump(folder: &Path, tensors: BTreeMap<String, Tensor>) {
    let tensors: Vec<_> = tensors.into_iter().collect();
    write(&folder.join("dump.safetensors"), &tensors, &Default::default()).expect("written");
}

#[test]
fn the_command_judges_a_dump_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gate = root().join("golden/gate").display().to_string();
    let golden = Golden::new("gate");
    let mut tensors = golden.dump(None, Kind::Double);
    tensors.insert("my.notes".into(), Tensor::from_slice(&[1.0]));
    tensors.remove("out.scores");
    write_dump(folder.path(), tensors);
    let (code, text, _) = verify(folder.path(), &[&gate]);
    assert_eq!(code, 1, "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("incomplete: ") && last.contains("missing: scores (`out.scores`);"), "{text}");
    let (code, text, _) = verify(folder.path(), &[&gate, "--require=losses,gradients,optimizer_steps"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("dump.safetensors, held to gate in float64\n"), "{text}");
    assert!(text.contains("\n  not in the dump: encoder input, pooled attributes, "), "{text}");
    assert!(text.contains(", item scores\n"), "{text}");
    assert!(text.contains("\n  not in the case, passed over: my.notes\n"), "{text}");
    assert!(text.ends_with("\npass: every tensor of the dump is within tolerance\n"), "{text}");

    write_dump(folder.path(), golden.dump(Some(Planted::ScaleByAttributeHeadSize), Kind::Double));
    let (code, text, _) = verify(folder.path(), &[&gate]);
    let last = text.lines().last().unwrap_or_default();
    assert_eq!(code, 1, "{text}");
    assert!(last.starts_with("departs first at layer 0: attention probabilities (`out.layer.0.attention_probs` at ["));
    assert!(last.ends_with("(reproduces every number of the dump)"), "{last}");

    let (code, json, _) = verify(folder.path(), &[&gate, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, &json["verdict"]), (1, &"departs".into()));
    let departure = &json["departure"];
    assert_eq!(departure["stage"], "layer 0: attention probabilities");
    assert_eq!(departure["tensor"]["name"], "out.layer.0.attention_probs");
    let fault = &departure["cause"]["reproduced"]["alternatives"][0][0];
    assert_eq!(fault["id"], "scale_by_attribute_head_size");
}

#[test]
fn a_dump_that_cannot_be_judged_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gate = root().join("golden/gate").display().to_string();
    let max_pooling = root().join("golden/max_pooling").display().to_string();
    let golden = Golden::new("gate");
    let scores = golden.tensors["out.scores"].copy();
    let dumps: [(&str, Tensor, &[&str]); 11] = [
        ("scores", scores.copy(), &[&gate]),
        ("out.score", scores.copy(), &[&gate]),
        ("out.scores", scores.to_kind(Kind::Int64), &[&gate]),
        ("out.scores", scores.copy(), &[&gate, "--require=score"]),
        ("out.scores", scores.copy(), &[&gate, "--accept=out.skores=a reason"]),
        ("out.scores", scores.copy(), &[&gate, "--accept=out.scores"]),
        ("out.scores", scores.tr(), &[&gate]),
        ("out.scores", scores.to_kind(Kind::BFloat16), &[&gate]),
        ("out.scores", scores.to_kind(Kind::Float), &[&max_pooling]),
        ("out.scores", scores.copy(), &[&gate, &max_pooling]),
        ("out.scores", scores.copy(), &["nowhere"]),
    ];
    let mut told = String::new();
    for (name, tensor, cases) in dumps {
        write_dump(folder.path(), [(name.to_owned(), tensor)].into());
        let (code, out, sentence) = verify(folder.path(), cases);
        assert_eq!((code, out), (2, String::new()), "{sentence}");
        told += &sentence;
    }
    std::fs::write(folder.path().join("dump.safetensors"), "no tensors").expect("written");
    told += &verify(folder.path(), &[&gate]).2;
    insta::assert_snapshot!("refused", told);
}

/// Those of the model are in docs/faults.md.
#[test]
fn the_documentation_shows_the_faults_outside_of_the_model() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let snapshot = read("tests/faults/snapshots/faults__table.snap");
    let (_, table) = snapshot.rsplit_once("---\n").expect("a snapshot has a head");
    let outside: Vec<&str> = table.trim().lines().filter(|line| !line.contains("`dif-sr verify")).collect();
    let outside = outside.join("\n");
    assert!(read("docs/verify.md").contains(&outside), "copy these lines to docs/verify.md:\n{outside}");
}
