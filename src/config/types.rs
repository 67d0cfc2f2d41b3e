//! The valid configuration of a run: what the raw keys become once they are checked.
//! Field names are RecBole's keys, in RecBole's case where Rust allows it.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer};

use super::{MetricAt, MetricKind};

/// One run: what to read, what to build, how to train it and how to judge it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    /// What RecBole calls general.
    pub run: RunOptions,
    /// What to read.
    pub data: DataConfig,
    /// What to build.
    pub model: ModelConfig,
    /// How to train it.
    pub train: TrainConfig,
    /// How to judge it.
    pub eval: EvalConfig,
}

/// RecBole's "General Hyper Parameters", and the threads libtorch may use.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// `seed`: seeds libtorch's generator once, before the model is built.
    pub seed: i64,
    /// `use_gpu`: `None` where the key was left at its default, which means a GPU if there is one.
    pub use_gpu: Option<bool>,
    /// `gpu_id`: index of the CUDA device.
    pub gpu_id: usize,
    /// `checkpoint_dir`: folder in which run folders are made.
    pub checkpoint_dir: PathBuf,
    /// `show_progress`: progress bars on a terminal.
    pub show_progress: bool,
    /// `threads` (this project's key): libtorch's threads; `None` leaves the choice to libtorch.
    pub threads: Option<usize>,
    /// `compute_path` (this project's key).
    pub compute_path: ComputePath,
    /// `precision` (this project's key): of matrix products.
    pub precision: Precision,
    /// `shard_items` (this project's key): whether ranks share out the item embedding.
    pub shard_items: bool,
    /// `cuda_graphs` (this project's key): whether a GPU gets a training step as one CUDA graph.
    pub cuda_graphs: bool,
    /// `checkpoint_interval` (this project's key): seconds of training between two writes of `last.safetensors`.
    pub checkpoint_interval: f64,
    /// `loss_decimal_place`: decimals of the losses in the log.
    pub loss_decimal_place: usize,
}

/// `compute_path` (this project's key): which of the implementations computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputePath {
    /// The authors' operations in their order.
    Reference,
    /// The same function in less time.
    Fast,
}

/// `precision` (this project's key): in what matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32 throughout.
    Float32,
    /// bfloat16 factors of products; on the fast path of the CPU also query, key and value in attention, and the
    /// LayerNorms' x̂ (where libtorch multiplies, products too). Parameters, sums, residuals, attention scores, losses and
    /// optimizer stay in float32.
    Bf16,
}

/// What to read and how to filter, order and cut it.
#[derive(Debug, Clone, PartialEq)]
pub struct DataConfig {
    /// `dataset`: the name, which is also the folder's and the files' name.
    pub dataset: String,
    /// `data_path`: the folder that holds the folder `dataset`.
    pub data_path: PathBuf,
    /// `benchmark_filename`: the three parts of `dataset.PART.inter` that hold the splits; `None` splits one file.
    pub benchmark_filename: Option<[String; 3]>,
    /// `field_separator`: one byte between fields.
    pub field_separator: u8,
    /// `seq_separator`: between the tokens of a sequence field.
    pub seq_separator: String,
    /// `USER_ID_FIELD`.
    pub user_id_field: String,
    /// `ITEM_ID_FIELD`.
    pub item_id_field: String,
    /// `TIME_FIELD`.
    pub time_field: String,
    /// `LIST_SUFFIX`: behind `ITEM_ID_FIELD`, the name of the column of histories in files of splits.
    pub list_suffix: String,
    /// `load_col.inter`: columns to load; `None` loads all.
    pub load_inter: Option<Vec<String>>,
    /// `load_col.item`: columns to load; `None` loads all.
    pub load_item: Option<Vec<String>>,
    /// `load_col.user`: columns named there, `*` for all; with none no `.user` file is read.
    pub load_user: Vec<String>,
    /// `unload_col.inter`: columns not to load.
    pub unload_inter: Vec<String>,
    /// `unload_col.item`: columns not to load.
    pub unload_item: Vec<String>,
    /// `val_interval`: columns of the `.inter` file and the values that interactions must have there.
    pub val_interval: Vec<(String, Interval)>,
    /// `user_inter_num_interval`; `None` does not filter users.
    pub user_inter_num_interval: Option<Interval>,
    /// `item_inter_num_interval`; `None` does not filter items.
    pub item_inter_num_interval: Option<Interval>,
    /// `filter_inter_by_user_or_item`: drop interactions whose item has no row in the `.item` file, or whose user has none in
    /// the `.user` file where that is read.
    pub filter_inter_by_user_or_item: bool,
    /// `rm_dup_inter`: which interaction of a repeated (user, item) pair stays; `None` keeps all.
    pub rm_dup_inter: Option<Keep>,
    /// `MAX_ITEM_LIST_LENGTH`, L.
    pub max_item_list_length: usize,
    /// `time_precision` (this project's key).
    pub time_precision: TimePrecision,
    /// `selected_features`: attributes in the order of the model.
    pub selected_features: Vec<String>,
}

