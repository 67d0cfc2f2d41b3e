//! Losses against plain loops over float64.

use dif_sr::config::{Loss, Predictor};
use dif_sr::golden::Tolerance;
use dif_sr::model::Model;
use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::sample::*;

/// A model with a predictor, a batch, and encoded sequences that are no model's: a loss sees nothing else.
fn encoded(shape: &Shape) -> Tensor {
    shape.random().normal(&[shape.rows, shape.heads * shape.head_size], 0.0, 1.5)
}

fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
    (0..tensor.size()[0]).map(|i| values(&tensor.get(i))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean over rows of −log softmax over **all** items.
fn item_loss(model: &Model, seq_output: &Tensor, targets: &[i64]) -> f64 {
    let items = rows(&parameter(model, "item_embedding.weight"));
    let of_row = |(output, &target): (&Vec<f64>, &i64)| {
        let total: f64 = items.iter().map(|item| dot(output, item).exp()).sum();
        total.ln() - dot(output, &items[target as usize])
    };
    rows(seq_output).iter().zip(targets).map(of_row).sum::<f64>() / targets.len() as f64
}

/// −[y · log σ(x) + (1 − y) · log(1 − σ(x))], averaged over rows and tokens without the padding token; y counts.
fn attribute_loss(model: &Model, i: usize, seq_output: &Tensor, targets: &[i64]) -> f64 {
    let feature = &model.features()[i];
    let weight = rows(&parameter(model, &format!("ap.{i}.weight")));
    let bias = values(&parameter(model, &format!("ap.{i}.bias")));
    let mut sum = 0.0;
    for (output, &target) in rows(seq_output).iter().zip(targets) {
        let tokens = ids(&feature.ids.get(target));
        for token in 1..feature.vocab as usize {
            let label = tokens.iter().filter(|&&t| t == token as i64).count() as f64;
            let x = dot(output, &weight[token]) + bias[token];
            // log σ(x) = −log(1 + e⁻ˣ), log(1 − σ(x)) = −log(1 + eˣ)
            sum += label * (-x).exp().ln_1p() + (1.0 - label) * x.exp().ln_1p();
        }
    }
    sum / (targets.len() as f64 * (feature.vocab - 1) as f64)
}

fn scalar(x: f64) -> Tensor {
    Tensor::from(x)
}

proptest! {
    #[test]
    fn the_item_loss_is_a_softmax_over_all_items(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        let (model, batch, seq_output) = (shape.model(), shape.batch(), encoded(&shape));
        let expected = item_loss(&model, &seq_output, &ids(&batch.pos_items));
        equal("item loss", &model.losses_of(&seq_output, &batch).item, &scalar(expected))?;
    }

    /// Libtorch leaves one label out of a cross-entropy, which must be none of the items.
    #[test]
    fn every_item_counts_as_a_target(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        let shape = Shape { n_items: 150, rows: 150, ..shape };
        let (model, mut batch, seq_output) = (shape.model(), shape.batch(), encoded(&shape));
        batch.pos_items = Tensor::arange(150, (Kind::Int64, model.device()));
        let expected = item_loss(&model, &seq_output, &ids(&batch.pos_items));
        equal("item loss", &model.losses_of(&seq_output, &batch).item, &scalar(expected))?;
    }

    #[test]
    fn attribute_losses_average_over_batch_and_vocabulary_without_padding_and_count_repetitions(
        mut shape in shapes(&FUSIONS, &SUM_OR_MEAN),
    ) {
        shape.predictor = Predictor::Linear;
        let (model, batch, seq_output) = (shape.model(), shape.batch(), encoded(&shape));
        let losses = model.attribute_losses(&seq_output, &batch.pos_items, Kind::Double);
        prop_assert_eq!(losses.len(), shape.attributes.len());
        for (i, loss) in losses.iter().enumerate() {
            let expected = attribute_loss(&model, i, &seq_output, &ids(&batch.pos_items));
            equal(&format!("attribute {i}"), loss, &scalar(expected))?;
        }
    }

    #[test]
    fn the_total_is_the_item_loss_and_the_weighted_attribute_losses(mut shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        shape.predictor = Predictor::Linear;
        let (model, batch, seq_output) = (shape.model(), shape.batch(), encoded(&shape));
        let targets = ids(&batch.pos_items);
        let weighted = |(i, lamda)| lamda * attribute_loss(&model, i, &seq_output, &targets);
        let attributes: f64 = model.config().lamdas.iter().enumerate().map(weighted).sum();
        let expected = item_loss(&model, &seq_output, &targets) + attributes;
        // The labels, and so the attribute losses, are float32 in training: a few units of its last place.
        let tolerance = Tolerance { rtol: 1e-6, atol: 1e-6 };
        close("total loss", &model.losses_of(&seq_output, &batch).total, &scalar(expected), tolerance)?;
    }

    #[test]
    fn without_a_predictor_the_total_is_the_item_loss(mut shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        shape.predictor = Predictor::Not;
        let losses = shape.model().losses_of(&encoded(&shape), &shape.batch());
        prop_assert!(losses.attributes.is_empty());
        prop_assert_eq!(losses.total.double_value(&[]), losses.item.double_value(&[]));
    }

    #[test]
    fn bpr_is_the_log_sigmoid_of_the_margin_and_ignores_the_predictors(mut shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        shape.loss = Loss::Bpr;
        let (model, batch, seq_output) = (shape.model(), shape.batch(), encoded(&shape));
        let items = rows(&parameter(&model, "item_embedding.weight"));
        let negatives = ids(batch.neg_items.as_ref().expect("a batch of ours has negative items"));
        let pairs = ids(&batch.pos_items).into_iter().zip(negatives);
        let margins = rows(&seq_output).into_iter().zip(pairs).map(|(output, (positive, negative))| {
            dot(&output, &items[positive as usize]) - dot(&output, &items[negative as usize])
        });
        let of_margin = |x: f64| -((1.0 / (1.0 + (-x).exp())) + 1e-10).ln();
        let expected = margins.map(of_margin).sum::<f64>() / shape.rows as f64;
        equal("BPR", &model.losses_of(&seq_output, &batch).total, &scalar(expected))?;
    }

    #[test]
    fn scores_are_dot_products_with_every_item(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        let (model, seq_output) = (shape.model(), encoded(&shape));
        let items = rows(&parameter(&model, "item_embedding.weight"));
        let expected: Vec<f64> = rows(&seq_output).iter().flat_map(|o| items.iter().map(|item| dot(o, item))).collect();
        equal("scores", &model.scores(&seq_output), &Tensor::from_slice(&expected).view([shape.rows, shape.n_items]))?;
    }
}
