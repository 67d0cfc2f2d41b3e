//! Keys of the run, of training and of evaluation.

use std::path::Path;

use serde_yaml::Value;

use super::Section::{Evaluation, General, Training, Unprinted};
use super::{Key, Kind, parts};
use crate::config::read::*;
use crate::config::{DataConfig, MetricAt, MetricKind, RunConfig};

pub(super) static KEYS: &[Key] = &[
    key!(Unprinted "model": model.model = word, "`SASRecD`, `SASRec` or `SASRecF`",
        "DIF-SR on SASRec, by its name in the authors' code; or RecBole's SASRec without attributes, or with attributes in its input"),
    key!(Unprinted "dataset": data.dataset = folder_name,
        "the name of a folder, without `/`", "the name of the data set, of its folder and of its files"),
    key!(General "gpu_id": run.gpu_id = index,
        "a whole number of at least 0", "index of the CUDA device (RecBole 1.2 writes it as text, `'0'`)"),
    key!(General "use_gpu": run.use_gpu = optional(flag), "`True`, `False` or `None`",
        "compute on the GPU; `None` means on a GPU if there is one (RecBole's `True` means the same there, here it insists)"),
    key!(General "seed": run.seed = whole(0, u32::MAX.into()),
        "a whole number from 0 to 4294967295", "seeds libtorch's generator once, before the model is built"),
    key!(General "state" is "INFO", "the log has one level"),
    key!(General "reproducibility" is "True", "deterministic algorithms are always asked for"),
    key!(General "data_path": (set_data_path, data_path),
        "a path",
        "the folder that holds the folder `dataset`; a path that ends in the data set's name is that folder itself"),
    key!(General "show_progress": run.show_progress = flag,
        "`True` or `False`", "progress bars on a terminal"),
    key!(General "save_dataset" is "False", "the prepared data set is not saved"),
    key!(General "save_dataloaders" is "False", "the splits are not saved"),
    key!(General "benchmark_filename": data.benchmark_filename = optional(parts_of_data),
        "`None`, or three names such as `[train, valid, test]`",
        "the splits are the files `dataset.NAME.inter`, each row with its history or without (see above); `None` splits one file"),
    key!(General "compute_path": run.compute_path = word, "`reference` or `fast`",
        "the authors' operations in their order, or the same function in less time (docs/performance.md)").own(),
    key!(General "precision": run.precision = word, "`float32` or `bf16`",
        "in what matrices are multiplied: on the CPU by the fast path's kernels, with query, key, value and the LayerNorms' x̂ kept in it too, everything else being float32; on the reference path and on a GPU by libtorch's autocasting, in training alone").own(),
    key!(General "threads": run.threads = optional(|v| whole(v, 1, 1024)),
        "a whole number from 1 to 1024, or `None`", "threads of libtorch; `None` leaves the choice to libtorch").own(),
    key!(Unprinted "shard_items": run.shard_items = flag, "`True` or `False`",
        "ranks share out the rows of the item embedding, with gradient and moments, and none has all of it (docs/scale.md); on the fast path of the CPU; changes nothing in one process, nor in what is computed").own(),
    key!(Unprinted "cuda_graphs": run.cuda_graphs = flag, "`True` or `False`",
        "on a GPU, record a training step as a CUDA graph and replay it, to the same bits; where that cannot be done, the log says why and steps are taken one operation at a time, as with `False` and over ranks").own(),
    key!(Unprinted "checkpoint_interval": run.checkpoint_interval = seconds, "a number from 0 to 1000000000",
        "seconds of training between two writes of `last.safetensors`, from which an interrupted run goes on; 0 writes it after every batch (on a GPU every sixteen)").own(),
    key!(Unprinted "multi_gpus" is "False", "one device computes"),
    key!(Unprinted "single_spec" is "True", "RecBole 1.2: one device computes"),
    key!(Unprinted "local_rank" is "0", "RecBole 1.2: one device computes"),
    key!(Unprinted "worker" is "0", "RecBole 1.2: batches are made by the training thread"),
    key!(Unprinted "shuffle" is "True", "RecBole 1.2: training rows are always shuffled"),
    key!(Unprinted "dataset_save_path" is "None", "RecBole 1.2: the prepared data set is not saved"),
    key!(Unprinted "dataloaders_save_path" is "None", "RecBole 1.2: the splits are not saved"),
    key!(Unprinted "log_wandb" is "False", "RecBole 1.2: nothing is sent to Weights & Biases"),
    key!(Unprinted "wandb_project" is any, "RecBole 1.2: nothing is sent to Weights & Biases"),
    key!(Training "checkpoint_dir": run.checkpoint_dir = path shown as_text,
        "a path", "the folder in which run folders are made (RecBole: `saved`)"),
    key!(Training "epochs": train.epochs = count,
        "a whole number of at least 1", "epochs at most"),
    key!(Training "train_batch_size": train.train_batch_size = count,
        "a whole number of at least 1", "rows in a training batch"),
    key!(Training "learner" is "adam", "Adam is the one optimizer there is").held(parts::learner),
    key!(Training "learning_rate": train.learning_rate = positive,
        "a number above 0", "Adam's step size"),
    key!(Training "eval_step": train.eval_step = count,
        "a whole number of at least 1", "epochs between evaluations"),
    key!(Training "stopping_step": train.stopping_step = whole(0, usize::MAX),
        "a whole number of at least 0", "training stops when one more evaluation in a row than this has not improved"),
    key!(Training "clip_grad_norm": train.clip_grad_norm = optional(clip_grad_norm),
        "`None` or `{'max_norm': 5, 'norm_type': 2}`",
        "gradients are scaled to this norm at most; the 2-norm where no `norm_type` is given"),
    key!(Training "weight_decay": train.weight_decay = not_negative,
        "a number of at least 0", "Adam's L2 penalty"),
    key!(Training "loss_decimal_place": run.loss_decimal_place = whole(0, 17),
        "a whole number from 0 to 17", "decimals of the losses in the log"),
    key!(Unprinted "require_pow" is "False", "RecBole 1.2: there is no embedding loss"),
    key!(Unprinted "enable_amp" is "False", "RecBole 1.2: `precision` says in what matrices are multiplied"),
    key!(Unprinted "enable_scaler" is "False", "RecBole 1.2: bfloat16 needs no scaling of the loss"),
    key!(Unprinted "transform" is "None", "RecBole 1.2: batches are not transformed"),
    key!(Evaluation "eval_args" is "{'split': {'LS': 'valid_and_test'}, 'group_by': 'user', 'order': 'TO', 'mode': 'full'}",
        "the split is leave-one-out in order of time, the ranking is over all items").held(parts::eval_args),
    key!(Evaluation "metrics": eval.metrics = distinct(metric) shown metric_names,
        "a list, without repetitions, of `Recall`, `NDCG`, `MRR`, `Hit`, `Precision` and `MAP`",
        "the metrics of an evaluation"),
    key!(Evaluation "topk": eval.topk = distinct(count), "a list, without repetitions, of whole numbers of at least 1",
        "the lengths of the ranked list at which metrics are taken"),
    key!(Evaluation "valid_metric": eval.valid_metric = metric_at shown metric_name_at,
        "one of `metrics` at one of `topk`, such as `Recall@10`",
        "the metric that picks the best epoch and stops training"),
    key!(Evaluation "valid_metric_bigger" is "True", "larger is better for every metric there is"),
    key!(Evaluation "eval_batch_size": eval.eval_batch_size = count, "a whole number of at least 1",
        "rows in an evaluation batch, which decides no result; the fast path ranks 128 at a time, fewer of long sequences or large catalogues, and a GPU up to 4,096 where that is more"),
    key!(Evaluation "metric_decimal_place": eval.metric_decimal_place = whole(0, 17),
        "a whole number from 0 to 17", "decimals to which metrics are rounded before they are compared and printed"),
];

