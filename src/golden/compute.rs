//! A golden case computed by this project's model: forward, losses, gradients, optimizer steps.

use std::collections::BTreeMap;

use tch::{Tensor, no_grad};

use super::Case;
use crate::model::SasRecD;
use crate::train::Adam;

/// Everything that the reference wrote down, computed by this project's model and named alike.
pub(super) fn compute(case: &Case) -> BTreeMap<String, Tensor> {
    let Case { model, batch, shape, .. } = case;
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
    // The goldens hold these, and these alone, with labels of the model's kind: the total has the float32 ones.
    let attributes = model.attribute_losses(&encoded.seq_output, &batch.pos_items, losses.item.kind());
    for (feature, loss) in model.features().iter().zip(&attributes) {
        put(format!("out.loss.attribute.{}", feature.name), loss);
    }

    let mut adam = Adam::new(model.named_parameters(), shape.learning_rate, 0.0);
    let mut total = losses.total;
    for step in 1..=shape.train_steps {
        adam.zero_grad();
        total.backward();
        if step == 1 {
            gradients(model).iter().for_each(|(name, grad)| _ = put(format!("grad.{name}"), grad));
        }
        put(format!("train.loss.{step}"), &total);
        adam.step();
        total = model.losses(batch, true).total;
    }
    for ((name, parameter), initial) in adam.parameters().zip(&initial) {
        put(format!("after5.{name}"), parameter);
        no_grad(|| parameter.shallow_clone().copy_(initial));
    }
    adam.zero_grad();
    ours
}

/// The gradients of the last backward pass; zeros for a parameter that the loss does not use.
fn gradients(model: &SasRecD) -> Vec<(String, Tensor)> {
    let parameters = model.named_parameters().into_iter();
    parameters
        .map(|(name, parameter)| {
            let grad = parameter.grad();
            let grad = if grad.defined() { grad } else { parameter.zeros_like() };
            (name, grad)
        })
        .collect()
}
