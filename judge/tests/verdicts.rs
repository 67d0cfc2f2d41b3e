//! What is required, accepted, misspelt, absent and too much; and what is said outside of the golden tensors.

use std::path::Path;

use judge::{Case, Dump, Error, Judge, Report, Tensor, Verdict};
use safetensors::{SafeTensors, tensor::TensorView};

fn gate() -> Case {
    bundled("gate")
}

fn bundled(name: &str) -> Case {
    Case::bundled(name).unwrap_or_else(|e| panic!("{e}"))
}

/// The case's own numbers, of the keys that begin so.
fn own(case: &Case, starts: &[&str]) -> Dump {
    let keys = case.tensors.iter().filter(|(name, _)| starts.iter().any(|start| name.starts_with(start)));
    keys.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
}

const COMPUTED: [&str; 4] = ["out.", "grad.", "train.", "after5."];

fn judged(case: &Case, dump: &Dump) -> Report {
    Judge::of(case).judge(dump).unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(found: Result<Report, Error>) -> String {
    match found {
        Ok(report) => panic!("expected an error, found {report}"),
        Err(error) => error.to_string(),
    }
}

fn scaled(tensor: &Tensor, factor: f64) -> Tensor {
    let values: Vec<f64> = tensor.values().iter().map(|value| value * factor).collect();
    Tensor::new(tensor.shape(), &values).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_bundled_case_passes_its_own_numbers() {
    for name in Case::names() {
        let case = bundled(name);
        let report = judged(&case, &own(&case, &COMPUTED));
        assert_eq!(report.verdict, Verdict::Pass, "{name}: {report}");
    }
}

#[test]
fn scores_alone_are_not_yet_a_dif_sr() {
    let case = gate();
    let report = judged(&case, &own(&case, &["out.scores"]));
    assert_eq!(report.verdict, Verdict::Incomplete);
    let text = report.to_string();
    assert!(text.contains("missing: losses (`out.loss.total`); gradients (`grad.LayerNorm.*`, "), "{text}");
    assert!(text.ends_with("dump it, or ask for less: --require scores"), "{text}");
    Judge::of(&case).require(["scores"]).unwrap_or_else(|e| panic!("{e}")).assert_holds(&own(&case, &["out.scores"]));
}

#[test]
fn what_is_required_last_is_all_that_is_required() {
    let case = gate();
    let judge = Judge::of(&case).require(["dropout"]).and_then(|judge| judge.require(["scores"]));
    judge.unwrap_or_else(|e| panic!("{e}")).assert_holds(&own(&case, &["out.scores"]));
}

#[test]
fn a_stage_of_which_some_tensors_are_there_is_incomplete() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.tensors.remove("grad.position_embedding.weight");
    let report = judged(&case, &dump);
    assert_eq!(report.verdict, Verdict::Incomplete);
    let text = report.to_string();
    assert!(text.contains("1 of 60 tensors of gradients (`grad.position_embedding.*`)"), "{text}");
}

/// The loss does not depend on it: an implementation without that bias computes the same function.
#[test]
fn a_parameter_without_effect_may_be_absent() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.tensors.retain(|name, _| !name.contains("fusion_layer.projection.2.bias"));
    assert_eq!(judged(&case, &dump).verdict, Verdict::Pass);
}

#[test]
#[should_panic(expected = "departs first at item scores (`out.scores` at [")]
fn assert_holds_panics_with_the_report() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.tensors.insert("out.scores".into(), scaled(&case.tensors["out.scores"], 1.1));
    judge::assert_holds(&case, &dump);
}

