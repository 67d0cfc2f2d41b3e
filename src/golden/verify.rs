//! Holds the model to a golden case: forward, losses, gradients, optimizer steps.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tch::{Kind, Tensor, no_grad};

use super::{Case, Comparison, Tolerance, compare};
use crate::config::{Fusion, ModelConfig, Pooling};
use crate::model::SasRecD;
use crate::train::Adam;
use crate::{Error, Result};

/// The comparisons of one case, in the order in which the model computes.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// The folder's name.
    pub case: String,
    pub groups: Vec<Group>,
}

/// Tensors of one sort.
#[derive(Debug, Serialize)]
pub struct Group {
    pub name: &'static str,
    /// How many tensors were compared.
    pub tensors: usize,
    /// The one with the largest error in relation to what is allowed.
    pub worst: Comparison,
}

impl CaseReport {
    /// Whether every tensor is within tolerance.
    pub fn holds(&self) -> bool {
        self.groups.iter().all(|group| group.worst.holds())
    }
}

/// The groups in the order of computation, each with what its tensors' names begin and end with.
const GROUPS: [(&str, &str, &str); 10] = [
    ("fused scores", "out.layer.", ".fused_scores"),
    ("attention probabilities", "out.layer.", ".attention_probs"),
    ("attention output", "out.layer.", ".attention_output"),
    ("layer output", "out.layer.", ".output"),
    ("sequence output", "out.seq_output", ""),
    ("item scores", "out.scores", ""),
    ("losses", "out.loss.", ""),
    ("gradients", "grad.", ""),
    ("losses in training", "train.loss.", ""),
    ("parameters after training", "after5.", ""),
];

/// Runs the case's batch through the model and compares every golden tensor. The model is left as it was.
pub fn verify(case: &Case) -> Result<CaseReport> {
    let ours = compute(case);
    let noise = match case.model.config().pooling_mode {
        Pooling::Max => rounding_noise(case, &ours),
        Pooling::Sum | Pooling::Mean => BTreeMap::new(),
    };
    let null = null_gradients(case.model.config());
    let mut groups: BTreeMap<usize, Vec<Comparison>> = BTreeMap::new();
    for (name, golden) in &case.expected {
        let parameter = name.split_once('.').map_or("", |(_, rest)| rest);
        let group = group_of(name).filter(|_| ours.contains_key(name)).ok_or_else(|| {
            Error::new(format!("found a tensor `{name}`, which a model of this configuration does not compute"))
                .at(&case.path)
                .hint("make the case's config.yaml and its tensors agree")
        })?;
        let tensor = &ours[name];
        let mut tolerance = Tolerance::of(tensor.kind());
        tolerance.atol += noise.get(name).copied().unwrap_or_default();
        let comparison = match null.contains(parameter) {
            // Both sides hold rounding noise, which Adam turns into steps of arbitrary sign.
            true if name.starts_with("after5.") => continue,
            true => compare(name, tensor, &golden.zeros_like(), tolerance),
            false => compare(name, tensor, golden, tolerance),
        };
        groups.entry(group).or_default().push(comparison);
    }
    let case_name = case.path.file_name().unwrap_or(case.path.as_os_str()).to_string_lossy().into_owned();
    let groups = groups.into_iter().filter_map(|(group, comparisons)| {
        let tensors = comparisons.len();
        let worst = comparisons.into_iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio()))?;
        Some(Group { name: GROUPS[group].0, tensors, worst })
    });
    Ok(CaseReport { case: case_name, groups: groups.collect() })
}

/// How far rounding alone moves each tensor: ten times the largest change under eight random perturbations of the
/// parameters by at most one unit in the last place.
///
/// DIFFERENCE: `max` pooling puts scores near 1e18 into the softmax, in the reference as here (golden README), so that
/// what follows depends on the order in which a processor sums products: the authors' own operations on an AVX2 machine
/// leave the goldens, which come from AVX-512, by as much. Tensors that rounding does not move keep the usual tolerance.
fn rounding_noise(case: &Case, ours: &BTreeMap<String, Tensor>) -> BTreeMap<String, f64> {
    let parameters = case.model.named_parameters();
    let initial: Vec<Tensor> = parameters.iter().map(|(_, p)| p.detach().copy()).collect();
    let mut noise: BTreeMap<String, f64> = BTreeMap::new();
    for seed in 0..8 {
        tch::manual_seed(seed);
        no_grad(|| {
            for ((_, parameter), initial) in parameters.iter().zip(&initial) {
                let ulps = Tensor::randint_low(-1, 2, initial.size(), (Kind::Double, initial.device()));
                parameter.shallow_clone().copy_(&(initial * (ulps * f64::EPSILON + 1.0)));
            }
        });
        for (name, moved) in compute(case) {
            let change = (moved - &ours[&name]).abs().nan_to_num(0.0, None, None).max().double_value(&[]);
            let largest = noise.entry(name).or_default();
            *largest = largest.max(10.0 * change);
        }
    }
    no_grad(|| parameters.iter().zip(&initial).for_each(|((_, p), initial)| p.shallow_clone().copy_(initial)));
    noise
}

fn group_of(name: &str) -> Option<usize> {
    GROUPS.iter().position(|(_, prefix, suffix)| name.starts_with(prefix) && name.ends_with(suffix))
}

/// Everything that the reference wrote down, computed by this project's model and named alike.
fn compute(case: &Case) -> BTreeMap<String, Tensor> {
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

/// Parameters that the loss does not depend on, so that their gradient is rounding noise: a bias that shifts every
/// stream's energy (`gate`) or every score of a row (`sum`) alike vanishes in the softmax.
fn null_gradients(config: &ModelConfig) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for k in 0..config.n_layers {
        let attention = format!("trm_encoder.layer.{k}.multi_head_attention");
        match config.fusion_type {
            Fusion::Gate => _ = names.insert(format!("{attention}.fusion_layer.projection.2.bias")),
            Fusion::Concat => {}
            Fusion::Sum => {
                names.insert(format!("{attention}.key.bias"));
                names.insert(format!("{attention}.key_p.bias"));
                names.extend(
                    (0..config.attribute_hidden_size.len()).map(|i| format!("{attention}.key_layers.{i}.bias")),
                );
            }
        }
    }
    names
}
