//! `dif-sr verify`.

use std::collections::BTreeMap;
use std::fs;

use dif_sr::tensors::{TensorFile, write};
use tch::Tensor;

use crate::Told;
use crate::common::process::{code, dif_sr, good, refusal, stderr, stdout};
use crate::common::root;

#[test]
fn verify_passes_a_true_case_and_names_what_a_false_one_breaks() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let case = |name: &str| root().join("golden").join(name).display().to_string();
    let output = good(folder.path(), &["verify", &case("sum"), &case("README.md")]);
    assert!(stdout(&output).ends_with("pass: 1 case within tolerance\n"), "{}", stdout(&output));

    // One weight of one gradient, off by a millionth of the largest.
    let false_case = folder.path().join("false");
    fs::create_dir(&false_case).expect("a folder");
    fs::copy(root().join("golden/sum/config.yaml"), false_case.join("config.yaml")).expect("copied");
    let TensorFile { tensors, metadata, .. } =
        TensorFile::read(&root().join("golden/sum/tensors.safetensors")).expect("a case");
    let gradient = &tensors["grad.ap.0.bias"];
    let _ = gradient.get(3).g_add_scalar_(gradient.abs().max().double_value(&[]) * 1e-6);
    write(&false_case.join("tensors.safetensors"), &tensors.into_iter().collect::<Vec<_>>(), &metadata)
        .expect("written");
    let output = dif_sr(folder.path(), &["verify", "false", &case("sum")]);
    assert_eq!(code(&output), 1);
    let text = stdout(&output);
    assert!(text.contains("FAIL `grad.ap.0.bias` at [3]: expected"), "{text}");
    assert!(text.ends_with("FAIL: 1 of 2 cases: false\n"), "{text}");
}

/// The command and the lines that README shows, without its `…` and with its sentence on one line.
#[test]
fn the_example_of_the_readme_is_what_the_program_says() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let example = readme.split("```text\n$ cargo run --release -- ").nth(1).and_then(|rest| rest.split("```").next());
    let (command, told) = example.and_then(|example| example.split_once('\n')).expect("an example");
    let output = dif_sr(root(), &command.split(' ').collect::<Vec<_>>());
    assert_eq!(code(&output), 1);
    let text = stdout(&output);
    for part in told.lines().flat_map(|line| line.split(": GELU")).filter(|part| !part.trim().starts_with('…')) {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn verify_needs_no_folder_for_a_case_that_comes_with_the_program() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = good(folder.path(), &["verify", "gate", "gate_token"]);
    assert!(stdout(&output).ends_with("pass: 2 cases within tolerance\n"), "{}", stdout(&output));
    // A folder of that name is the one that is meant.
    fs::create_dir(folder.path().join("gate")).expect("a folder");
    let sentence = refusal(&dif_sr(folder.path(), &["verify", "gate"]));
    assert!(sentence.starts_with("gate/config.yaml: cannot read"), "{sentence}");
}

#[test]
fn verify_refuses_what_it_does_not_read_and_what_proves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let case = root().join("golden/gate").display().to_string();
    for (flag, told) in [
        ("--againts=nowhere.safetensors", "unexpected argument"),
        ("--epochs=3", "expected no key of the configuration, which this command does not read, found `epochs`"),
    ] {
        let output = dif_sr(folder.path(), &["verify", flag, &case]);
        assert_eq!(code(&output), 2, "{flag}");
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
    // The case's own inputs and parameters, and a tensor of which nothing can be said.
    let TensorFile { tensors, .. } = TensorFile::read(&root().join("golden/gate/tensors.safetensors")).expect("a case");
    let null = "after5.trm_encoder.layer.0.multi_head_attention.fusion_layer.projection.2.bias";
    let given = |name: &str| name.starts_with("in.") || name.starts_with("param.") || name == null;
    let copied: Vec<_> = tensors.into_iter().filter(|(name, _)| given(name)).collect();
    assert!(copied.iter().any(|(name, _)| name == null));
    write(&folder.path().join("copy.safetensors"), &copied, &Default::default()).expect("written");
    let sentence = refusal(&dif_sr(folder.path(), &["verify", "--against=copy.safetensors", &case]));
    assert!(sentence.starts_with("copy.safetensors: expected something that was computed"), "{sentence}");
    fs::create_dir(folder.path().join("null")).expect("a folder");
    fs::copy(root().join("golden/gate/config.yaml"), folder.path().join("null/config.yaml")).expect("copied");
    write(&folder.path().join("null/tensors.safetensors"), &copied, &Default::default()).expect("written");
    let sentence = refusal(&dif_sr(folder.path(), &["verify", "null"]));
    assert!(sentence.starts_with("null: expected something that was computed"), "{sentence}");
}

