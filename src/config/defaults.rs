//! The values of keys that nobody wrote.

use super::*;

impl RunConfig {
    /// RecBole 1.0.1's defaults, the notebook's for the keys of the model, whichever it is, and this project's own; no data
    /// set yet.
    pub(super) fn defaults() -> Self {
        Self {
            run: RunOptions {
                seed: 2020,
                use_gpu: None,
                gpu_id: 0,
                checkpoint_dir: "runs".into(),
                show_progress: true,
                threads: None,
                compute_path: ComputePath::Reference,
                precision: Precision::Float32,
                shard_items: false,
                cuda_graphs: true,
                checkpoint_interval: 60.0,
                loss_decimal_place: 4,
            },
            data: DataConfig {
                dataset: String::new(),
                data_path: "dataset/".into(),
                benchmark_filename: None,
                field_separator: b'\t',
                seq_separator: " ".to_owned(),
                user_id_field: "user_id".to_owned(),
                item_id_field: "item_id".to_owned(),
                time_field: "timestamp".to_owned(),
                list_suffix: "_list".to_owned(),
                load_inter: None,
                load_item: None,
                load_user: Vec::new(),
                unload_inter: Vec::new(),
                unload_item: Vec::new(),
                val_interval: Vec::new(),
                user_inter_num_interval: None,
                item_inter_num_interval: None,
                filter_inter_by_user_or_item: true,
                rm_dup_inter: None,
                max_item_list_length: 50,
                time_precision: TimePrecision::Float32,
                selected_features: vec!["categories".to_owned()],
            },
            model: ModelConfig {
                model: Architecture::SasRecD,
                n_layers: 4,
                n_heads: 4,
                hidden_size: 256,
                inner_size: 256,
                attribute_hidden_size: vec![256],
                hidden_dropout_prob: 0.5,
                attn_dropout_prob: 0.3,
                hidden_act: Activation::Gelu,
                layer_norm_eps: 1e-12,
                initializer_range: 0.02,
                fusion_type: Fusion::Gate,
                pooling_mode: Pooling::Sum,
                attribute_predictor: Predictor::Linear,
                lamdas: vec![10.0],
                loss_type: Loss::Ce,
            },
            train: TrainConfig {
                epochs: 300,
                train_batch_size: 2048,
                learning_rate: 0.001,
                weight_decay: 0.0,
                clip_grad_norm: None,
                eval_step: 1,
                stopping_step: 10,
            },
            eval: EvalConfig {
                metrics: vec![
                    MetricKind::Recall,
                    MetricKind::Mrr,
                    MetricKind::Ndcg,
                    MetricKind::Hit,
                    MetricKind::Precision,
                ],
                topk: vec![10],
                valid_metric: MetricAt { kind: MetricKind::Mrr, k: 10 },
                eval_batch_size: 4096,
                metric_decimal_place: 4,
            },
        }
    }
}
