//! A golden case computed by this project's model: forward, losses, gradients, optimizer steps.

use std::collections::BTreeMap;

use tch::{Kind, Tensor, no_grad};

use super::Case;
use crate::Result;
use crate::config::{Loss, Precision};
use crate::fast::{FastPath, LeanProgram};
use crate::model::{Losses, Model};
use crate::train::Adam;

/// Everything that the reference wrote down, computed by a model on the case's batch, where the model is, and named alike.
pub(super) fn compute(case: &Case, model: &Model) -> BTreeMap<String, Tensor> {
    let (batch, shape) = (&case.batch.to_device(model.device()), &case.shape);
    let initial: Vec<Tensor> = model.named_parameters().iter().map(|(_, p)| p.detach().copy()).collect();
    let mut ours = BTreeMap::new();
    let mut put = |name: String, tensor: &Tensor| ours.insert(name, tensor.detach().copy());

    let encoded = model.forward(&batch.item_seq, &batch.item_seq_len, true);
    for (k, layer) in encoded.layers.iter().enumerate() {
        put(format!("out.layer.{k}.fused_scores"), &layer.attention.fused_scores);
        put(format!("out.layer.{k}.attention_probs"), &layer.attention.probs);
        put(format!("out.layer.{k}.attention_output"), &layer.attention.output);
        put(format!("out.layer.{k}.output"), &layer.output);
    }
    put("out.seq_output".to_owned(), &encoded.seq_output);
    put("out.scores".to_owned(), &no_grad(|| model.scores(&encoded.seq_output)));
    let losses = model.losses_of(&encoded.seq_output, batch);
    put("out.loss.total".to_owned(), &losses.total);
    put("out.loss.item".to_owned(), &losses.item);
    // The goldens hold these, and these alone, with labels of the model's kind: the total has the float32 ones. BPR has none.
    let attributes = match model.config().loss_type {
        Loss::Ce => model.attribute_losses(&encoded.seq_output, &batch.pos_items, losses.item.kind()),
        Loss::Bpr => Vec::new(),
    };
    for (feature, loss) in model.features().iter().zip(&attributes) {
        put(format!("out.loss.attribute.{}", feature.name), loss);
    }

    let mut adam = Adam::new(model.named_parameters(), shape.learning_rate, 0.0);
    let mut first = Some(losses.total);
    ours.extend(optimize(&mut adam, shape.train_steps, || {
        let total = first.take().unwrap_or_else(|| model.losses(batch, true).total);
        total.backward();
        total
    }));
    no_grad(|| adam.parameters().zip(&initial).for_each(|((_, p), initial)| p.shallow_clone().copy_(initial)));
    adam.zero_grad();
    ours
}

/// What the fast path computes of the same, in float32: it has no tensor for what happens inside of a layer.
pub(super) fn compute_fast(case: &Case) -> Result<BTreeMap<String, Tensor>> {
    let Case { batch, shape, .. } = case;
    let model = case.model.copy_as(Kind::Float);
    let mut fast = FastPath::new(&model, Precision::Float32)?;
    let seq_output = Tensor::from_slice(&fast.encode(&batch.item_seq, &batch.item_seq_len));
    let seq_output = seq_output.view([-1, model.config().hidden_size]);
    let mut adam = Adam::new(model.named_parameters(), shape.learning_rate, 0.0);
    let losses = fast.losses(batch, None).tensors();
    let mut ours = scores_and_losses(&model, seq_output, losses);
    for (name, parameter) in model.named_parameters() {
        ours.insert(format!("grad.{name}"), Tensor::from_slice(fast.gradient(&name)).view_as(&parameter));
    }
    for step in 1..=shape.train_steps {
        ours.insert(format!("train.loss.{step}"), fast.losses(batch, None).total.into());
        adam.step_fast(&fast);
    }
    ours.extend(adam.parameters().map(|(name, p)| (format!("after5.{name}"), p.detach().copy())));
    Ok(ours)
}

/// What the lean program computes of the same, in the case's kind: it, too, has no tensor for what happens inside of a layer.
pub(super) fn compute_lean(case: &Case, model: &Model, program: &LeanProgram) -> BTreeMap<String, Tensor> {
    let (batch, shape) = (&case.batch.to_device(model.device()), &case.shape);
    let seq_output = program.encode(&batch.item_seq, &batch.item_seq_len);
    let mut ours = scores_and_losses(model, seq_output, program.losses(batch, true));
    let mut adam = Adam::new(model.named_parameters(), shape.learning_rate, 0.0);
    ours.extend(optimize(&mut adam, shape.train_steps, || program.losses(batch, true).total));
    ours
}

/// What a path without tensors of layers computes before any step, by the goldens' names.
fn scores_and_losses(model: &Model, seq_output: Tensor, losses: Losses) -> BTreeMap<String, Tensor> {
    let Losses { total, item, attributes } = losses;
    let scores = no_grad(|| model.scores(&seq_output));
    let names = model.features().iter().map(|feature| format!("out.loss.attribute.{}", feature.name));
    let all = [("scores", scores), ("seq_output", seq_output), ("loss.total", total), ("loss.item", item)];
    all.map(|(name, tensor)| (format!("out.{name}"), tensor)).into_iter().chain(names.zip(attributes)).collect()
}

/// Takes optimizer steps on one batch: `train.loss.*` before each, `grad.*` of the first (zeros for a parameter that the
/// loss does not use), and `after5.*`. `next` computes the loss and leaves its gradients.
fn optimize(adam: &mut Adam, steps: usize, mut next: impl FnMut() -> Tensor) -> BTreeMap<String, Tensor> {
    let mut named = BTreeMap::new();
    for step in 1..=steps {
        adam.zero_grad();
        let total = next();
        if step == 1 {
            for (name, parameter) in adam.parameters() {
                let grad = parameter.grad();
                let grad = if grad.defined() { grad.copy() } else { parameter.zeros_like() };
                named.insert(format!("grad.{name}"), grad.detach());
            }
        }
        named.insert(format!("train.loss.{step}"), total.detach());
        adam.step();
    }
    named.extend(adam.parameters().map(|(name, p)| (format!("after5.{name}"), p.detach().copy())));
    named
}
