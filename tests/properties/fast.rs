//! The fast path is the reference path: the same function and the same gradients on random shapes, in float32.

use std::collections::BTreeMap;

use dif_sr::config::{AttributeKind, Fusion, Loss, Pooling, Precision, Predictor};
use dif_sr::data::{Batch, OrderedRows, Rows};
use dif_sr::eval::rank;
use dif_sr::fast::{DropoutSeed, FastPath};
use dif_sr::golden::{Tolerance, rounding_noise};
use dif_sr::model::{Losses, Model};
use dif_sr::ranks::Ranks;
use dif_sr::train::Adam;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseError, TestRunner};
use tch::{Kind, Tensor, no_grad};

use super::sample::*;

fn fast(model: &Model) -> FastPath {
    FastPath::new(model, Precision::Float32).expect("a float32 model on the CPU")
}

/// A float32 model and the float64 model with the very same parameters.
fn pair(shape: &Shape) -> (Model, Model) {
    let model = shape.model_of(Kind::Float);
    let exact = model.copy_as(Kind::Double);
    (model, exact)
}

/// Losses, outputs and every gradient, in float32's tolerance, against the reference path in float64.
fn same_function(shape: &Shape) -> Result<(), TestCaseError> {
    let (model, exact) = pair(shape);
    same_as(&mut fast(&model), &exact, &shape.batch())
}

fn same_as(fast: &mut FastPath, exact: &Model, batch: &Batch) -> Result<(), TestCaseError> {
    same(&by_fast(fast, exact, batch), exact, batch, Kind::Float)
}

/// As the fast path of such a model computes them.
fn by_fast(fast: &mut FastPath, model: &Model, batch: &Batch) -> Computed {
    let losses = fast.losses(batch, None);
    let losses = Losses {
        total: Tensor::from(losses.total),
        item: Tensor::from(losses.item),
        attributes: losses.attributes.into_iter().map(Tensor::from).collect(),
    };
    let output = fast.encode(&batch.item_seq, &batch.item_seq_len);
    let output = Tensor::from_slice(&output).view([batch.item_seq.size()[0], -1]);
    let gradients = model.named_parameters().into_iter().map(|(name, parameter)| {
        let gradient = Tensor::from_slice(fast.gradient(&name)).view_as(&parameter);
        (name, gradient)
    });
    by_name(losses, output, gradients)
}

/// The toy of the claims below that one model shows.
fn small() -> Shape {
    let mut runner = TestRunner::deterministic();
    shapes(&[Fusion::Concat], &SUM_OR_MEAN).new_tree(&mut runner).expect("a shape").current()
}

#[test]
fn a_model_in_float64_is_refused() {
    let error = FastPath::new(&small().model(), Precision::Float32).expect_err("float64").to_string();
    assert!(error.contains("float32 on the CPU"), "{error}");
}

