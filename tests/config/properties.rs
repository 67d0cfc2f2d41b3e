//! Properties of loading: what is written is read back, and nothing that can be written makes it panic.

use std::fs;

use dif_sr::config::*;
use proptest::prelude::*;

use super::{over, yaml};

fn one_of<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> impl Strategy<Value = T> + use<T> {
    prop::sample::select(values.to_vec())
}

prop_compose! {
    fn models()(
        n_layers in 1..=8_i64, n_heads in 1..=8_i64, (hidden, inner_size) in (1..=64_i64, 1..=512_i64),
        attributes in prop::collection::vec(("[a-z]{1,8}", 1..=32_i64, one_of(&[0.0, 0.5, 10.0, 1e-7, 1e20])), 1..4),
        (hidden_dropout_prob, attn_dropout_prob) in (0.0..1.0, 0.0..1.0),
        hidden_act in one_of(&[
            Activation::Gelu, Activation::Relu, Activation::Swish, Activation::Tanh, Activation::Sigmoid,
        ]),
        (layer_norm_eps, initializer_range) in (1e-15..1e-3, 1e-3..1.0),
        fusion_type in one_of(&[Fusion::Sum, Fusion::Concat, Fusion::Gate]),
        pooling_mode in one_of(&[Pooling::Sum, Pooling::Mean, Pooling::Max]),
        attribute_predictor in one_of(&[Predictor::Linear, Predictor::Not]),
        loss_type in one_of(&[Loss::Ce, Loss::Bpr]), architecture in one_of(&Architecture::ALL),
    ) -> (ModelConfig, Vec<String>) {
        let dif = architecture == Architecture::SasRecD;
        let attributes = if architecture == Architecture::SasRec { Vec::new() } else { attributes };
        let defaults = over(&[]).unwrap().model;
        let model = ModelConfig {
            model: architecture, n_layers, n_heads, hidden_size: hidden * n_heads, inner_size,
            attribute_hidden_size: attributes.iter().map(|(_, size, _)| if dif { *size } else { hidden } * n_heads).collect(),
            hidden_dropout_prob, attn_dropout_prob, hidden_act, layer_norm_eps, initializer_range, loss_type,
            // What a model does not read is at its default, or none.
            fusion_type: if dif { fusion_type } else { defaults.fusion_type },
            pooling_mode: if attributes.is_empty() { defaults.pooling_mode } else { pooling_mode },
            attribute_predictor: if dif { attribute_predictor } else { Predictor::Not },
            lamdas: attributes.iter().filter(|_| dif).map(|(_, _, lamda)| *lamda).collect(),
        };
        (model, attributes.into_iter().enumerate().map(|(i, (name, ..))| format!("{name}{i}")).collect())
    }
}

prop_compose! {
    fn intervals()(
        low in one_of(&[f64::NEG_INFINITY, 0.0, 5.0, 2.5]), length in one_of(&[1.0, 1e6, f64::INFINITY]),
        ends in any::<(bool, bool)>(),
    ) -> Interval {
        let high = if low.is_finite() { low + length } else { length };
        Interval { low, low_closed: ends.0, high, high_closed: ends.1 }
    }
}

prop_compose! {
    fn data(selected_features: Vec<String>)(
        dataset in "[A-Za-z0-9_' -]{1,12}", data_path in one_of(&["dataset", "a b/c", "/", ".", "../x"]),
        (field_separator, seq_separator) in (one_of(b"\t,;| ~:#"), "[ |,~#:'\"\\\\\t-]{1,3}"),
        (load_inter, load_item) in any::<(bool, bool)>(),
        (users, items) in (prop::option::of(intervals()), prop::option::of(intervals())),
        values in prop::option::of(intervals()),
        (filter_inter_by_user_or_item, max_item_list_length) in (any::<bool>(), 1..200_usize),
        rm_dup_inter in one_of(&[None, Some(Keep::First), Some(Keep::Last)]),
        time_precision in one_of(&[TimePrecision::Float32, TimePrecision::Float64]),
        names in ("u[a-z: ]{0,5}", "i[A-Z#]{0,5}", "t[0-9]{0,5}"),
        unloaded in (any::<bool>(), any::<bool>()), user_columns in one_of(&[0, 1, 2]),
        (benchmark_filename, list_suffix) in (
            prop::option::of(["[a-z_. ]{1,6}", "[A-Z0-9]{1,6}", "[a-z'-]{1,6}"]), "[_a-z]{1,6}",
        ),
    ) -> DataConfig {
        let selected_features = selected_features.clone();
        let inter = vec![names.0.clone(), names.1.clone(), names.2.clone(), "None".to_owned()];
        let item = [vec![names.1.clone(), "*".to_owned()], selected_features.clone()].concat();
        let unload = |loaded: bool, wanted: bool| if loaded || !wanted { Vec::new() } else { vec!["w".to_owned()] };
        DataConfig {
            load_user: match user_columns { 0 => Vec::new(), 1 => vec!["*".to_owned()], _ => vec![names.0.clone(), "*".to_owned()] },
            unload_inter: unload(load_inter, unloaded.0), unload_item: unload(load_item, unloaded.1),
            dataset, data_path: data_path.into(), field_separator, seq_separator,
            user_id_field: names.0, item_id_field: names.1, time_field: names.2,
            load_inter: load_inter.then_some(inter), load_item: load_item.then_some(item),
            val_interval: values.into_iter().map(|interval| ("None".to_owned(), interval)).collect(),
            user_inter_num_interval: users, item_inter_num_interval: items,
            filter_inter_by_user_or_item, rm_dup_inter, max_item_list_length, time_precision, selected_features,
            benchmark_filename, list_suffix,
        }
    }
}