impl DataConfig {
    /// The data set's file of this kind: `inter`, `train.inter`, `item`.
    pub fn file(&self, kind: &str) -> PathBuf {
        self.data_path.join(&self.dataset).join(format!("{}.{kind}", self.dataset))
    }

    /// The column that states a row's history where the splits are files.
    pub fn list_field(&self) -> String {
        format!("{}{}", self.item_id_field, self.list_suffix)
    }
}

/// An interval of counts or values: `[5,inf)`, `(0,100]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Whether that belongs to it.
    pub low_closed: bool,
    /// Its upper end.
    pub high: f64,
    /// Whether that belongs to it.
    pub high_closed: bool,
}

impl Interval {
    /// Whether `value` lies inside; a closed end belongs to the interval, NaN to none.
    pub fn contains(&self, value: f64) -> bool {
        let above = if self.low_closed { value >= self.low } else { value > self.low };
        let below = if self.high_closed { value <= self.high } else { value < self.high };
        above && below
    }
}

/// As RecBole writes it: `[5,inf)`.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, low_closed, high, high_closed } = self;
        write!(f, "{}{low},{high}{}", if *low_closed { '[' } else { '(' }, if *high_closed { ']' } else { ')' })
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `rm_dup_inter`: which of several equal (user, item) pairs stays, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The first.
    First,
    /// The last.
    Last,
}

/// The precision in which times are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimePrecision {
    /// As the reference: Unix seconds then tie within 64 to 128 s (RecBole issue #2204).
    Float32,
    /// The exact time.
    Float64,
}

/// The architecture. Sizes that come from the data (items, vocabularies) are given to the constructor apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// `model`.
    pub model: Architecture,
    /// `n_layers`.
    pub n_layers: i64,
    /// `n_heads`, which divides every hidden size.
    pub n_heads: i64,
    /// H.
    pub hidden_size: i64,
    /// `inner_size`: the width inside of the feed-forward network.
    pub inner_size: i64,
    /// One size per attribute; `hidden_size` each in SASRecF.
    pub attribute_hidden_size: Vec<i64>,
    /// `hidden_dropout_prob`: after embeddings and dense layers.
    pub hidden_dropout_prob: f64,
    /// `attn_dropout_prob`: on the attention probabilities.
    pub attn_dropout_prob: f64,
    /// `hidden_act`: of the feed-forward network.
    pub hidden_act: Activation,
    /// `layer_norm_eps`.
    pub layer_norm_eps: f64,
    /// `initializer_range`: the standard deviation of initial weights.
    pub initializer_range: f64,
    /// `fusion_type`: the paper's F.
    pub fusion_type: Fusion,
    /// `pooling_mode`.
    pub pooling_mode: Pooling,
    /// `attribute_predictor`.
    pub attribute_predictor: Predictor,
    /// One weight for each attribute (the paper's λ), read where there are attribute losses.
    pub lamdas: Vec<f64>,
    /// `loss_type`.
    pub loss_type: Loss,
}

