//! A fault that no table knows is still described by what its numbers say, and nothing is said that does not hold.

use std::path::Path;

use judge::{Case, Cause, Dump, Judge, Tensor};

/// A case without a table: a copy of the bundled one that differs in a number that nothing here depends on.
fn case(name: &str) -> Case {
    let config = std::fs::read_to_string(format!("cases/{name}/config.yaml")).expect("bundled");
    let bytes = std::fs::read(format!("cases/{name}/tensors.safetensors")).expect("bundled");
    let mut bytes = bytes;
    let last = bytes.len() - 8;
    bytes[last] ^= 1;
    let case = Case::parse(Path::new(name), &config, &bytes).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(case.faults().count(), 0, "it has no table");
    case
}

/// What is known of a dump of these tensors alone.
fn known(case: &Case, tensors: &[(&str, Tensor)]) -> Vec<String> {
    let dump: Dump = tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    let report = Judge::of(case).judge(&dump).unwrap_or_else(|e| panic!("{e}"));
    match report.departure.unwrap_or_else(|| panic!("it departs")).cause {
        Cause::Unknown { known, .. } => known,
        other => panic!("{other}"),
    }
}

/// What a case does not have is not where to look for the fault.
#[test]
fn the_advice_on_a_loss_is_that_of_the_cases_own() {
    for (name, advice) in [
        ("gate", "each attribute's times its weight in `lamdas`"),
        ("no_predictor", "the item loss alone: the case predicts no attributes"),
        ("bpr", "which is BPR alone"),
    ] {
        let case = case(name);
        let total = Tensor::new(&[], &[0.12345]).unwrap_or_else(|e| panic!("{e}"));
        let dump = Dump::from_iter([("out.loss.total".to_owned(), total)]);
        let report = Judge::of(&case).judge(&dump).unwrap_or_else(|e| panic!("{e}")).to_string();
        assert!(report.contains(advice), "{name}: {report}");
    }
}