#[test]
fn a_misspelt_key_is_an_error_with_the_nearest_name() {
    let case = gate();
    for (wrong, meant) in [
        ("out.score", "out.scores"),
        ("out.layer.0.atention_probs", "out.layer.0.attention_probs"),
        ("grad.item_embeding.weight", "grad.item_embedding.weight"),
        ("after5.trm_encoder.layer.0.feed_forward.dense1.bias", "after5.trm_encoder.layer.0.feed_forward.dense_1.bias"),
        ("ouput.scores", "out.scores"),
    ] {
        let mut dump = own(&case, &["out.loss."]);
        dump.tensors.insert(wrong.into(), case.tensors["out.scores"].clone());
        let sentence = refusal(Judge::of(&case).judge(&dump));
        assert_eq!(
            sentence,
            format!("found `{wrong}`, which is no key of gate; is `{meant}` meant? Rename it, or leave it out")
        );
    }
}

#[test]
fn other_keys_are_listed_and_a_third_layer_is_evidence() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.tensors.insert("my.notes".into(), case.tensors["out.scores"].clone());
    let third = "grad.trm_encoder.layer.2.feed_forward.dense_1.bias";
    dump.tensors.insert(third.into(), case.tensors["out.scores"].clone());
    let report = judged(&case, &dump);
    assert_eq!(report.unknown, ["my.notes"]);
    let said =
        "`grad.trm_encoder.layer.*.feed_forward.dense_1.*` (1 tensor) is of a parameter that DIF-SR does not have here";
    assert_eq!(report.evidence, [said]);
}

#[test]
fn absent_parameters_and_gradients_are_evidence() {
    let case = gate();
    let mut dump = own(&case, &["param.", "out.", "grad."]);
    dump.tensors.retain(|name, _| !name.contains("fusion_layer") && name != "grad.position_embedding.weight");
    let report = judged(&case, &dump);
    let said = report.evidence.join("\n");
    assert!(
        said.contains(
            "no `param.trm_encoder.layer.*.multi_head_attention.fusion_layer.projection.0.*` (4 tensors, the \
                           fusion's own): the model has none, or they are not dumped"
        ),
        "{said}"
    );
    assert!(
        said.contains(
            "no `grad.position_embedding.*` (1 tensor, the positions): the parameter is there and has no \
                           gradient"
        ),
        "{said}"
    );
}

#[test]
fn a_gradient_that_does_not_exist_is_zero() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.tensors.remove("grad.position_embedding.weight");
    dump.metadata.insert("missing_gradients".into(), r#"["position_embedding.weight"]"#.into());
    let departure = judged(&case, &dump).departure.expect("it departs");
    assert_eq!(departure.tensor.name, "grad.position_embedding.weight");
}

#[test]
fn a_gradient_of_an_attribute_table_is_told() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    let table = "feature_embed_layer_list.0.token_seq_embedding";
    dump.tensors.insert(format!("grad.{table}"), case.tensors[&format!("param.{table}")].clone());
    dump.tensors.insert(format!("after5.{table}"), scaled(&case.tensors[&format!("param.{table}")], 1.5));
    let said = judged(&case, &dump).evidence.join("\n");
    assert!(said.contains(&format!("`grad.{table}`: the attribute table has a gradient")), "{said}");
    assert!(
        said.contains(&format!("`after5.{table}`: the attribute table is trained, it has moved by up to 1.3e0")),
        "{said}"
    );
}

#[test]
fn what_is_accepted_is_reported_and_the_rest_is_held() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.tensors.insert("out.loss.item".into(), scaled(&case.tensors["out.loss.item"], 6.0));
    assert_eq!(judged(&case, &dump).verdict, Verdict::Departs);
    let judge = Judge::of(&case).accept("out.loss.item", "summed, as in our paper").unwrap_or_else(|e| panic!("{e}"));
    let report = judge.judge(&dump).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.verdict, Verdict::Pass);
    let text = report.to_string();
    assert!(text.contains("accepted: out.loss.item: summed, as in our paper; 1 tensor departs by it"), "{text}");
    dump.tensors.insert("out.scores".into(), scaled(&case.tensors["out.scores"], 6.0));
    assert_eq!(judge.judge(&dump).unwrap_or_else(|e| panic!("{e}")).verdict, Verdict::Departs);
}

