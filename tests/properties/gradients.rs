//! Gradients against central differences.

use dif_sr::config::{Architecture, Fusion, Loss, Predictor};
use dif_sr::data::Batch;
use dif_sr::model::Model;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tch::{Kind, Tensor, no_grad};

use super::sample::*;

/// The total loss in float64: the model's own has attribute losses in float32, too coarse for differences.
fn objective(model: &Model, batch: &Batch) -> Tensor {
    let seq_output = model.forward(&batch.item_seq, &batch.item_seq_len, true).seq_output;
    let attributes = model.attribute_losses(&seq_output, &batch.pos_items, Kind::Double);
    let attributes = attributes.iter().zip(&model.config().lamdas).map(|(loss, &lamda)| loss * lamda);
    attributes.fold(model.losses_of(&seq_output, batch).item, |sum, loss| sum + loss)
}

/// Compares two coordinates of every parameter.
fn gradients_hold(shape: &Shape) -> Result<(), TestCaseError> {
    let (model, batch) = (shape.model(), shape.batch());
    let mut random = shape.random();
    objective(&model, &batch).backward();
    for (name, parameter) in model.named_parameters() {
        let gradient = parameter.grad();
        let gradient = if gradient.defined() { values(&gradient) } else { vec![0.0; parameter.numel()] };
        let largest = gradient.iter().fold(0.0, |most: f64, g| most.max(g.abs()));
        let flat = parameter.detach().view([-1]);
        // Known behaviour: look-ups give the padding row no gradient, though under gate and concat it has an effect.
        let reached = shape.model == Architecture::SasRecD && shape.fusion != Fusion::Sum;
        let reached = name == "item_embedding.weight" && reached;
        let first = if reached { parameter.size()[1] } else { 0 };
        for _ in 0..2 {
            let at = random.between(first, parameter.numel() as i64);
            let initial = flat.double_value(&[at]);
            let loss_at = |value: f64| {
                let _ = flat.get(at).fill_(value);
                no_grad(|| objective(&model, &batch)).double_value(&[])
            };
            let difference = |h: f64| (loss_at(initial + h) - loss_at(initial - h)) / (2.0 * h);
            let analytic = gradient[at as usize];
            // A long step meets bends and the kinks of ReLU, a short one rounding: a wrong gradient is wrong at all.
            let allowed = 1e-6 * (largest + 0.1);
            let found = [1e-4, 1e-5, 1e-6].map(difference);
            loss_at(initial);
            prop_assert!(
                found.iter().any(|difference| (difference - analytic).abs() <= allowed),
                "`{name}` at {at}: the gradient is {analytic:e}, central differences are {found:?}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn gradients_are_central_differences_under_every_fusion(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        for fusion in FUSIONS {
            gradients_hold(&Shape { fusion, predictor: Predictor::Not, ..shape.clone() })?;
        }
    }

    #[test]
    fn gradients_of_the_attribute_losses_are_central_differences(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        gradients_hold(&Shape { predictor: Predictor::Linear, ..shape })?;
    }

    #[test]
    fn gradients_of_bpr_are_central_differences(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        gradients_hold(&Shape { loss: Loss::Bpr, predictor: Predictor::Not, ..shape })?;
    }

    #[test]
    fn gradients_of_the_baselines_are_central_differences(
        shape in baselines(), loss in prop_oneof![Just(Loss::Ce), Just(Loss::Bpr)],
    ) {
        gradients_hold(&Shape { loss, ..shape })?;
    }

    #[test]
    fn the_attribute_tables_of_sasrecf_are_trained(shape in baselines()) {
        let model = shape.model();
        model.losses(&shape.batch(), true).total.backward();
        let tables = model.named_parameters().into_iter().filter(|(name, _)| name.starts_with("feature_embed_layer."));
        let tables: Vec<_> = tables.collect();
        prop_assert_eq!(tables.is_empty(), shape.model == Architecture::SasRec);
        for (name, table) in tables {
            prop_assert!(table.grad().abs().max().double_value(&[]) > 0.0, "{name}");
        }
    }

    /// Known behaviour: BPR reaches items by look-up alone, so that padding under `gate` and `concat` gets none either.
    #[test]
    fn look_ups_give_the_padding_row_no_gradient(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        let shape = Shape { loss: Loss::Bpr, predictor: Predictor::Not, ..shape };
        let model = shape.model();
        model.losses(&shape.batch(), true).total.backward();
        let gradient = parameter(&model, "item_embedding.weight").grad();
        prop_assert!(values(&gradient.get(0)).iter().all(|&g| g == 0.0));
        prop_assert!(gradient.abs().max().double_value(&[]) > 0.0, "other rows have one");
    }

    #[test]
    fn the_attribute_tables_are_not_trained(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        let model = shape.model();
        model.losses(&shape.batch(), true).total.backward();
        for (name, table) in model.named_tables() {
            prop_assert!(!table.requires_grad() && !table.grad().defined(), "{name}");
        }
    }
}