/// A table of one fault, which doubles the total loss, beside a case that is none of the bundled ones byte for byte.
#[test]
fn verify_names_a_fault_of_the_cases_own_table_of_causes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mine = folder.path().join("mine");
    fs::create_dir(&mine).expect("a folder");
    fs::copy(root().join("golden/gate/config.yaml"), mine.join("config.yaml")).expect("copied");
    let TensorFile { tensors, .. } = TensorFile::read(&root().join("golden/gate/tensors.safetensors")).expect("a case");
    let loss = tensors["out.loss.total"].double_value(&[]);
    let tensors: Vec<(String, Tensor)> = tensors.into_iter().collect();
    write(&mine.join("tensors.safetensors"), &tensors, &BTreeMap::new()).expect("written");

    // The first weights of both projections (judge/causes/README.md).
    let [first, second] = [0.7666216164272852, -0.803006351884409];
    let signature = |value: f64| Tensor::from_slice(&[value * first, value * second, value.abs()]);
    let table = [
        ("golden".to_owned(), signature(loss)),
        ("single".to_owned(), signature(2.0 * loss)),
        ("pairs".to_owned(), Tensor::from_slice(&[0, 0])),
        ("pair".to_owned(), Tensor::from_slice(&[0.0])),
    ];
    let texts = [
        ("faults", r#"[{"id": "twice", "text": "the total loss counts twice"}]"#),
        ("keys", r#"["out.loss.total"]"#),
        ("pair_keys", r#"["out.loss.total"]"#),
    ];
    let texts = texts.map(|(key, text)| (key.to_owned(), text.to_owned()));
    write(&mine.join("causes.safetensors"), &table, &texts.into()).expect("written");

    let dump = [("out.loss.total".to_owned(), Tensor::from(2.0 * loss))];
    write(&folder.path().join("dump.safetensors"), &dump, &BTreeMap::new()).expect("written");
    let output = dif_sr(folder.path(), &["verify", "--against=dump.safetensors", "mine"]);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    let told = stdout(&output);
    assert!(told.contains(": the total loss counts twice (reproduces every number of the dump)"), "{told}");
}

#[test]
fn verify_cannot_run_on_an_unreadable_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("a.json"), "{}").expect("written");
    fs::create_dir(folder.path().join("half")).expect("a folder");
    fs::copy(root().join("golden/sum/config.yaml"), folder.path().join("half/config.yaml")).expect("copied");
    let mut told = Told::in_folder(folder.path());
    told.by(&["verify", "nowhere"]);
    told.by(&["verify", "a.json"]);
    told.by(&["verify", "half"]);
    fs::write(folder.path().join("half/environment.json"), "{}").expect("written");
    told.by(&["verify", "half"]);
    insta::assert_snapshot!(told.text);
}

#[test]
fn verify_judges_what_it_can_read_and_ends_with_what_it_cannot() {
    let output = dif_sr(root(), &["verify", "golden/nowhere", "golden/sum", "golden/none"]);
    assert_eq!(code(&output), 2);
    assert!(stdout(&output).ends_with("pass: 1 case within tolerance\n"), "{}", stdout(&output));
    let told = stderr(&output);
    assert!(told.starts_with("dif-sr: golden/nowhere/config.yaml: "), "{told}");
    assert!(told.contains("(1 case more could not be held either)"), "{told}");
    let output = dif_sr(root(), &["verify", "--json", "golden/nowhere"]);
    assert_eq!((code(&output), stdout(&output)), (2, String::new()), "without a case there is no result");
}