#[test]
fn a_copy_of_a_bundled_case_has_its_table_of_causes_unless_its_configuration_differs() {
    let tensors = std::fs::read("cases/gate/tensors.safetensors").expect("bundled");
    let config = std::fs::read_to_string("cases/gate/config.yaml").expect("bundled");
    let faults = |config: &str| {
        let case = Case::parse(Path::new("mine"), config, &tensors).unwrap_or_else(|e| panic!("{e}"));
        case.faults().count()
    };
    assert_eq!(faults(&format!("# mine\n{config}")), gate().faults().count());
    assert!(faults(&config) > 300);
    let other = config.replace("learning_rate: 0.001", "learning_rate: 0.002");
    assert_ne!(other, config);
    assert_eq!(faults(&other), 0);
}

/// `gate`'s tensors with one of them changed.
fn with_tensor(name: &str, change: impl Fn(&mut Vec<usize>, &mut Vec<u8>)) -> Vec<u8> {
    let bytes = std::fs::read("cases/gate/tensors.safetensors").expect("bundled");
    let file = SafeTensors::deserialize(&bytes).expect("bundled");
    let mut tensors: Vec<_> =
        file.iter().map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec())).collect();
    let changed = tensors.iter_mut().find(|(each, ..)| *each == name).expect("a tensor of the case");
    change(&mut changed.2, &mut changed.3);
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).expect("a view")));
    safetensors::serialize(views, None).expect("serialized")
}

#[test]
fn a_case_whose_tensors_do_not_fit_its_configuration_is_refused() {
    let config = std::fs::read_to_string("cases/gate/config.yaml").expect("bundled");
    let refused = |config: &str, tensors: &[u8]| match Case::parse(Path::new("mine"), config, tensors) {
        Ok(case) => panic!("expected an error, found {case:?}"),
        Err(error) => error.to_string(),
    };
    let told = refused(&config, &with_tensor("in.item_seq", |_, data| data[7 * 8..14 * 8].fill(0)));
    assert!(told.contains("in.item_seq") && told.contains("found padding alone in row 1"), "{told}");
    for (name, expected) in [
        ("out.layer.0.attention_probs", "[6, 4, 7, 7]"),
        ("out.layer.1.fused_scores", "[6, 4, 7, 7]"),
        ("out.layer.1.attention_output", "[6, 7, 32]"),
        ("out.layer.0.output", "[6, 7, 32]"),
        ("out.seq_output", "[6, 32]"),
        ("out.scores", "[6, 40]"),
    ] {
        let told = refused(&config, &with_tensor(name, |shape, _| *shape = vec![shape.iter().product()]));
        assert!(told.contains(name) && told.contains(&format!("expected shape {expected}, found")), "{told}");
    }
    let told = refused(&config.replace("vocab: 12", "vocab: 0"), &with_tensor("in.item_seq", |_, _| {}));
    assert!(told.contains("expected sizes of at least 1"), "{told}");
}

/// Faults that a case cannot tell apart are one entry of its table: here the root of 4 is of the heads, or of their size.
#[test]
fn every_name_of_a_fault_can_be_accepted() {
    let case = gate();
    let listed = |name: &str| case.faults().any(|(id, _)| id == name);
    assert!(listed("scale_by_attribute_head_size") && !listed("scale_by_number_of_heads"));
    for name in ["scale_by_attribute_head_size", "scale_by_number_of_heads"] {
        assert!(Judge::of(&case).accept(name, "a reason").is_ok(), "{name}");
    }
}

#[test]
fn a_deviation_needs_a_known_name_and_a_reason() {
    let case = gate();
    let told = |name: &str, reason: &str| Judge::of(&case).accept(name, reason).err().map(|e| e.to_string());
    assert_eq!(told("out.scores", "why not"), None);
    assert!(told("out.scores", " ").is_some_and(|e| e.starts_with("expected a reason to accept `out.scores`")));
    assert!(told("out.skores", "x").is_some_and(|e| e.contains("is `out.scores` meant?")));
    let told = Judge::of(&case).require(["gradient"]).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(told.starts_with("expected a stage to require, found `gradient`; is `gradients` meant?"), "{told}");
}

