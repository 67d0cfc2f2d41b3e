//! The lean program of a model, and a step of it.

use tch::{Device, Tensor, no_grad};

use super::encoder::Encoder;
use super::input::{Attribute, input, kind, look_up};
use super::inputs::{Inputs, SPREAD};
use super::loss::{AttributeLoss, ItemLoss, Labels, attribute, bpr, cross_entropy};
use super::scores::{SideScores, Stream};
use super::weights::Weights;
use crate::Result;
use crate::config::{Loss, ModelConfig, Precision};
use crate::data::{Batch, OrderedRows};
use crate::eval::{Ranking, rank_by};
use crate::libtorch::{backward, forget_gradients, in_bfloat16, set_gradient};
use crate::model::{Losses, Model};

/// Scores held at once in an evaluation: 256 MB of float32.
const SCORES: i64 = 1 << 26;
/// Sequences encoded at once in an evaluation, at most.
const EVALUATED: i64 = 4096;

/// A model's function in few operations of libtorch, on any device and in float32 or float64. It reads and writes the
/// model's own parameters and gradients.
#[derive(Debug)]
pub struct LeanProgram {
    config: ModelConfig,
    precision: Precision,
    n_items: i64,
    weights: Weights,
    /// All of them.
    parameters: Vec<Tensor>,
    /// SASRecD's attributes.
    streams: Vec<Stream>,
    /// SASRecF's.
    attributes: Vec<Attribute>,
    /// Of each predictor.
    labels: Vec<Labels>,
}

/// A step between its forward and its backward pass.
struct Forward {
    inputs: Inputs,
    /// The items' vectors, whose gradient is wanted, `[B, L, H]`.
    items: Tensor,
    /// `[B, H]`
    outputs: Tensor,
    item: ItemLoss,
    attributes: Vec<AttributeLoss>,
}

impl LeanProgram {
    /// The program of a model, which must stay on its device from now on.
    pub fn new(model: &Model, precision: Precision) -> Self {
        let weights = Weights::new(model);
        let predicted = model.features().iter().zip(&weights.predictors);
        Self {
            precision,
            n_items: model.n_items(),
            parameters: model.named_parameters().into_iter().map(|(_, parameter)| parameter).collect(),
            streams: no_grad(|| Stream::all(model)),
            attributes: Attribute::all(model, &weights),
            labels: predicted.map(|(feature, _)| Labels::new(feature, kind(&weights))).collect(),
            config: model.config().clone(),
            weights,
        }
    }

    /// Takes the attribute vectors anew from a model whose tables another file's have replaced.
    pub fn reload(&mut self, model: &Model) {
        self.streams = no_grad(|| Stream::all(model));
    }

    /// The losses of a batch, as [`Model::losses`] defines them; leaves their gradients, and no others, with the
    /// parameters. `train` says whether elements are dropped.
    ///
    /// On a GPU nothing in it waits for the device: what it reads are the tensors of the batch and of the model, what it
    /// returns are tensors.
    ///
    /// # Panics
    /// With `loss_type: BPR` and a batch without `neg_items`.
    pub fn losses(&self, batch: &Batch, train: bool) -> Losses {
        forget_gradients(self.parameters.iter());
        let forward = match self.precision {
            Precision::Float32 => self.forward(batch, train),
            Precision::Bf16 => in_bfloat16(self.device(), || self.forward(batch, train)),
        };
        self.backward(&forward);
        let Forward { item, attributes, .. } = forward;
        let attributes: Vec<Tensor> = attributes.into_iter().map(|attribute| attribute.loss).collect();
        let weighted = attributes.iter().zip(&self.config.lamdas).map(|(loss, &lamda)| loss * lamda);
        let total = weighted.reduce(|sum, loss| sum + loss);
        let total = total.map_or_else(|| item.loss.shallow_clone(), |sum| &item.loss + sum);
        Losses { total, item: item.loss, attributes }
    }

    fn device(&self) -> Device {
        self.weights.item_embedding.device()
    }

    fn forward(&self, batch: &Batch, train: bool) -> Forward {
        let inputs = self.inputs(&batch.item_seq, &batch.item_seq_len);
        let items = look_up(&self.weights, &inputs.items).set_requires_grad(true);
        let outputs = self.encoded(&items, &inputs, train);
        let (item, attributes) = no_grad(|| self.losses_of(&outputs.detach(), batch));
        Forward { inputs, items, outputs, item, attributes }
    }