fn with(tensor: &Tensor, of: impl Fn(usize, f64) -> f64) -> Tensor {
    let values: Vec<f64> = tensor.values().iter().enumerate().map(|(i, &value)| of(i, value)).collect();
    Tensor::new(tensor.shape(), &values).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_sum_instead_of_a_mean_is_told_by_the_number_that_it_is() {
    let case = case("gate");
    let told = known(&case, &[("out.loss.item", with(&case.tensors["out.loss.item"], |_, v| v * 6.0))]);
    assert_eq!(told, ["`out.loss.item` is 6 times what is expected (the rows of the batch)"]);
    let name = "out.loss.attribute.categories";
    let told = known(&case, &[(name, with(&case.tensors[name], |_, v| v * 11.0))]);
    let whose = "the vocabulary of `categories` without its padding token";
    assert_eq!(told, [format!("`{name}` is 11 times what is expected ({whose})")]);
}

#[test]
fn the_total_is_told_by_what_it_is_made_of() {
    let case = case("gate_two_attributes");
    let loss = |name: &str| case.tensors[&format!("out.loss.{name}")].values()[0];
    let (item, a, b) = (loss("item"), loss("attribute.categories"), loss("attribute.brand"));
    for (total, told) in [
        (item, "the total is the item loss alone: the attribute losses are not in it"),
        (item + a + b, "the total has the attribute losses without their weights, lamdas"),
        (item + 10.0 * a + 5.0 * b, "the total has the attribute losses with lamdas in the wrong order"),
        (item + 10.0 * b, "the total lacks the attribute loss of `categories`"),
    ] {
        let total = Tensor::new(&[], &[total]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(known(&case, &[("out.loss.total", total)]), [told]);
    }
}

#[test]
fn signs_offsets_and_orders_are_told() {
    let case = case("gate");
    let fused = &case.tensors["out.layer.0.fused_scores"];
    let name = "out.layer.0.fused_scores";
    let told = known(&case, &[(name, with(fused, |_, v| -v))]);
    assert_eq!(told, [format!("`{name}` is what is expected with its sign turned, in every element")]);
    let told = known(&case, &[(name, with(fused, |_, v| v + 0.25))]);
    assert_eq!(told, [format!("`{name}` is what is expected plus 0.2500000, in every element")]);
    // The first two of four heads exchanged: 49 elements a head.
    let other = |i: usize| match i / 49 % 4 {
        0 => i + 49,
        1 => i - 49,
        _ => i,
    };
    let told = known(&case, &[(name, with(fused, |i, _| fused.values()[other(i)]))]);
    assert_eq!(told, [format!("`{name}` holds what is expected along axis 1 in the order [1, 0, 2, 3]")]);
    let told = known(&case, &[(name, with(fused, |i, _| fused.values()[i / 49 * 49 + i % 7 * 7 + i / 7 % 7]))]);
    assert_eq!(told, [format!("`{name}` is what is expected with axes 2 and 3 exchanged (transposed)")]);
}

#[test]
fn a_tensor_of_another_stage_is_recognised() {
    let case = case("gate");
    let told = known(&case, &[("out.layer.1.output", case.tensors["out.layer.0.output"].clone())]);
    assert_eq!(told, ["`out.layer.1.output` holds what is expected of `out.layer.0.output`"]);
}

#[test]
fn the_place_of_the_output_is_told() {
    let case = case("gate");
    let output = &case.tensors["out.layer.1.output"];
    let last = with(&case.tensors["out.seq_output"], |i, _| output.values()[(i / 32 * 7 + 6) * 32 + i % 32]);
    let told = known(&case, &[("out.seq_output", last)]);
    assert_eq!(told, ["it is the output of layer 1 at position L − 1, padding or not"]);
}

/// Rows of probabilities from the case's fused scores.
fn probabilities(case: &Case, scale: f64, masked: impl Fn(usize, usize, usize) -> bool) -> Tensor {
    let fused = &case.tensors["out.layer.0.fused_scores"];
    let mut values = Vec::new();
    for (row, scores) in fused.values().chunks(7).enumerate() {
        let (b, q) = (row / 28, row % 7);
        let scores =
            scores.iter().enumerate().map(|(key, s)| s / scale - if masked(b, q, key) { 10000.0 } else { 0.0 });
        let scores: Vec<f64> = scores.collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - most).exp()).sum();
        values.extend(scores.iter().map(|s| (s - most).exp() / sum));
    }
    Tensor::new(fused.shape(), &values).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn scale_and_mask_are_read_from_probabilities() {
    let case = case("gate");
    let items = case.tensors["in.item_seq"].values().to_vec();
    let padded = |b: usize, key: usize| items[b * 7 + key] == 0.0;
    let name = "out.layer.0.attention_probs";
    let right = probabilities(&case, 8_f64.sqrt(), |b, q, key| key > q || padded(b, key));
    let golden = case.tensors[name].values();
    assert!(right.values().iter().zip(golden).all(|(a, b)| (a - b).abs() < 1e-9), "the helper is right");
    let told = known(&case, &[(name, probabilities(&case, 2.5, |b, q, key| key > q || padded(b, key)))]);
    assert_eq!(told, ["fused scores are divided by 2.500000, not by √8, the item head size"]);
    let told = known(&case, &[(name, probabilities(&case, 8_f64.sqrt(), |b, _, key| padded(b, key)))]).join("\n");
    assert!(told.contains("keys later than their query receive attention"), "{told}");
}

#[test]
fn sgd_and_another_learning_rate_are_read_from_the_parameters() {
    let case = case("no_predictor");
    let names: Vec<&str> = case.tensors.keys().filter_map(|name| name.strip_prefix("after5.")).collect();
    let moved = |by: &dyn Fn(&str, usize) -> f64| -> Vec<(String, Tensor)> {
        let after = |name: &&str| {
            let key = format!("after5.{name}");
            let before = case.tensors[&format!("param.{name}")].values();
            (key.clone(), with(&case.tensors[&key], |i, _| before[i] + by(name, i)))
        };
        names.iter().map(after).collect()
    };
    let told = |tensors: Vec<(String, Tensor)>| {
        let tensors: Vec<(&str, Tensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        known(&case, &tensors).join("\n")
    };
    let sgd = told(moved(&|name, i| -0.005 * case.tensors[&format!("grad.{name}")].values()[i]));
    assert!(sgd.contains("in proportion to their gradients (cosine 1.0000), as SGD does"), "{sgd}");
    let double = told(moved(&|name, i| {
        let [after, before] = ["after5", "param"].map(|of| case.tensors[&format!("{of}.{name}")].values()[i]);
        2.0 * (after - before)
    }));
    assert!(double.contains("as with a learning rate of 0.002000, or with 10.0 steps"), "{double}");
}

#[test]
fn numbers_that_are_none_are_told_first() {
    let case = case("gate");
    let scores = with(&case.tensors["out.scores"], |i, v| if i == 3 { f64::NAN } else { v });
    assert_eq!(known(&case, &[("out.scores", scores)]), ["1 of 240 elements are not finite"]);
}

/// Nothing is said where there is nothing to say.
#[test]
fn noise_has_no_explanation() {
    let case = case("gate");
    let scores = with(&case.tensors["out.scores"], |i, v| v + 0.01 * ((i * i) as f64).sin());
    assert_eq!(known(&case, &[("out.scores", scores)]), Vec::<String>::new());
}