/// `model`: SASRec, by where attributes enter it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// In the attention scores, with positions: DIF-SR.
    #[serde(rename = "SASRecD")]
    SasRecD,
    /// Nowhere.
    #[serde(rename = "SASRec")]
    SasRec,
    /// In the input, side by side with the item.
    #[serde(rename = "SASRecF")]
    SasRecF,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SasRecD, Self::SasRec, Self::SasRecF];

    /// RecBole's name of the model.
    pub fn name(self) -> &'static str {
        match self {
            Self::SasRecD => "SASRecD",
            Self::SasRec => "SASRec",
            Self::SasRecF => "SASRecF",
        }
    }
}

/// `hidden_act`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// The exact form.
    Gelu,
    /// max(x, 0).
    Relu,
    /// x · σ(x).
    Swish,
    /// The hyperbolic tangent.
    Tanh,
    /// σ(x).
    Sigmoid,
}

/// `fusion_type`: the paper's F.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fusion {
    /// The sum of the scores.
    Sum,
    /// A linear layer over all scores of a row.
    Concat,
    /// A weighted sum, whose weights follow from the scores.
    Gate,
}

/// The two types of attribute that the model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeKind {
    /// `token`: one token for each item.
    Token,
    /// `token_seq`: any number of tokens for each item.
    TokenSeq,
}

/// `pooling_mode`: how the tokens of a `token_seq` attribute become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// The largest of each component.
    Max,
}

/// `attribute_predictor`: the auxiliary attribute predictor, or `not` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Predictor {
    /// A linear layer for each attribute.
    Linear,
    /// None.
    Not,
}

/// `loss_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// Softmax over all items.
    #[serde(rename = "CE")]
    Ce,
    /// One sampled negative per positive.
    #[serde(rename = "BPR")]
    Bpr,
}

/// The training loop.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// `epochs`: at most so many.
    pub epochs: usize,
    /// `train_batch_size`: sequences.
    pub train_batch_size: usize,
    /// `learning_rate`.
    pub learning_rate: f64,
    /// `weight_decay`: added to the gradients (L2).
    pub weight_decay: f64,
    /// `clip_grad_norm`: `max_norm` of the 2-norm, or of `norm_type`; `None` does not clip.
    pub clip_grad_norm: Option<ClipGradNorm>,
    /// `eval_step`: epochs between evaluations.
    pub eval_step: usize,
    /// `stopping_step`: stop when `stopping_step` + 1 evaluations in a row have not improved.
    pub stopping_step: usize,
}

/// `clip_grad_norm: {max_norm: 5, norm_type: 2}`, as `torch.nn.utils.clip_grad_norm_` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClipGradNorm {
    /// What the norm is scaled down to.
    pub max_norm: f64,
    /// Which norm.
    pub norm_type: f64,
}

/// Full-ranking evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalConfig {
    /// `metrics`, in their order.
    pub metrics: Vec<MetricKind>,
    /// `topk`: cut-offs, in their order.
    pub topk: Vec<usize>,
    /// `valid_metric`: the metric that stops training and picks the best epoch.
    pub valid_metric: MetricAt,
    /// `eval_batch_size`: sequences.
    pub eval_batch_size: usize,
    /// `metric_decimal_place`: metrics are rounded to so many decimals before they are compared.
    pub metric_decimal_place: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_its_closed_ends_only_and_never_nan() {
        let half_open = Interval { low: 1.0, low_closed: false, high: 3.0, high_closed: true };
        assert_eq!([1.0, 2.0, 3.0, 4.0, f64::NAN].map(|x| half_open.contains(x)), [false, true, true, false, false]);
        let other = Interval { low: 1.0, low_closed: true, high: 3.0, high_closed: false };
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(|x| other.contains(x)), [false, true, true, false]);
    }
}
