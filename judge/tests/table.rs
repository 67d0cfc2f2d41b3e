//! Causes from a table, here one made by hand: what each of a few invented faults makes of a few tensors of `gate`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use judge::{Case, Cause, Dump, Judge, Stage, Tensor, Verdict};
use safetensors::tensor::{Dtype, TensorView};

const KEYS: [&str; 6] = [
    "out.layer.1.output",
    "out.seq_output",
    "out.scores",
    "out.loss.item",
    "out.loss.total",
    "grad.position_embedding.weight",
];

/// By what a fault multiplies each of [`KEYS`]; NaN: it leaves no such tensor.
const FAULTS: [(&str, [f64; 6]); 7] = [
    ("late_scale", [1.0, 1.0, 1.5, 1.2, 1.1, 1.3]),
    ("early_scale", [1.5, 1.5, 1.5, 1.2, 1.1, 1.3]),
    ("loss_summed", [1.0, 1.0, 1.0, 6.0, 2.0, 1.0]),
    ("loss_twice", [1.0, 1.0, 1.0, 6.0, 2.0, 1.0]),
    ("positions_detached", [1.0, 1.0, 1.0, 1.0, 1.0, f64::NAN]),
    // So small that the sums of one are within tolerance of the other's.
    ("slightly_more", [1.0, 1.0, 1.0 + 6e-9, 1.0, 1.0, 1.0]),
    ("slightly_less", [1.0, 1.0, 1.0 - 6e-9, 1.0, 1.0, 1.0]),
];

/// The fourth and the first together.
const PAIR: ([i32; 2], [f64; 5]) = ([0, 3], [1.0, 1.0, 1.5, 7.2, 2.2]);

fn case_and_folder() -> (tempfile::TempDir, Case) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("mine");
    std::fs::create_dir(&path).expect("a folder");
    std::fs::copy("cases/gate/config.yaml", path.join("config.yaml")).expect("copied");
    // A case of one's own: in a number that nothing here depends on, not the bundled one.
    let mut bytes = std::fs::read("cases/gate/tensors.safetensors").expect("bundled");
    let last = bytes.len() - 8;
    bytes[last] ^= 1;
    std::fs::write(path.join("tensors.safetensors"), &bytes).expect("written");
    let case = Case::load(&path).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(path.join("causes.safetensors"), table(&case, &PAIR.1)).expect("written");
    let case = Case::load(&path).unwrap_or_else(|e| panic!("{e}"));
    (folder, case)
}

fn case() -> Case {
    case_and_folder().1
}

/// SplitMix64's output as a number in [−1, 1).
fn weight(state: u64) -> f64 {
    let mut z = state.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 * 2_f64.powi(-53) * 2.0 - 1.0
}

fn signature(tensor: &Tensor, factor: f64) -> [f64; 3] {
    let project = |k: u64| -> f64 {
        tensor.values().iter().enumerate().map(|(i, value)| factor * value * weight((k << 40) + i as u64)).sum()
    };
    let most = tensor.values().iter().map(|value| (factor * value).abs()).fold(0.0, f64::max);
    [project(0), project(1), if factor.is_nan() { f64::NAN } else { most }]
}

