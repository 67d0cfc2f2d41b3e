//! The loss of an attribute predictor (equation 12): binary cross-entropy of every token but padding, with logits
//! x = W h + b. The label y of a token is how often the target has it, so that it can be 2, as in the reference.
//!
//! Σ log(1 + eˣ) − Σ y x over all tokens but padding; its gradient is σ(x) − y.

use crate::fast::cpu::batch::tokens::Tokens;
use crate::fast::cpu::gemm::Epilogue;
use crate::fast::cpu::ops::simd::{LANES, exp};
use crate::fast::cpu::params::grads::Grads;
use crate::fast::cpu::params::layout::LinearRange;
use crate::fast::cpu::params::linear::Weights;

/// A predictor with its labels and its part in the loss.
#[derive(Debug, Clone, Copy)]
pub struct Predictor<'a> {
    pub linear: &'a LinearRange,
    /// The tokens of every item.
    pub labels: &'a Tokens,
    /// The loss's factor λ.
    pub lamda: f64,
    /// B: how many sequences the whole batch has.
    pub batch_size: usize,
}

impl Predictor<'_> {
    /// The share of some sequences in the mean over the batch, without λ. Adds the gradients, with λ.
    ///
    /// # Shapes
    /// sequences, dsequences `[n, H]`, targets `[n]`
    pub fn loss(
        self,
        weights: &Weights,
        sequences: &[f32],
        targets: &[i64],
        dsequences: &mut [f32],
        into: &mut Grads,
    ) -> f64 {
        let Self { linear, labels, lamda, batch_size } = self;
        let vocabulary = linear.bias.len();
        // The mean is taken over the batch and the vocabulary without the padding token.
        let count = (batch_size * (vocabulary - 1)) as f64;
        let weight = (lamda / count) as f32;
        let mut logits = Vec::new();
        weights.forward(linear, sequences, &mut logits);
        let mut loss = 0.0;
        for (logits, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
            let tokens = || labels.of(target as usize);
            loss -= tokens().map(|token| f64::from(logits[token])).sum::<f64>();
            logits[0] = 0.0;
            loss += softplus(&mut logits[1..], weight);
            tokens().for_each(|token| logits[token] -= weight);
        }
        weights.backward_params(linear, sequences, &logits, &mut into.flat);
        weights.backward_input(linear, &logits, dsequences, Epilogue::Accumulate);
        loss / count
    }
}

/// Σ log(1 + eˣ); replaces x by the derivative σ(x) · weight.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn softplus(logits: &mut [f32], weight: f32) -> f64 {
    // log(1 + eˣ) = max(x, 0) + log(1 + e^−|x|), so that nothing overflows. Logarithms are taken of products, whose
    // factors are at most 2: a thousand of them stay below 2¹⁰²⁴.
    let mut loss = 0.0;
    for logits in logits.chunks_mut(1000) {
        let (parts, rest) = logits.as_chunks_mut::<LANES>();
        let (mut positive, mut products) = ([0.0_f64; LANES], [1.0_f64; LANES]);
        let mut take = |logits: &mut [f32]| {
            for ((x, positive), product) in logits.iter_mut().zip(&mut positive).zip(&mut products) {
                let small = exp(-x.abs());
                *positive += f64::from(x.max(0.0));
                *product *= 1.0 + f64::from(small);
                *x = if *x >= 0.0 { 1.0 } else { small } / (1.0 + small) * weight;
            }
        };
        for part in parts {
            take(part);
        }
        take(rest);
        loss += positive.iter().sum::<f64>() + products.iter().product::<f64>().ln();
    }
    loss
}