fn set_data_path(config: &mut RunConfig, value: &Value) -> Option<()> {
    put(&mut config.data.data_path, path(value))
}

/// The folder that holds the data set's folder, in a form that is read back as such: joined with the name only where it
/// would be taken for the data set's folder itself.
fn data_path(config: &RunConfig) -> Value {
    let DataConfig { data_path, dataset, .. } = &config.data;
    let joined = data_path.join(dataset);
    as_text(if data_path.file_name() == joined.file_name() { &joined } else { data_path })
}

fn as_text(path: &Path) -> Value {
    path.to_string_lossy().into()
}

/// The names of the files to train on, to validate and to test.
fn parts_of_data(value: &Value) -> Option<[String; 3]> {
    let name = |v: &Value| text(v).filter(|name| !name.contains(['/', '\0']));
    items(value, name)?.try_into().ok()
}

fn folder_name(value: &Value) -> Option<String> {
    text(value).filter(|name| !name.contains(['/', '\0']) && name != "." && name != "..")
}

/// A number, as text, too.
fn index(value: &Value) -> Option<usize> {
    whole(value, 0, usize::MAX).or_else(|| value.as_str()?.parse().ok())
}

fn seconds(value: &Value) -> Option<f64> {
    not_negative(value).filter(|x| *x <= 1e9)
}

fn metric_names(metrics: &[MetricKind]) -> Value {
    metrics.iter().map(|metric| metric.name()).collect()
}

fn metric_name_at(metric: &MetricAt) -> Value {
    format!("{}@{}", metric.kind.name(), metric.k).into()
}
