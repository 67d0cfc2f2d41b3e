//! The optimizer, early stopping and dropout against naive forms.

use dif_sr::model::Dropout;
use dif_sr::train::{Adam, EarlyStopping};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::sample::*;

/// Adam for one number: the moments, corrected for their start at zero.
#[derive(Clone, Copy)]
struct ScalarAdam {
    x: f64,
    m: f64,
    v: f64,
    t: i32,
}

impl ScalarAdam {
    fn new(x: f64) -> Self {
        Self { x, m: 0.0, v: 0.0, t: 0 }
    }

    fn step(&mut self, gradient: f64, learning_rate: f64, weight_decay: f64) {
        let gradient = gradient + weight_decay * self.x;
        self.t += 1;
        self.m = 0.9 * self.m + 0.1 * gradient;
        self.v = 0.999 * self.v + 0.001 * gradient * gradient;
        let (m, v) = (self.m / (1.0 - 0.9f64.powi(self.t)), self.v / (1.0 - 0.999f64.powi(self.t)));
        self.x -= learning_rate * m / (v.sqrt() + 1e-8);
    }
}

proptest! {
    #[test]
    fn adam_takes_the_steps_of_its_definition(
        n in 1..6_i64, steps in 1..8, learning_rate in 1e-4..1.0, seed in any::<u64>(),
        weight_decay in prop_oneof![Just(0.0), 0.0..0.5],
    ) {
        let mut random = Random::new(seed);
        let initial = random.normal(&[n], 0.0, 1.0);
        let mut expected: Vec<_> = values(&initial).into_iter().map(ScalarAdam::new).collect();
        let parameter = initial.copy().set_requires_grad(true);
        let mut adam = Adam::new(vec![("x".to_owned(), parameter.shallow_clone())], learning_rate, weight_decay);
        for _ in 0..steps {
            let gradient = random.normal(&[n], 0.0, 2.0);
            adam.zero_grad();
            parameter.dot(&gradient).backward();
            adam.step();
            let gradients = values(&gradient);
            expected.iter_mut().zip(gradients).for_each(|(x, g)| x.step(g, learning_rate, weight_decay));
        }
        let expected: Vec<f64> = expected.iter().map(|x| x.x).collect();
        equal("parameter", &parameter, &Tensor::from_slice(&expected))?;
    }

    #[test]
    fn a_parameter_without_a_gradient_takes_no_step(seed in any::<u64>(), waits in 0..4) {
        // It starts late, and then takes its own first step: the correction counts its steps, not the optimizer's.
        let parameters = [0, 1].map(|i| Random::new(seed ^ i).normal(&[3], 0.0, 1.0).set_requires_grad(true));
        let before = parameters[1].copy();
        let named = |i: usize| (i.to_string(), parameters[i].shallow_clone());
        let mut adam = Adam::new(vec![named(0), named(1)], 0.1, 0.3);
        for _ in 0..waits {
            adam.zero_grad();
            parameters[0].sum(Kind::Double).backward();
            adam.step();
        }
        prop_assert!(parameters[1].equal(&before));
        parameters[1].sum(Kind::Double).backward();
        adam.step();
        let first_step = |x: f64| {
            let mut adam = ScalarAdam::new(x);
            adam.step(1.0, 0.1, 0.3);
            adam.x
        };
        let expected: Vec<f64> = values(&before).into_iter().map(first_step).collect();
        equal("parameter", &parameters[1], &Tensor::from_slice(&expected))?;
        // The other, whose gradient of before is forgotten, stays: its moments move it no more.
        let before = parameters[0].copy();
        adam.zero_grad();
        parameters[1].sum(Kind::Double).backward();
        adam.step();
        prop_assert!(parameters[0].equal(&before));
    }

    #[test]
    fn training_stops_after_one_more_evaluation_without_improvement_than_stopping_step(
        scores in prop::collection::vec((0..6_u8).prop_map(|score| f64::from(score) / 10.0), 1..30),
        stopping_step in 0..5_usize,
    ) {
        let mut rule = EarlyStopping::new(stopping_step);
        for (i, &score) in scores.iter().enumerate() {
            let improves = |j: usize| scores[..j].iter().all(|&before| before < scores[j]);
            let last_improvement = (0..=i).rev().find(|&j| improves(j)).expect("the first evaluation improves");
            prop_assert_eq!(rule.update(score), last_improvement == i, "evaluation {}", i);
            prop_assert_eq!(rule.is_over(), i - last_improvement > stopping_step, "evaluation {}", i);
        }
    }

    /// The portable form of the golden README: `rand(float64) < 1 − p`, row-major, scaled by 1 / (1 − p).
    #[test]
    fn dropout_masks_have_the_documented_form(
        p in 0.01..0.95, rows in 1..20_i64, double in any::<bool>(), seed in any::<u64>(),
    ) {
        let kind = if double { Kind::Double } else { Kind::Float };
        let x = Random::new(seed).normal(&[rows, 7], 0.0, 1.0).to_kind(kind);
        let guard = seeded(seed);
        let ours = Dropout { p }.forward(&x, true);
        tch::manual_seed(seed as i64);
        let draws = values(&Tensor::rand([rows, 7], (Kind::Double, Device::Cpu)));
        drop(guard);
        let scale = Tensor::ones([1], (kind, Device::Cpu)) / (1.0 - p);
        let kept = Tensor::from_slice(&draws.iter().map(|&u| f64::from(u8::from(u < 1.0 - p))).collect::<Vec<_>>());
        let expected = x * (kept.view([rows, 7]).to_kind(kind) * scale);
        prop_assert!(ours.equal(&expected), "expected {expected}, found {ours}");
    }

    #[test]
    fn without_training_or_probability_dropout_changes_and_draws_nothing(p in 0.0..0.9, seed in any::<u64>()) {
        let x = Random::new(seed).normal(&[3, 5], 0.0, 1.0);
        let guard = seeded(seed);
        let outputs = [Dropout { p }.forward(&x, false), Dropout { p: 0.0 }.forward(&x, true)];
        let after = Tensor::rand([1], (Kind::Double, Device::Cpu)).double_value(&[0]);
        tch::manual_seed(seed as i64);
        let first = Tensor::rand([1], (Kind::Double, Device::Cpu)).double_value(&[0]);
        drop(guard);
        prop_assert_eq!(after, first);
        prop_assert!(outputs.iter().all(|output| output.equal(&x)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn dropout_keeps_the_mean_and_drops_a_share_of_p(p in 0.05..0.9, seed in any::<u64>()) {
        let n = 50_000;
        let guard = seeded(seed);
        let output = Dropout { p }.forward(&Tensor::ones([n], (Kind::Double, Device::Cpu)), true);
        drop(guard);
        // Six standard deviations of the share that is kept: one failure in 500 million.
        let allowed = 6.0 * (p * (1.0 - p) / n as f64).sqrt();
        let kept = output.ne(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        prop_assert!((kept - (1.0 - p)).abs() <= allowed, "kept {kept} of an expected {}", 1.0 - p);
        let mean = output.mean(Kind::Double).double_value(&[]);
        prop_assert!((mean - 1.0).abs() <= allowed / (1.0 - p), "mean {mean}");
    }
}