/// `pair`: by what the pair multiplies each of the first keys.
fn table(case: &Case, pair: &[f64]) -> Vec<u8> {
    let of = |factors: &[f64]| -> Vec<f64> {
        KEYS.iter().zip(factors).flat_map(|(key, &factor)| signature(&case.tensors[*key], factor)).collect()
    };
    let single: Vec<f64> = FAULTS.iter().flat_map(|(_, factors)| of(factors)).collect();
    let pair: Vec<f64> = of(pair).into_iter().step_by(3).collect();
    let bytes = |values: Vec<f64>| values.into_iter().flat_map(f64::to_le_bytes).collect::<Vec<u8>>();
    let pairs: Vec<u8> = PAIR.0.iter().flat_map(|fault| fault.to_le_bytes()).collect();
    let (faults, keys) = (FAULTS.len(), KEYS.len());
    let tensors: Vec<(&str, Dtype, Vec<usize>, Vec<u8>)> = vec![
        ("single", Dtype::F64, vec![faults, keys, 3], bytes(single)),
        ("golden", Dtype::F64, vec![keys, 3], bytes(of(&[1.0; 6]))),
        ("pairs", Dtype::I32, vec![1, 2], pairs),
        ("pair", Dtype::F64, vec![1, pair.len()], bytes(pair)),
        // A stage that the golden file does not hold.
        ("stage.out.input", Dtype::F64, vec![1], bytes(vec![2.5])),
    ];
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.clone(), data).expect("a view")));
    let list: Vec<String> =
        FAULTS.iter().map(|(id, _)| format!(r#"{{"id": "{id}", "text": "what is wrong with {id}"}}"#)).collect();
    let metadata = HashMap::from([
        ("faults".to_owned(), format!("[{}]", list.join(","))),
        ("keys".to_owned(), serde_json::to_string(&KEYS).expect("JSON")),
        ("pair_keys".to_owned(), serde_json::to_string(&KEYS[..5]).expect("JSON")),
    ]);
    safetensors::serialize(views, Some(metadata)).expect("serialized")
}

/// The case's numbers of some keys, each times a factor.
fn dump(case: &Case, keys: &[(&str, f64)]) -> Dump {
    let mut tensors = BTreeMap::new();
    for &(key, factor) in keys {
        let golden = &case.tensors[key];
        let values: Vec<f64> = golden.values().iter().map(|value| value * factor).collect();
        tensors.insert(key.to_owned(), Tensor::new(golden.shape(), &values).unwrap_or_else(|e| panic!("{e}")));
    }
    tensors.into_iter().collect()
}

/// What is found: alternatives by their names, the key to dump next, the first stage that is not explained.
type Found = (Vec<Vec<String>>, Option<String>, Option<Stage>);

fn found(case: &Case, keys: &[(&str, f64)]) -> Found {
    let report = Judge::of(case).judge(&dump(case, keys)).unwrap_or_else(|e| panic!("{e}"));
    match report.departure.unwrap_or_else(|| panic!("it departs")).cause {
        Cause::Reproduced { alternatives, dump_next, unexplained_from, .. } => {
            let names = alternatives.into_iter().map(|faults| faults.into_iter().map(|fault| fault.id).collect());
            (names.collect(), dump_next, unexplained_from)
        }
        other => panic!("{other}"),
    }
}

fn names(alternatives: &[&[&str]]) -> Vec<Vec<String>> {
    alternatives.iter().map(|faults| faults.iter().map(|&fault| fault.to_owned()).collect()).collect()
}

#[test]
fn the_fault_that_gives_the_dumps_numbers_is_named() {
    let keys = [("out.seq_output", 1.0), ("out.scores", 1.5), ("out.loss.item", 1.2)];
    assert_eq!(found(&case(), &keys), (names(&[&["late_scale"]]), None, None));
}

#[test]
fn faults_that_the_dump_cannot_tell_apart_are_named_together_with_what_tells() {
    let case = case();
    let both = names(&[&["late_scale"], &["early_scale"]]);
    assert_eq!(found(&case, &[("out.scores", 1.5)]), (both, Some("out.layer.1.output".into()), None));
    // Nothing in the table tells these two apart.
    let same = names(&[&["loss_summed"], &["loss_twice"]]);
    assert_eq!(found(&case, &[("out.loss.item", 6.0)]), (same, None, None));
    let report = Judge::of(&case).judge(&dump(&case, &[("out.loss.item", 6.0)])).unwrap_or_else(|e| panic!("{e}"));
    assert!(report.to_string().ends_with(
        "one of: what is wrong with loss_summed; or what is wrong with loss_twice (reproduces every number of the dump); the \
         table of this case does not tell them apart"
    ));
}

#[test]
fn what_a_fault_does_not_explain_is_announced_and_two_are_found_together() {
    let case = case();
    let early = [("out.seq_output", 1.5), ("out.scores", 1.5), ("out.loss.item", 1.7)];
    assert_eq!(found(&case, &early), (names(&[&["early_scale"]]), None, Some(Stage::Losses)));
    let together = [("out.seq_output", 1.0), ("out.scores", 1.5), ("out.loss.item", 7.2)];
    assert_eq!(found(&case, &together), (names(&[&["late_scale", "loss_twice"]]), None, None));
}

#[test]
fn of_small_faults_the_one_that_the_dump_lies_at_is_named_and_of_others_none() {
    let case = case();
    let more = names(&[&["slightly_more"]]);
    assert_eq!(found(&case, &[("out.seq_output", 1.0), ("out.scores", 1.0 + 6e-9)]), (more, None, None));
    let report =
        Judge::of(&case).judge(&dump(&case, &[("out.scores", 1.0 + 2.5e-9)])).unwrap_or_else(|e| panic!("{e}"));
    let told = report.to_string();
    assert!(told.contains("none of the 7 known faults and 1 pairs of them gives these numbers"), "{told}");
    assert!(told.contains("of the largest value, no more than rounding to float32 makes"), "{told}");
}

#[test]
fn a_detached_tensor_is_named_by_the_gradient_that_does_not_exist() {
    let case = case();
    let mut dump = dump(&case, &[("out.scores", 1.0)]);
    dump.metadata.insert("missing_gradients".into(), r#"["position_embedding.weight"]"#.into());
    let report = Judge::of(&case).judge(&dump).unwrap_or_else(|e| panic!("{e}"));
    assert!(report.to_string().contains("what is wrong with positions_detached"), "{report}");
}

#[test]
fn behind_an_accepted_fault_everything_is_held_to_what_the_fault_makes_of_it() {
    let case = case();
    let judge = Judge::of(&case).require(["scores"]).and_then(|judge| judge.accept("late_scale", "as in version 2"));
    let judge = judge.unwrap_or_else(|e| panic!("{e}"));
    let verdict = |keys: &[(&str, f64)]| {
        let report = judge.judge(&dump(&case, keys)).unwrap_or_else(|e| panic!("{e}"));
        (report.verdict, report.departure.map(|departure| departure.stage))
    };
    assert_eq!(verdict(&[("out.scores", 1.5), ("out.loss.item", 1.2), ("out.loss.total", 1.1)]), (Verdict::Pass, None));
    assert_eq!(verdict(&[("out.scores", 1.0)]), (Verdict::Pass, None), "the fault need not be seen");
    assert_eq!(verdict(&[("out.scores", 1.5), ("out.loss.item", 1.3)]), (Verdict::Departs, Some(Stage::Losses)));
    assert_eq!(verdict(&[("out.scores", 1.4)]), (Verdict::Departs, Some(Stage::Scores)));
    let report = judge.judge(&dump(&case, &[("out.scores", 1.5)])).unwrap_or_else(|e| panic!("{e}"));
    let accepted = "accepted: late_scale (what is wrong with late_scale): as in version 2; 1 tensor departs by it";
    assert!(report.to_string().contains(accepted), "{report}");
}

#[test]
fn keys_that_the_table_does_not_keep_go_with_an_accepted_fault_where_those_that_it_keeps_do() {
    let case = case();
    let judge = Judge::of(&case).require(["scores"]).and_then(|judge| judge.accept("late_scale", "as in version 2"));
    let judge = judge.unwrap_or_else(|e| panic!("{e}"));
    let stage = |keys: &[(&str, f64)]| {
        let report = judge.judge(&dump(&case, keys)).unwrap_or_else(|e| panic!("{e}"));
        report.departure.map(|departure| departure.stage)
    };
    // `train.loss.1` is a loss, of which the table keeps the item's; of gradients it keeps that of the positions.
    let kept = [("out.scores", 1.5), ("out.loss.item", 1.2)];
    assert_eq!(stage(&[&kept[..], &[("train.loss.1", 1.1)]].concat()), None);
    assert_eq!(stage(&[("out.scores", 1.5), ("out.loss.item", 1.3), ("train.loss.1", 1.1)]), Some(Stage::Losses));
    assert_eq!(stage(&[("out.scores", 1.5), ("train.loss.1", 1.1)]), Some(Stage::Losses));
    assert_eq!(stage(&[&kept[..], &[("grad.LayerNorm.bias", 1.1)]].concat()), Some(Stage::Gradients));
}

#[test]
fn a_further_stage_of_the_table_is_judged() {
    let case = case();
    let mut dump = dump(&case, &[("out.scores", 1.0)]);
    dump.put("out.input", &[1], &[2.6]).unwrap_or_else(|e| panic!("{e}"));
    let report = Judge::of(&case).judge(&dump).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(report.departure.map(|departure| departure.stage), Some(Stage::EncoderInput));
}

#[test]
fn a_damaged_table_is_refused() {
    let (folder, case) = case_and_folder();
    let path = folder.path().join("mine/causes.safetensors");
    std::fs::write(&path, table(&case, &PAIR.1[..4])).expect("written");
    let told = Case::load(&folder.path().join("mine")).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(told.contains("expected a table of causes, found `pair` with rows that are not of 5 numbers"), "{told}");
    std::fs::copy("cases/gate/tensors.safetensors", &path).expect("copied");
    let told = Case::load(&folder.path().join("mine")).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(told.ends_with("write it with `python -m dif_sr_peer.signatures`"), "{told}");
    assert!(told.contains("expected a table of causes, found no metadata `faults`"), "{told}");
    assert!(Path::new(&told.split(": ").next().unwrap_or_default()).ends_with("mine/causes.safetensors"), "{told}");
}
