//! The lean program, which is the fast path of GPUs, is the reference path: the same function and the same gradients on
//! random shapes, here on the CPU and in float64.

use dif_sr::config::{Activation, Architecture, AttributeKind, Loss, ModelConfig, Pooling, Precision, Predictor};
use dif_sr::data::{Batch, OrderedRows, Rows};
use dif_sr::eval::rank;
use dif_sr::fast::LeanProgram;
use dif_sr::model::Model;
use dif_sr::ranks::Ranks;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tch::{Kind, Tensor, no_grad};

use super::sample::*;

fn lean(model: &Model) -> LeanProgram {
    LeanProgram::new(model, Precision::Float32)
}

/// Every tensor in float64's tolerance.
fn same_as(program: &LeanProgram, model: &Model, batch: &Batch) -> Result<(), TestCaseError> {
    let losses = program.losses(batch, true);
    let output = program.encode(&batch.item_seq, &batch.item_seq_len);
    same(&by_name(losses, output, gradients_of(model)), model, batch, Kind::Double)
}

fn same_function(shape: &Shape) -> Result<(), TestCaseError> {
    let (model, batch) = (shape.model(), shape.batch());
    same_as(&lean(&model), &model, &batch)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_lean_program_is_the_reference_path_under_every_fusion(
        shape in shapes(&FUSIONS, &SUM_OR_MEAN), length in 2..20_i64, bare in any::<bool>(),
    ) {
        same_function(&Shape { length, bare, ..shape })?;
    }

    #[test]
    fn the_lean_program_is_the_reference_path_of_the_baselines(
        shape in baselines(), length in 2..20_i64,
        pooling in prop::sample::select(&[Pooling::Sum, Pooling::Mean, Pooling::Max][..]),
    ) {
        same_function(&Shape { length, pooling, bare: true, ..shape })?;
    }

    #[test]
    fn the_lean_program_is_the_reference_path_under_bpr(shape in any_model()) {
        same_function(&Shape { loss: Loss::Bpr, predictor: Predictor::Not, ..shape })?;
    }

    /// With full sequences and items of the full width, so that no padding puts scores near 1e18.
    #[test]
    fn the_lean_program_is_the_reference_path_under_max_pooling(shape in shapes(&FUSIONS, &[Pooling::Max])) {
        let attributes = shape.attributes.iter().map(|a| AttributeShape { width: 1, ..*a }).collect();
        let shape = Shape { rows: 1, attributes, ..shape };
        let (model, mut batch) = (shape.model(), shape.batch());
        batch.item_seq = shape.random().ids(&[1, shape.length], 1, shape.n_items);
        batch.item_seq_len = Tensor::from_slice(&[shape.length]);
        same_as(&lean(&model), &model, &batch)?;
    }

    /// Whether an attribute has so few classes that one table has the scores of their pairs, or so many that each position
    /// has queries and keys of its own; and in SASRecF, whether classes or positions are more.
    #[test]
    fn an_attribute_may_have_a_class_for_every_item(
        shape in any_model(), seed in any::<u64>(), first in any::<bool>(), rows in 1..300_i64,
    ) {
        let many = AttributeShape { kind: AttributeKind::Token, vocab: 4000, head_size: 3, width: 1 };
        let few = AttributeShape { vocab: 5, ..many };
        let attributes = if first { vec![many, few] } else { vec![few, many] };
        let attributes = if shape.model == Architecture::SasRec { Vec::new() } else { attributes };
        same_function(&Shape { attributes, n_items: 700, rows, length: 5, layers: 2, heads: 2, seed, ..shape })?;
    }

    #[test]
    fn long_sequences_are_computed_without_a_table_of_pairs(shape in shapes(&FUSIONS, &SUM_OR_MEAN)) {
        same_function(&Shape { length: 70, rows: 2, ..shape })?;
    }

    /// What a batch leaves, its gradients above all, is not seen in the next; nor are the parameters of before.
    #[test]
    fn former_batches_do_not_show(shape in any_model(), rows in 2..60_i64) {
        let small = Shape { rows, ..shape.clone() };
        let model = small.model();
        let program = lean(&model);
        program.losses(&Shape { rows: 80, ..shape }.batch(), true);
        no_grad(|| model.named_parameters().iter().for_each(|(_, p)| _ = p.shallow_clone().g_mul_scalar_(0.9)));
        same_as(&program, &model, &small.batch())?;
    }

    #[test]
    fn the_lean_program_ranks_as_the_reference_path(shape in any_model(), rows in 1..300_i64) {
        let shape = Shape { rows, n_items: 40, ..shape };
        let (model, batch) = (shape.model(), shape.batch());
        let (seq, l) = (ids(&batch.item_seq), shape.length as usize);
        let histories = seq.chunks(l).zip(ids(&batch.item_seq_len)).map(|(row, len)| &row[..len as usize]);
        let rows = Rows::new(l, histories.zip(ids(&batch.pos_items)).map(|(history, target)| (0, history, target)));
        let rows = OrderedRows::new(&rows, model.device());
        let mut told = 0;
        let ours = lean(&model).rank(&rows, |done| { told = done; Ok(()) }).expect("finite scores");
        prop_assert_eq!(told as i64, rows.n());
        prop_assert_eq!(ours, rank(&Ranks::alone(), &model, &rows, 7, |_| Ok(())).expect("finite scores"));
    }

    /// Along a random direction, the loss under the same draws changes as its gradient says: forward and backward pass
    /// drop the same elements. And some are dropped.
    #[test]
    fn gradients_under_dropout_are_those_of_the_masks_that_were_drawn(
        shape in any_model(), p in prop::sample::select(&[0.2, 0.5][..]),
    ) {
        let shape = Shape { activation: Activation::Gelu, rows: 40, ..shape };
        let config = ModelConfig { hidden_dropout_prob: p, attn_dropout_prob: p, ..shape.config() };
        let model = shape.model_with(&config, Kind::Double);
        let (program, batch, random) = (lean(&model), shape.batch(), &mut shape.random());
        let losses = |train: bool| {
            let _turn = seeded(shape.seed);
            program.losses(&batch, train).total.double_value(&[])
        };
        prop_assert!(losses(true) != losses(false), "something is dropped");
        losses(true);
        let (mut slope, mut moves, mut length) = (0.0, Vec::new(), 0.0);
        for (name, parameter) in model.named_parameters().into_iter().filter(|(_, p)| p.grad().defined()) {
            let direction = random.normal(&parameter.size(), 0.0, 1.0);
            if name == "item_embedding.weight" {
                // Look-ups give the padding row no gradient, though under gate and concat it has an effect.
                let _ = direction.get(0).zero_();
            }
            slope += (parameter.grad() * &direction).sum(None).double_value(&[]);
            length += direction.square().sum(None).double_value(&[]);
            moves.push((parameter, direction));
        }
        let mut at = 0.0;
        let mut loss_at = |to: f64| {
            no_grad(|| moves.iter_mut().for_each(|(parameter, direction)| _ = parameter.g_add_(&(&*direction * (to - at)))));
            at = to;
            losses(true)
        };
        // The right step lies between curvature and rounding.
        let found = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8].map(|h| {
            let h = h / length.sqrt();
            (loss_at(h) - loss_at(-h)) / (2.0 * h)
        });
        let error = found.iter().map(|found| (found - slope).abs()).fold(f64::INFINITY, f64::min);
        prop_assert!(error <= 1e-4 * slope.abs() + 1e-4, "slope {slope}, differences {found:?}");
    }
}
