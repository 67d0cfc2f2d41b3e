//! The lean program of a model, and a step of it.

use tch::{Device, Kind, Tensor, no_grad};

use super::encoder::Encoder;
use super::input::{Attribute, input, look_up};
use super::inputs::{Inputs, SPREAD};
use super::loss::{AttributeLoss, ItemLoss, Labels, attribute, bpr, cross_entropy};
use super::scores::{AttributeStream, SideScores};
use super::weights::Weights;
use crate::Result;
use crate::config::{Loss, ModelConfig, Precision};
use crate::data::{Batch, OrderedRows};
use crate::eval::{Ranking, rank_by};
use crate::libtorch::{backward, forget_gradients, in_bfloat16, set_gradient};
use crate::model::{Losses, Model};
use crate::ranks::Ranks;

/// The most numbers of a tensor in an evaluation, 1 GB of float32: of the scores of all items, or of all layers'
/// attributes.
const NUMBERS: i64 = 1 << 28;
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
    streams: Vec<AttributeStream>,
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
            streams: no_grad(|| AttributeStream::all(model)),
            attributes: Attribute::all(model, &weights),
            labels: predicted.map(|(feature, _)| Labels::new(feature, weights.item_embedding.kind())).collect(),
            config: model.config().clone(),
            weights,
        }
    }

    /// Takes the attribute vectors anew from a model whose tables another file's have replaced, in place: a CUDA graph may
    /// read them.
    pub fn reload(&mut self, model: &Model) {
        no_grad(|| self.streams.iter_mut().zip(AttributeStream::all(model)).for_each(|(own, new)| own.take(&new)));
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
            let all = attributes.iter().map(|attribute| &attribute.doutputs);
            all.fold(item.doutputs.shallow_clone(), |sum, gradient| sum + gradient)
        });
        backward(outputs, &gradient);
        no_grad(|| {
            let mut of_items = self.item_gradient(inputs, &items.grad(), &item.drows);
            if let Some(dtable) = &item.dtable {
                of_items += dtable;
            }
            set_gradient(&self.weights.item_embedding, &of_items);
            for (predictor, loss) in self.weights.predictors.iter().zip(attributes) {
                set_gradient(&predictor.weight, &loss.dweight);
                set_gradient(&predictor.bias, &loss.dbias);
            }
        });
    }

    /// The sum of all rows' gradients by item, of look-ups in the input and in the loss, `[n_items, H]`.
    fn item_gradient(&self, inputs: &Inputs, items: &Tensor, rows: &[(Tensor, Tensor)]) -> Tensor {
        let items = items.flatten(0, 1);
        let ids: Vec<&Tensor> = std::iter::once(&inputs.rows).chain(rows.iter().map(|(ids, _)| ids)).collect();
        let gradients: Vec<&Tensor> = std::iter::once(&items).chain(rows.iter().map(|(_, rows)| rows)).collect();
        let (ids, gradients) = (Tensor::cat(&ids, 0).to_kind(Kind::Int), Tensor::cat(&gradients, 0));
        let sums = Tensor::embedding_dense_backward(&gradients, &ids, self.n_items + SPREAD, -1, false);
        sums.narrow(0, 0, self.n_items)
    }

    fn inputs(&self, item_seq: &Tensor, item_seq_len: &Tensor) -> Inputs {
        let of_streams = self.streams.iter().map(|stream| &stream.classes);
        let classes: Vec<_> = of_streams.chain(self.attributes.iter().map(|attribute| &attribute.classes)).collect();
        no_grad(|| Inputs::new(item_seq, item_seq_len, self.n_items, &classes, self.weights.item_embedding.kind()))
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
        let attention = self.config.n_layers * self.config.n_heads * self.weights.position_embedding.size()[0].pow(2);
        let size = (NUMBERS / self.n_items.max(attention)).clamp(1, EVALUATED) as usize;
        let scores = |batch: &Batch| {
            let outputs = self.encode(&batch.item_seq, &batch.item_seq_len);
            outputs.matmul(&self.weights.item_embedding.transpose(0, 1))
        };
        rank_by(&Ranks::alone(), scores, rows, size, progress)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::golden::Case;
    use crate::libtorch::{operations, turn};

    /// What of libtorch waits for a GPU: a number is read, or a shape depends on values.
    const WAITS: [&str; 8] =
        ["item", "_local_scalar_dense", "is_nonzero", "nonzero", "index", "masked_select", "_unique2", "unique_dim"];

    /// How many operations, and how often each, of those that a GPU has work for; and those that it would be waited for.
    fn counted(compute: impl FnOnce()) -> (usize, String, Vec<String>) {
        let mut counts = BTreeMap::<String, usize>::new();
        let (found, mut all) = operations(compute);
        found.iter().for_each(|name| *counts.entry(name.clone()).or_default() += 1);
        all.retain(|name| WAITS.contains(&name.as_str()));
        (found.len(), format!("{counts:?}"), all)
    }

    /// Losses and gradients of the notebook's layers: four, gate, one attribute, no dropout. What a GPU launches is not
    /// the same, and is near: these are libtorch's operations on the CPU. Dropout adds two for each mask here, six on the
    /// reference path.
    #[test]
    fn a_step_has_little_more_than_half_of_the_reference_paths_operations_and_waits_for_nothing() {
        let _turn = turn();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gate");
        let Case { model, batch, .. } = Case::load(&path).unwrap_or_else(|e| panic!("{e}"));
        let config = ModelConfig { n_layers: 4, ..model.config().clone() };
        let features = model.features().iter().map(|feature| feature.on(tch::Device::Cpu));
        let mut model = Model::new(&config, model.n_items(), model.max_len(), features.collect(), tch::Kind::Float);
        model.initialize();
        let program = LeanProgram::new(&model, Precision::Float32);
        let (lean, ours, waits) = counted(|| drop(program.losses(&batch, true)));
        assert!(waits.is_empty(), "{waits:?}");
        let (reference, theirs, waits) = counted(|| model.losses(&batch, true).total.backward());
        assert!(!waits.is_empty(), "the CPU reads the largest label, so that a wait is seen where there is one");
        println!("lean {lean}: {ours}\nreference {reference}: {theirs}");
        assert!(lean <= 354, "{lean} operations: {ours}");
        assert!(reference >= 649, "{reference} operations: {theirs}");
    }
}