#[test]
fn half_precision_and_foreign_files_are_refused() {
    let case = gate();
    let shape = case.tensors["out.scores"].shape().to_vec();
    let count: usize = shape.iter().product();
    // A table that was trained, which the case has no values of, is held to those before.
    let table = "after5.feature_embed_layer_list.0.token_seq_embedding";
    for (dtype, name) in [(safetensors::Dtype::F16, "float16"), (safetensors::Dtype::BF16, "bfloat16")] {
        let bytes = vec![0_u8; count * 2];
        let view = || safetensors::tensor::TensorView::new(dtype, shape.clone(), &bytes).expect("a view");
        for key in ["out.scores", table] {
            let file = safetensors::serialize([(key, view())], None).expect("serialized");
            let dump = Dump::parse(Path::new("half.safetensors"), &file).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(
                refusal(Judge::of(&case).judge(&dump)),
                format!(
                    "half.safetensors, tensor `{key}`: expected float64 or float32, found {name}; half precision rounds \
                     by as much as faults change: run the model in float64, or in float32"
                )
            );
        }
        let file = safetensors::serialize([("out.scores", view())], None).expect("serialized");
        let told = Dump::parse(Path::new("half.safetensors"), &file[..file.len() / 2]).err().map(|e| e.to_string());
        assert!(told.is_some_and(|told| told.starts_with("half.safetensors: expected a safetensors file, found")));
    }
}

#[test]
fn a_tensor_of_another_shape_is_refused_with_its_layout_if_that_is_all() {
    let case = gate();
    let scores = &case.tensors["out.scores"];
    let (rows, items) = (scores.shape()[0], scores.shape()[1]);
    let turned: Vec<f64> = (0..rows * items).map(|i| scores.values()[i % rows * items + i / rows]).collect();
    let mut dump = Dump::new();
    dump.put("out.scores", &[items, rows], &turned).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        refusal(Judge::of(&case).judge(&dump)),
        "tensor `out.scores`: expected shape [6, 40], found [40, 6]; permute its axes to [1, 0]: it then holds what is \
         expected of `out.scores`"
    );
}

#[test]
fn max_pooling_is_judged_in_float64_alone() {
    let case = bundled("max_pooling");
    let scores: Vec<f32> = case.tensors["out.scores"].values().iter().map(|&v| v as f32).collect();
    let mut dump = Dump::new();
    dump.put("out.scores", case.tensors["out.scores"].shape(), &scores).unwrap_or_else(|e| panic!("{e}"));
    let told = refusal(Judge::of(&case).judge(&dump));
    assert!(told.starts_with("expected float64 for a case with `pooling_mode: max`, found float32"), "{told}");
}