#[test]
#[should_panic(expected = "sequences of as many items")]
fn sequences_of_another_length_than_the_model_s_are_refused() {
    let shape = small();
    let batch = Shape { length: shape.length - 1, ..shape.clone() }.batch();
    fast(&shape.model_of(Kind::Float)).losses(&batch, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_fast_path_is_the_reference_path_under_every_fusion(
        shape in shapes(&FUSIONS, &SUM_OR_MEAN), length in 2..20_i64, bare in any::<bool>(),
    ) {
        same_function(&Shape { length, bare, ..shape })?;
    }

    /// Of SASRec and SASRecF, in which positions and attributes enter the input.
    #[test]
    fn the_fast_path_is_the_reference_path_of_the_baselines(
        shape in baselines(), length in 2..20_i64,
        pooling in prop::sample::select(&[Pooling::Sum, Pooling::Mean, Pooling::Max][..]),
    ) {
        same_function(&Shape { length, pooling, bare: true, ..shape })?;
    }

    #[test]
    fn the_fast_path_is_the_reference_path_under_bpr(shape in any_model()) {
        same_function(&Shape { loss: Loss::Bpr, predictor: Predictor::Not, ..shape })?;
    }

    /// With full sequences and items of the full width, so that no padding puts scores near 1e18.
    #[test]
    fn the_fast_path_is_the_reference_path_under_max_pooling(shape in shapes(&FUSIONS, &[Pooling::Max])) {
        let mut shape = shape;
        (shape.rows, shape.attributes) = (1, shape.attributes.iter().map(|a| AttributeShape { width: 1, ..*a }).collect());
        let ((model, exact), mut batch) = (pair(&shape), shape.batch());
        batch.item_seq = shape.random().ids(&[1, shape.length], 1, shape.n_items);
        batch.item_seq_len = Tensor::from_slice(&[shape.length]);
        let output = Tensor::from_slice(&fast(&model).encode(&batch.item_seq, &batch.item_seq_len));
        let expected = exact.forward(&batch.item_seq, &batch.item_seq_len, false).seq_output;
        close("seq_output", &output.view_as(&expected), &expected, Tolerance::FLOAT32)?;
    }

    /// More sequences than a micro-batch holds.
    #[test]
    fn micro_batches_do_not_show(shape in any_model(), rows in 65..200_i64) {
        same_function(&Shape { rows, ..shape })?;
    }

    /// Nor does it whether an attribute has so few distinct vectors that one table of scores serves a step, or so many that
    /// each micro-batch computes queries and keys of its own, beside another attribute of the other kind.
    #[test]
    fn an_attribute_may_have_a_vector_of_its_own_for_every_item(
        shape in shapes(&FUSIONS, &SUM_OR_MEAN), seed in any::<u64>(), first in any::<bool>(),
    ) {
        let many = AttributeShape { kind: AttributeKind::Token, vocab: 4000, head_size: 3, width: 1 };
        let few = AttributeShape { vocab: 5, ..many };
        let attributes = if first { vec![many, few] } else { vec![few, many] };
        // More positions than twice the items, so that evaluation computes the first layer by item.
        let shape = Shape { attributes, n_items: 700, rows: 300, length: 5, layers: 2, heads: 2, seed, ..shape };
        same_function(&shape)?;
    }

    /// Nor do threads, or what a larger batch left in one of them that a smaller batch does not employ.
    #[test]
    fn threads_and_former_batches_do_not_show(
        shape in any_model(), rows in 2..330_i64, threads in 2..6,
    ) {
        let small = Shape { rows, ..shape.clone() };
        let (model, exact) = pair(&small);
        tch::set_num_threads(threads);
        let mut fast = fast(&model);
        tch::set_num_threads(1);
        fast.losses(&Shape { rows: 400, ..shape }.batch(), None);
        same_as(&mut fast, &exact, &small.batch())?;
    }

    #[test]
    fn the_fast_path_ranks_as_the_reference_path(shape in any_model(), rows in 1..300_i64) {
        let shape = Shape { rows, n_items: 40, ..shape };
        let (model, batch) = (shape.model_of(Kind::Float), shape.batch());
        let (seq, l) = (ids(&batch.item_seq), shape.length as usize);
        let histories = seq.chunks(l).zip(ids(&batch.item_seq_len)).map(|(row, len)| &row[..len as usize]);
        let rows = Rows::new(l, histories.zip(ids(&batch.pos_items)).map(|(history, target)| (0, history, target)));
        let rows = OrderedRows::new(&rows, model.device());
        let mut told = 0;
        let ours = fast(&model).rank(&rows, |done| { told = done; Ok(()) }).expect("finite scores");
        let expected = rank(&Ranks::alone(), &model, &rows, 7, |_| Ok(())).expect("finite scores");
        prop_assert_eq!(told as i64, rows.n());
        // Rounding may swap two items whose scores agree in six digits.
        let moved = ours.rank.iter().zip(&expected.rank).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        let swapped = ours.rank.iter().zip(&expected.rank).filter(|(a, b)| a != b).count();
        prop_assert!(moved == 0 && swapped <= 1 + ours.rank.len() / 50, "{swapped} of {} ranks differ", ours.rank.len());
    }

    /// Along a random direction, the loss under fixed masks changes as its gradient says: forward and backward pass drop
    /// the same elements.
    #[test]
    fn gradients_under_dropout_are_those_of_the_masks_that_were_drawn(
        shape in any_model(), step in any::<u64>(), p in prop::sample::select(&[0.2, 0.5][..]),
    ) {
        let shape = Shape { activation: dif_sr::config::Activation::Gelu, rows: 40, ..shape };
        let config = dif_sr::config::ModelConfig { hidden_dropout_prob: p, attn_dropout_prob: p, ..shape.config() };
        let model = shape.model_with(&config, Kind::Float);
        let batch = shape.batch();
        let masks = Some(DropoutSeed { seed: shape.seed, step });
        let mut fast = fast(&model);
        let first = fast.losses(&batch, masks);
        prop_assert_eq!(&fast.losses(&batch, masks), &first, "the masks of a step are always the same");
        let others = fast.losses(&batch, Some(DropoutSeed { seed: shape.seed, step: step.wrapping_add(1) }));
        prop_assert!(others != first, "another step has other masks");

        let mut random = shape.random();
        let start: Vec<(String, Tensor)> = model.copy_as(Kind::Float).named_parameters();
        let directions: Vec<Tensor> = (start.iter())
            .map(|(name, parameter)| {
                let direction = random.normal(&parameter.size(), 0.0, 1.0).to_kind(Kind::Float);
                let padding = name == "item_embedding.weight" && shape.fusion != Fusion::Sum;
                // Look-ups give the padding row no gradient, though under gate and concat it has an effect.
                if padding {
                    let _ = direction.get(0).zero_();
                }
                direction
            })
            .collect();
        let slope_of = |model: &Model| -> f64 {
            let mut fast = self::fast(model);
            fast.losses(&batch, masks);
            let along = |((name, _), direction): (&(String, Tensor), &Tensor)| {
                (Tensor::from_slice(fast.gradient(name)) * direction.flatten(0, -1)).sum(Kind::Double).double_value(&[])
            };
            start.iter().zip(&directions).map(along).sum()
        };
        let slope = slope_of(&model);
        prop_assert!(slope.is_finite(), "slope {slope}");
        let mut loss_at = |step: f64| {
            let moved = start.iter().zip(&directions).map(|((_, start), direction)| start + direction * step);
            for ((_, mut parameter), moved) in model.named_parameters().into_iter().zip(moved) {
                no_grad(|| parameter.copy_(&moved));
            }
            fast.losses(&batch, masks).total
        };
        let scale = directions.iter().map(|d| d.square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt();
        // The right step lies between curvature and rounding; a wrong gradient is wrong with each. The small ones are for a
        // dropout that leaves a row nearly constant: LayerNorm bends within 1e-3 of it, or closer.
        let found = [3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6]
            .map(|h| (loss_at(h / scale) - loss_at(-h / scale)) / (2.0 * h / scale));
        let error = found.iter().map(|found| (found - slope).abs()).fold(f64::INFINITY, f64::min);
        let tolerance = 0.02 * slope.abs() + 0.02 * first.total.abs();
        if error > tolerance {
            // Then closer than float32 has steps, if rounding alone moves the slope as much.
            loss_at(0.0);
            let by_name = |model: &Model| BTreeMap::from([("slope".to_owned(), Tensor::from(slope_of(model)))]);
            let noise = 10.0 * rounding_noise(&model, Kind::Float, by_name)["slope"];
            prop_assert!(error <= tolerance + noise, "slope {slope}, differences {found:?}, of rounding {noise}");
        }
    }

    #[test]
    fn adam_in_one_pass_is_adam(shape in shapes(&FUSIONS, &SUM_OR_MEAN), weight_decay in prop::sample::select(&[0.0, 0.01][..])) {
        let (ours, theirs) = (shape.model_of(Kind::Float), shape.model_of(Kind::Float));
        let batch = shape.batch();
        let mut fast = fast(&ours);
        let [mut one, mut other] = [&ours, &theirs].map(|model| Adam::new(model.named_parameters(), 1e-3, weight_decay));
        for _ in 0..3 {
            fast.losses(&batch, None);
            // The same gradients for both, so that only the optimizer can differ.
            let zero: Tensor = theirs.named_parameters().iter().map(|(_, p)| p.sum(Kind::Float) * 0.0).sum();
            other.zero_grad();
            zero.backward();
            no_grad(|| {
                for (name, parameter) in theirs.named_parameters() {
                    parameter.grad().copy_(&Tensor::from_slice(fast.gradient(&name)).view_as(&parameter));
                }
            });
            one.step_fast(&fast);
            other.step();
        }
        prop_assert_eq!(one.steps(), 3);
        for ((name, ours), (_, theirs)) in ours.named_parameters().iter().zip(theirs.named_parameters()) {
            // Relative to where a parameter was: one that comes near zero in three steps of 1e-3 keeps the rounding it had.
            close(name, ours, &theirs, Tolerance { rtol: 1e-6, atol: 1e-6 * 3e-3 })?;
        }
    }
    /// Without processors that multiply bfloat16 it is slow, not wrong.
    #[test]
    fn bf16_stays_within_its_own_rounding_of_float32(shape in any_model()) {
        let (model, batch) = (shape.model_of(Kind::Float), shape.batch());
        // Weights of the models of other tests are so large that bfloat16's eight bits move probabilities at will.
        no_grad(|| model.named_parameters().iter().for_each(|(_, p)| _ = p.shallow_clone().g_mul_scalar_(0.3)));
        let path = |model, precision| FastPath::new(model, precision).expect("a float32 model on the CPU");
        let (mut exact, mut rough) = (path(&model, Precision::Float32), path(&model, Precision::Bf16));
        let [of_exact, of_rough] = [&mut exact, &mut rough].map(|fast| fast.losses(&batch, None).total);
        prop_assert!((of_exact - of_rough).abs() <= 0.02 * of_exact, "{} and {} in bfloat16", of_exact, of_rough);
        prop_assert!(of_exact != of_rough);
        // All gradients together point the same way, unless a row is so nearly constant that LayerNorm makes much of rounding:
        // that shows in float32 too, when nothing but the parameters is rounded.
        let mut rounded = path(&model.copy_as(Kind::BFloat16).copy_as(Kind::Float), Precision::Float32);
        rounded.losses(&batch, None);
        let norm = |other: &FastPath, sum: &dyn Fn(f64, f64) -> f64| -> f64 {
            let names = model.named_parameters().into_iter().map(|(name, _)| name);
            let pairs = names.flat_map(|name| exact.gradient(&name).iter().zip(other.gradient(&name)).collect::<Vec<_>>());
            pairs.map(|(&a, &b)| sum(f64::from(a), f64::from(b))).sum::<f64>().sqrt()
        };
        let difference = |other| norm(other, &|a, b| (a - b).powi(2));
        let (size, by_rounding, difference) = (norm(&exact, &|a, _| a * a), difference(&rounded), difference(&rough));
        let allowed = by_rounding.max(0.1 * size);
        prop_assert!(difference <= allowed, "gradients of size {} differ by {}, not {}", size, difference, allowed);
    }
}