    fn losses_of(&self, outputs: &Tensor, batch: &Batch) -> (ItemLoss, Vec<AttributeLoss>) {
        let (table, targets) = (&self.weights.item_embedding, &batch.pos_items);
        match self.config.loss_type {
            Loss::Ce => {
                let predictors = self.weights.predictors.iter().zip(&self.labels).zip(&self.config.lamdas);
                let losses = predictors
                    .map(|((predictor, labels), &lamda)| attribute(predictor, labels, lamda, outputs, targets));
                (cross_entropy(outputs, table, targets), losses.collect())
            }
            Loss::Bpr => {
                let negatives = batch.neg_items.as_ref().expect("BPR batches carry negative items");
                (bpr(outputs, table, targets, negatives), Vec::new())
            }
        }
    }

    /// Leaves every gradient with its parameter: libtorch those of the encoder.
    fn backward(&self, forward: &Forward) {
        let Forward { inputs, items, outputs, item, attributes } = forward;
        let gradient = no_grad(|| {
            let all = attributes.iter().map(|attribute| &attribute.outputs);
            all.fold(item.outputs.shallow_clone(), |sum, gradient| sum + gradient).to_kind(outputs.kind())
        });
        backward(outputs, &gradient);
        no_grad(|| {
            let mut of_items = self.item_gradient(inputs, &items.grad(), &item.rows);
            if let Some(table) = &item.table {
                of_items = of_items + table;
            }
            set_gradient(&self.weights.item_embedding, &of_items);
            for (predictor, loss) in self.weights.predictors.iter().zip(attributes) {
                set_gradient(&predictor.weight, &loss.weight);
                set_gradient(&predictor.bias, &loss.bias);
            }
        });
    }

    /// The sum of all rows' gradients by item, of look-ups in the input and in the loss, `[n_items, H]`.
    fn item_gradient(&self, inputs: &Inputs, items: &Tensor, rows: &[(Tensor, Tensor)]) -> Tensor {
        let items = items.flatten(0, 1);
        let ids: Vec<&Tensor> = std::iter::once(&inputs.rows).chain(rows.iter().map(|(ids, _)| ids)).collect();
        let gradients: Vec<&Tensor> = std::iter::once(&items).chain(rows.iter().map(|(_, rows)| rows)).collect();
        let (ids, gradients) = (Tensor::cat(&ids, 0), Tensor::cat(&gradients, 0));
        let sums = Tensor::embedding_dense_backward(&gradients, &ids, self.n_items + SPREAD, -1, false);
        sums.narrow(0, 0, self.n_items)
    }

    fn inputs(&self, item_seq: &Tensor, item_seq_len: &Tensor) -> Inputs {
        let of_streams = self.streams.iter().map(|stream| &stream.classes);
        let classes: Vec<_> = of_streams.chain(self.attributes.iter().map(|attribute| &attribute.classes)).collect();
        no_grad(|| Inputs::new(item_seq, item_seq_len, self.n_items, &classes, kind(&self.weights)))
    }

    /// # Shapes
    /// items `[B, L, H]` → `[B, H]`
    fn encoded(&self, items: &Tensor, inputs: &Inputs, train: bool) -> Tensor {
        let Self { config, weights, streams, attributes, .. } = self;
        let side = SideScores::all(&weights.layers, streams, &weights.position_embedding, config.n_heads, inputs);
        let input = input(config, weights, attributes, items, inputs);
        Encoder { config, weights, inputs, train }.forward(&input, &side)
    }

    /// The outputs of sequences at their last items, without dropout and in full precision.
    ///
    /// # Shapes
    /// item_seq `[n, L]`, item_seq_len `[n]` → `[n, H]`
    pub fn encode(&self, item_seq: &Tensor, item_seq_len: &Tensor) -> Tensor {
        no_grad(|| {
            let inputs = self.inputs(item_seq, item_seq_len);
            self.encoded(&look_up(&self.weights, item_seq), &inputs, false)
        })
    }

    /// Ranks the target of every row, as [`crate::eval::rank`] does; `progress` is told the rows done now and then.
    ///
    /// # Errors
    /// A score that is not finite, and what `progress` returns.
    pub fn rank(&self, rows: &OrderedRows, progress: impl FnMut(usize) -> Result<()>) -> Result<Ranking> {
        let size = (SCORES / self.n_items).clamp(1, EVALUATED) as usize;
        let scores = |batch: &Batch| {
            let outputs = self.encode(&batch.item_seq, &batch.item_seq_len);
            outputs.matmul(&self.weights.item_embedding.transpose(0, 1))
        };
        rank_by(scores, rows, size, progress)
    }
}
