//! Keys of the run, of training and of evaluation.

use std::path::PathBuf;

use serde_yaml::Value;

use super::Section::{Evaluation, General, Training, Unprinted};
use super::{Key, accepted, held, honoured, own, parts, unused};
use crate::config::read::*;
use crate::config::{DataConfig, MetricKind};

/// The folder that holds the data set's folder, in a form that is read back as such: joined with the name only where it
/// would be taken for the data set's folder itself.
fn data_path(data: &DataConfig) -> PathBuf {
    let joined = data.data_path.join(&data.dataset);
    if data.data_path.file_name() == joined.file_name() { joined } else { data.data_path.clone() }
}

/// The names of the files to train on, to validate and to test.
fn parts_of_data(value: &Value) -> Option<[String; 3]> {
    let name = |v: &Value| text(v).filter(|name| !name.contains(['/', '\0']));
    items(value, name)?.try_into().ok()
}

pub(super) static KEYS: &[Key] = &[
    honoured(
        Unprinted,
        "model",
        "`SASRecD`, `SASRec` or `SASRecF`",
        "DIF-SR on SASRec, by its name in the authors' code; or RecBole's SASRec without attributes, or with attributes in its input",
        |c, v| put(&mut c.model.model, word(v)),
        |c| value(c.model.model),
    ),
    honoured(
        Unprinted,
        "dataset",
        "the name of a folder, without `/`",
        "the name of the data set, of its folder and of its files",
        |c, v| put(&mut c.data.dataset, text(v).filter(|s| !s.contains(['/', '\0']) && s != "." && s != "..")),
        |c| c.data.dataset.clone().into(),
    ),
    honoured(
        General,
        "gpu_id",
        "a whole number of at least 0",
        "index of the CUDA device (RecBole 1.2 writes it as text, `'0'`)",
        |c, v| put(&mut c.run.gpu_id, whole(v, 0, usize::MAX).or_else(|| v.as_str()?.parse().ok())),
        |c| c.run.gpu_id.into(),
    ),
    honoured(
        General,
        "use_gpu",
        "`True`, `False` or `None`",
        "compute on the GPU; `None` means on a GPU if there is one (RecBole's `True` means the same there, here it insists)",
        |c, v| put(&mut c.run.use_gpu, optional(v, Value::as_bool)),
        |c| value(c.run.use_gpu),
    ),
    honoured(
        General,
        "seed",
        "a whole number from 0 to 4294967295",
        "seeds libtorch's generator once, before the model is built",
        |c, v| put(&mut c.run.seed, whole(v, 0, u32::MAX.into())),
        |c| c.run.seed.into(),
    ),
    accepted(General, "state", |_| &["INFO"], "the log has one level"),
    accepted(General, "reproducibility", |_| &["True"], "deterministic algorithms are always asked for"),
    honoured(
        General,
        "data_path",
        "a path",
        "the folder that holds the folder `dataset`; a path that ends in the data set's name is that folder itself",
        |c, v| put(&mut c.data.data_path, text(v).map(Into::into)),
        |c| data_path(&c.data).to_string_lossy().into(),
    ),
    honoured(
        General,
        "show_progress",
        "`True` or `False`",
        "progress bars on a terminal",
        |c, v| put(&mut c.run.show_progress, v.as_bool()),
        |c| c.run.show_progress.into(),
    ),
    accepted(General, "save_dataset", |_| &["False"], "the prepared data set is not saved"),
    accepted(General, "save_dataloaders", |_| &["False"], "the splits are not saved"),
    honoured(
        General,
        "benchmark_filename",
        "`None`, or three names such as `[train, valid, test]`",
        "the splits are the files `dataset.NAME.inter`, each row with its history or without (see above); `None` splits one file",
        |c, v| put(&mut c.data.benchmark_filename, optional(v, parts_of_data)),
        |c| value(&c.data.benchmark_filename),
    ),
    own(
        General,
        "compute_path",
        "`reference` or `fast`",
        "the authors' operations in their order, or the same function in less time (docs/performance.md)",
        |c, v| put(&mut c.run.compute_path, word(v)),
        |c| value(c.run.compute_path),
    ),
    own(
        General,
        "precision",
        "`float32` or `bf16`",
        "in what matrices are multiplied: on the CPU by the fast path's kernels, everything else being float32; on the reference path and on a GPU by libtorch's autocasting, in training alone",
        |c, v| put(&mut c.run.precision, word(v)),
        |c| value(c.run.precision),
    ),
    own(
        General,
        "threads",
        "a whole number from 1 to 1024, or `None`",
        "threads of libtorch; `None` leaves the choice to libtorch",
        |c, v| put(&mut c.run.threads, optional(v, |v| whole(v, 1, 1024))),
        |c| value(c.run.threads),
    ),
    own(
        Unprinted,
        "shard_items",
        "`True` or `False`",
        "ranks share out the rows of the item embedding, with gradient and moments, and none has all of it (docs/scale.md); on the fast path of the CPU; changes nothing in one process, nor in what is computed",
        |c, v| put(&mut c.run.shard_items, v.as_bool()),
        |c| c.run.shard_items.into(),
    ),
    own(
        Unprinted,
        "cuda_graphs",
        "`True` or `False`",
        "on a GPU, record a training step as a CUDA graph and replay it, to the same bits; where that cannot be done, the log says why and steps are taken one operation at a time, as with `False` and over ranks",
        |c, v| put(&mut c.run.cuda_graphs, v.as_bool()),
        |c| c.run.cuda_graphs.into(),
    ),
    own(
        Unprinted,
        "checkpoint_interval",
        "a number from 0 to 1000000000",
        "seconds of training between two writes of `last.safetensors`, from which an interrupted run goes on; 0 writes it after every batch (on a GPU every sixteen)",
        |c, v| put(&mut c.run.checkpoint_interval, not_negative(v).filter(|x| *x <= 1e9)),
        |c| c.run.checkpoint_interval.into(),
    ),
    accepted(Unprinted, "multi_gpus", |_| &["False"], "one device computes"),
    accepted(Unprinted, "single_spec", |_| &["True"], "RecBole 1.2: one device computes"),
    accepted(Unprinted, "local_rank", |_| &["0"], "RecBole 1.2: one device computes"),
    accepted(Unprinted, "worker", |_| &["0"], "RecBole 1.2: batches are made by the training thread"),
    accepted(Unprinted, "shuffle", |_| &["True"], "RecBole 1.2: training rows are always shuffled"),
    accepted(Unprinted, "dataset_save_path", |_| &["None"], "RecBole 1.2: the prepared data set is not saved"),
    accepted(Unprinted, "dataloaders_save_path", |_| &["None"], "RecBole 1.2: the splits are not saved"),
    accepted(Unprinted, "log_wandb", |_| &["False"], "RecBole 1.2: nothing is sent to Weights & Biases"),
    unused(Unprinted, "wandb_project", "RecBole 1.2: nothing is sent to Weights & Biases"),
    honoured(
        Training,
        "checkpoint_dir",
        "a path",
        "the folder in which run folders are made (RecBole: `saved`)",
        |c, v| put(&mut c.run.checkpoint_dir, text(v).map(Into::into)),
        |c| c.run.checkpoint_dir.to_string_lossy().into(),
    ),
    honoured(
        Training,
        "epochs",
        "a whole number of at least 1",
        "epochs at most",
        |c, v| put(&mut c.train.epochs, count(v)),
        |c| c.train.epochs.into(),
    ),
    honoured(
        Training,
        "train_batch_size",
        "a whole number of at least 1",
        "rows in a training batch",
        |c, v| put(&mut c.train.train_batch_size, count(v)),
        |c| c.train.train_batch_size.into(),
    ),
    accepted(Training, "learner", |_| &["adam"], "Adam is the one optimizer there is"),
    honoured(
        Training,
        "learning_rate",
        "a number above 0",
        "Adam's step size",
        |c, v| put(&mut c.train.learning_rate, positive(v)),
        |c| c.train.learning_rate.into(),
    ),
    honoured(
        Training,
        "eval_step",
        "a whole number of at least 1",
        "epochs between evaluations",
        |c, v| put(&mut c.train.eval_step, count(v)),
        |c| c.train.eval_step.into(),
    ),
    honoured(
        Training,
        "stopping_step",
        "a whole number of at least 0",
        "training stops when one more evaluation in a row than this has not improved",
        |c, v| put(&mut c.train.stopping_step, whole(v, 0, usize::MAX)),
        |c| c.train.stopping_step.into(),
    ),
    honoured(
        Training,
        "clip_grad_norm",
        "`None` or `{'max_norm': 5, 'norm_type': 2}`",
        "gradients are scaled to this norm at most; the 2-norm where no `norm_type` is given",
        |c, v| put(&mut c.train.clip_grad_norm, optional(v, clip_grad_norm)),
        |c| value(c.train.clip_grad_norm),
    ),
    honoured(
        Training,
        "weight_decay",
        "a number of at least 0",
        "Adam's L2 penalty",
        |c, v| put(&mut c.train.weight_decay, not_negative(v)),
        |c| c.train.weight_decay.into(),
    ),
    honoured(
        Training,
        "loss_decimal_place",
        "a whole number from 0 to 17",
        "decimals of the losses in the log",
        |c, v| put(&mut c.run.loss_decimal_place, whole(v, 0, 17)),
        |c| c.run.loss_decimal_place.into(),
    ),
    accepted(Unprinted, "require_pow", |_| &["False"], "RecBole 1.2: there is no embedding loss"),
    accepted(Unprinted, "enable_amp", |_| &["False"], "RecBole 1.2: `precision` says in what matrices are multiplied"),
    accepted(Unprinted, "enable_scaler", |_| &["False"], "RecBole 1.2: bfloat16 needs no scaling of the loss"),
    accepted(Unprinted, "transform", |_| &["None"], "RecBole 1.2: batches are not transformed"),
    held(
        Evaluation,
        "eval_args",
        |_| &["{'split': {'LS': 'valid_and_test'}, 'group_by': 'user', 'order': 'TO', 'mode': 'full'}"],
        parts::eval_args,
        "the split is leave-one-out in order of time, the ranking is over all items",
    ),
    honoured(
        Evaluation,
        "metrics",
        "a list, without repetitions, of `Recall`, `NDCG`, `MRR`, `Hit`, `Precision` and `MAP`",
        "the metrics of an evaluation",
        |c, v| put(&mut c.eval.metrics, distinct(v, metric)),
        |c| value(c.eval.metrics.iter().map(|m| metric_name(*m)).collect::<Vec<_>>()),
    ),
    honoured(
        Evaluation,
        "topk",
        "a list, without repetitions, of whole numbers of at least 1",
        "the lengths of the ranked list at which metrics are taken",
        |c, v| put(&mut c.eval.topk, distinct(v, count)),
        |c| value(&c.eval.topk),
    ),
    honoured(
        Evaluation,
        "valid_metric",
        "one of `metrics` at one of `topk`, such as `Recall@10`",
        "the metric that picks the best epoch and stops training",
        |c, v| put(&mut c.eval.valid_metric, metric_at(v)),
        |c| {
            let (metric, k): (MetricKind, usize) = c.eval.valid_metric;
            format!("{}@{k}", metric_name(metric)).into()
        },
    ),
    accepted(Evaluation, "valid_metric_bigger", |_| &["True"], "larger is better for every metric there is"),
    honoured(
        Evaluation,
        "eval_batch_size",
        "a whole number of at least 1",
        "rows in an evaluation batch, which decides no result; the fast path ranks 128 at a time, fewer of long sequences or large catalogues, and a GPU up to 4,096 where that is more",
        |c, v| put(&mut c.eval.eval_batch_size, count(v)),
        |c| c.eval.eval_batch_size.into(),
    ),
    honoured(
        Evaluation,
        "metric_decimal_place",
        "a whole number from 0 to 17",
        "decimals to which metrics are rounded before they are compared and printed",
        |c, v| put(&mut c.eval.metric_decimal_place, whole(v, 0, 17)),
        |c| c.eval.metric_decimal_place.into(),
    ),
];