/// A dump with what is outside of the case, and what is said of it.
fn said(metadata: [(&str, &str); 1]) -> (Verdict, String) {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.metadata.extend(metadata.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let report = judged(&case, &dump);
    (report.verdict, report.facts.iter().map(|fact| fact.found.clone()).collect())
}

#[test]
fn the_optimizers_settings_are_held_to_adams() {
    let adam = r#"{"class": "Adam", "groups": [{"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}]}"#;
    assert_eq!(said([("optimizer", adam)]), (Verdict::Pass, "Adam with the case's settings".into()));
    let other = r#"{"class": "AdamW", "groups": [{"lr": 0.001, "betas": [0.9, 0.98], "weight_decay": 0.01}]}"#;
    let told = "AdamW, expected Adam; beta2 0.98, expected 0.999; weight_decay 0.01, expected 0";
    assert_eq!(said([("optimizer", other)]), (Verdict::Departs, told.into()));
    // As `torch.optim.Adafactor` and optimizers with a third beta write them.
    let other = r#"{"class": "Adafactor", "groups": [{"lr": 0.001, "eps": [null, 0.001], "beta2_decay": -0.8}]}"#;
    let told = "Adafactor, expected Adam; eps [null,0.001], expected 0.00000001";
    assert_eq!(said([("optimizer", other)]), (Verdict::Departs, told.into()));
    let other = r#"{"class": "Adan", "groups": [{"lr": 0.001, "betas": [0.9, 0.999, 0.99]}]}"#;
    assert_eq!(said([("optimizer", other)]), (Verdict::Departs, "Adan, expected Adam".into()));
    for betas in ["0.5", r#"{"0":0.5}"#, "[0.9]"] {
        let other = format!(r#"{{"class": "Adam", "groups": [{{"betas": {betas}}}]}}"#);
        let told = format!("betas {betas}, expected [0.9, 0.999]");
        assert_eq!(said([("optimizer", &other)]), (Verdict::Departs, told));
    }
}

/// Calls of dropout as a dump has them.
fn sites(all: &[(f64, &[usize])]) -> String {
    let site = |(rate, shape): &(f64, &[usize])| format!(r#"{{"rate": {rate}, "shape": {shape:?}}}"#);
    format!("[{}]", all.iter().map(site).collect::<Vec<_>>().join(","))
}

const VECTORS: &[usize] = &[6, 7, 32];
const PROBABILITIES: &[usize] = &[6, 4, 7, 7];

#[test]
fn dropout_is_seven_calls_at_two_rates() {
    let layer = [(0.3, PROBABILITIES), (0.5, VECTORS), (0.5, VECTORS)];
    let right = [&[(0.5, VECTORS)][..], &layer, &layer].concat();
    assert_eq!(said([("dropout_sites", &sites(&right))]), (Verdict::Pass, "7 calls, as expected".into()));
    let nine = [&right[..], &[(0.5, VECTORS), (0.5, VECTORS)]].concat();
    let told = "9 calls, 2 of attention probabilities, expected 7 calls, 2 of attention probabilities";
    assert_eq!(said([("dropout_sites", &sites(&nine))]), (Verdict::Departs, told.into()));
    let one_rate = [&[(0.5, VECTORS)][..], &[(0.5, PROBABILITIES), (0.3, VECTORS), (0.5, VECTORS)], &layer].concat();
    let (verdict, told) = said([("dropout_sites", &sites(&one_rate))]);
    assert_eq!(verdict, Verdict::Departs);
    assert!(told.contains("attention probabilities are dropped at rates [0.5, 0.3], expected one"), "{told}");
}

#[test]
fn dropout_may_act_in_any_layout() {
    for probabilities in [&[24, 7, 7][..], &[6, 7, 4, 7], &[6, 7, 7, 4]] {
        for vectors in [&[7, 6, 32][..], &[42, 32], &[6, 7, 4, 8]] {
            let layer = [(0.3, probabilities), (0.5, vectors), (0.5, vectors)];
            let all = [&[(0.5, vectors)][..], &layer, &layer].concat();
            assert_eq!(said([("dropout_sites", &sites(&all))]), (Verdict::Pass, "7 calls, as expected".into()));
        }
    }
}

#[test]
fn dropout_at_another_place_is_told() {
    let told = |all: &[(f64, &[usize])]| {
        let (verdict, told) = said([("dropout_sites", &sites(all))]);
        assert_eq!(verdict, Verdict::Departs);
        told
    };
    // The inner activations of the feed-forward network, not its output.
    let inner = [(0.3, PROBABILITIES), (0.5, VECTORS), (0.5, &[6, 7, 48][..])];
    let expected = "expected [6, 4, 7, 7] or [6, 7, 32] in any layout";
    assert_eq!(told(&[&[(0.5, VECTORS)][..], &inner, &inner].concat()), format!("0.5 of [6, 7, 48], {expected}"));
    let late = [(0.5, VECTORS), (0.3, PROBABILITIES), (0.5, VECTORS)];
    assert_eq!(told(&[&[(0.5, VECTORS)][..], &late, &late].concat()), "the calls are in another order");
    let huge = [usize::MAX, 2];
    assert!(told(&[(0.5, &huge)]).ends_with(&format!("0.5 of {huge:?}, {expected}")));
}

#[test]
fn two_passes_must_be_equal() {
    assert_eq!(said([("determinism", r#"{"largest_difference": 0.0}"#)]).0, Verdict::Pass);
    let (verdict, told) = said([("determinism", r#"{"largest_difference": 0.4}"#)]);
    assert_eq!(verdict, Verdict::Departs);
    assert!(told.starts_with("two passes differ by 4.0e-1"), "{told}");
}

/// Numbers of mean 0 and deviation 1 that are nearly normal: sums of twelve uniform ones.
fn normal(n: usize) -> Vec<f64> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..n).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
}

#[test]
fn initial_values_are_held_to_their_deviations() {
    let case = gate();
    let (items, table) = ("init.item_embedding.weight", "init.feature_embed_layer_list.0.token_seq_embedding");
    let verdict = |name: &str, values: Vec<f64>| {
        let mut dump = own(&case, &COMPUTED);
        dump.put(name, &[values.len() / 32, 32], &values).unwrap_or_else(|e| panic!("{e}"));
        let report = judged(&case, &dump);
        (report.verdict, report.facts[0].found.clone())
    };
    let by = |deviation: f64| normal(3200).into_iter().map(|v| v * deviation).collect::<Vec<f64>>();
    assert_eq!(verdict(items, by(0.02)).0, Verdict::Pass);
    assert_eq!(verdict(table, by(1.0)).0, Verdict::Pass);
    // Both were found in ports.
    let (found, told) = verdict(items, by(1.006));
    assert_eq!(found, Verdict::Departs);
    assert!(told.ends_with("expected 0 and 0.02"), "{told}");
    assert_eq!(verdict(table, by(0.02)).0, Verdict::Departs);
    let mut padded = by(0.02);
    padded[..32].fill(0.0);
    let (found, told) = verdict(items, padded);
    assert_eq!(found, Verdict::Departs);
    assert!(told.contains("row 0, the padding item's, is zero"), "{told}");
    let uniform = (0..3200).map(|i| ((i * 7919 % 3200) as f64 / 1600.0 - 1.0) * 0.02 * 3_f64.sqrt()).collect();
    let (found, told) = verdict(items, uniform);
    assert_eq!(found, Verdict::Departs);
    assert!(told.contains("expected 3, a normal distribution's"), "{told}");
    let ones = vec![1.0; 32];
    assert_eq!(verdict("init.LayerNorm.weight", ones.clone()).0, Verdict::Pass);
    assert_eq!(verdict("init.LayerNorm.bias", ones).0, Verdict::Departs);
}

#[test]
fn a_case_may_have_weights_of_another_deviation() {
    let config = std::fs::read_to_string("cases/gate/config.yaml").expect("bundled") + "initializer_range: 5e-2\n";
    let tensors = std::fs::read("cases/gate/tensors.safetensors").expect("bundled");
    let case = Case::parse(Path::new("mine"), &config, &tensors).unwrap_or_else(|e| panic!("{e}"));
    let verdict = |deviation: f64| {
        let mut dump = own(&case, &COMPUTED);
        let values: Vec<f64> = normal(3200).into_iter().map(|v| v * deviation).collect();
        dump.put("init.item_embedding.weight", &[100, 32], &values).unwrap_or_else(|e| panic!("{e}"));
        judged(&case, &dump).verdict
    };
    assert_eq!((verdict(0.05), verdict(0.02)), (Verdict::Pass, Verdict::Departs));
}

#[test]
fn the_report_is_json_too() {
    let case = gate();
    let mut dump = own(&case, &COMPUTED);
    dump.tensors.insert("out.scores".into(), scaled(&case.tensors["out.scores"], 1.1));
    let json = serde_json::to_value(judged(&case, &dump)).expect("JSON");
    assert_eq!(json["verdict"], "departs");
    assert_eq!(json["departure"]["stage"], "item scores");
    assert_eq!(json["departure"]["tensor"]["name"], "out.scores");
}