prop_compose! {
    fn runs()((model, attributes) in models())(
        model in Just(model), data in data(attributes),
        (seed, use_gpu, gpu_id) in (0..=i64::from(u32::MAX), any::<Option<bool>>(), 0..8_usize),
        (checkpoint_dir, show_progress) in ("[a-z/ .:#'-]{1,12}", any::<bool>()),
        (compute_path, precision, shard_items, cuda_graphs) in (
            one_of(&[ComputePath::Reference, ComputePath::Fast]), one_of(&[Precision::Float32, Precision::Bf16]),
            any::<bool>(), any::<bool>(),
        ),
        (threads, checkpoint_interval, loss_decimal_place) in (
            prop::option::of(1..64_usize), prop_oneof![Just(0.0), 0.0..1e9], 0..=17_usize,
        ),
        (epochs, train_batch_size, eval_step) in (1..1000_usize, 1..10_000_usize, 1..10_usize),
        (learning_rate, weight_decay, stopping_step) in (1e-12..10.0, 0.0..1.0, 0..20_usize),
        clip in prop::option::of((1e-3..10.0, one_of(&[1.0, 2.0, f64::INFINITY]))),
        metrics in prop::sample::subsequence(vec![
            MetricKind::Recall, MetricKind::Ndcg, MetricKind::Mrr, MetricKind::Hit, MetricKind::Precision,
            MetricKind::Map,
        ], 1..=6),
        topk in prop::collection::btree_set(1..100_usize, 1..4),
        (eval_batch_size, metric_decimal_place) in (1..10_000_usize, 0..=17_usize),
    ) -> RunConfig {
        let topk: Vec<_> = topk.into_iter().collect();
        RunConfig {
            run: RunOptions {
                seed, use_gpu, gpu_id, checkpoint_dir: checkpoint_dir.into(), show_progress, threads,
                compute_path, precision, shard_items, cuda_graphs, checkpoint_interval, loss_decimal_place,
            },
            train: TrainConfig {
                epochs, train_batch_size, learning_rate, weight_decay, eval_step, stopping_step,
                clip_grad_norm: clip.map(|(max_norm, norm_type)| ClipGradNorm { max_norm, norm_type }),
            },
            eval: EvalConfig {
                valid_metric: MetricAt { kind: metrics[0], k: topk[0] }, metrics, topk, eval_batch_size, metric_decimal_place,
            },
            data, model,
        }
    }
}

/// Lines of known keys with odd values: text that gets further into loading than random text does.
fn lines() -> impl Strategy<Value = String> {
    let names: Vec<_> = key_names().collect();
    let values = [
        "~",
        "-1",
        "1e999",
        ".nan",
        "[1, [2]]",
        "{a: {b: c}}",
        "'",
        "!x y",
        "99999999999999999999",
        "(1,",
        "[5,inf)",
        "[.nan, 5]",
        "\"[nan,5]\"",
        "\"[5\"",
        "\"[\"",
        "&a [*a]",
        "\u{feff}",
        "\n<<: 1",
        "\n<<: {seed: 5}",
    ];
    let line = (prop::sample::select(names), one_of(&values)).prop_map(|(name, value)| format!("{name}: {value}"));
    prop::collection::vec(line, 0..6).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn a_configuration_written_as_yaml_reads_back_the_same(config in runs()) {
        let text = config.to_yaml();
        prop_assert_eq!(yaml(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?, config, "{}", text);
    }

    #[test]
    fn no_bytes_of_a_file_make_loading_panic(
        bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), lines().prop_map(String::into_bytes)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("any.yaml");
        fs::write(&file, bytes).unwrap();
        let _ = RunConfig::load(std::slice::from_ref(&file), &[]);
        let _ = ModelConfig::from_case(&file);
    }

    #[test]
    fn no_text_on_the_command_line_makes_loading_panic(
        key in prop::sample::select(key_names().collect::<Vec<_>>()),
        value in ".*|[\\[{('\"\\\\\\]})a1e,:. -]{0,40}",
    ) {
        let _ = over(&[(key, &value)]);
    }
}
