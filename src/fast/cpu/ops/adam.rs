//! Adam (Kingma and Ba 2015) in one pass over memory: m += (1 − β₁)(g − m), v = β₂ v + (1 − β₂) g²,
//! θ −= η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε), with g the gradient plus weight decay · θ.

use rayon::prelude::*;

/// The factors of one step, as [`crate::train::Adam`] derives them.
#[derive(Debug, Clone, Copy)]
pub struct AdamFactors {
    /// 1 − β₁; like the next two rounded once: 1 − β₂ from a rounded β₂ would be off by 5e-5.
    pub one_minus_beta1: f32,
    /// β₂
    pub beta2: f32,
    /// 1 − β₂
    pub one_minus_beta2: f32,
    /// learning rate / (1 − β₁ᵗ)
    pub step_size: f32,
    /// √(1 − β₂ᵗ)
    pub sqrt_bias_correction2: f32,
    /// ε
    pub eps: f32,
    /// What of a parameter is added to its gradient (L2).
    pub weight_decay: f32,
}

/// Elements that a thread takes at a time.
const BLOCK: usize = 1 << 15;

/// Moves a parameter and both moments by one gradient.
///
/// # Shapes
/// all `[n]`
pub fn adam(factors: AdamFactors, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
    let blocks = parameter.par_chunks_mut(BLOCK).zip(first.par_chunks_mut(BLOCK));
    let blocks = blocks.zip(second.par_chunks_mut(BLOCK)).zip(gradient.par_chunks(BLOCK));
    blocks.for_each(|(((parameter, first), second), gradient)| update(factors, parameter, first, second, gradient));
}

#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn update(factors: AdamFactors, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32]) {
    let AdamFactors { one_minus_beta1, beta2, one_minus_beta2, step_size, sqrt_bias_correction2, eps, weight_decay } =
        factors;
    let moments = first.iter_mut().zip(second);
    for ((parameter, (first, second)), gradient) in parameter.iter_mut().zip(moments).zip(gradient) {
        // In one rounding, as PyTorch's: where decay and gradient nearly cancel, what two leave of them is compared
        // with ε.
        let gradient = weight_decay.mul_add(*parameter, *gradient);
        *first += one_minus_beta1 * (gradient - *first);
        *second = beta2 * *second + one_minus_beta2 * gradient * gradient;
        *parameter -= step_size * *first / (second.sqrt() / sqrt_bias_correction2 + eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a gradient that is −(weight decay · parameter), rounded, is that rounding: two roundings leave
    /// nothing.
    #[test]
    fn the_decay_is_added_in_one_rounding() {
        let (parameters, weight_decay) = ([0.3_f32, -0.7, 0.011, 1.9], 0.01_f32);
        let gradient = parameters.map(|p| -(weight_decay * p));
        let (one_minus_beta1, beta2, one_minus_beta2, eps) = (0.1, 0.999, 0.001, 1e-8);
        let factors = AdamFactors {
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            step_size: 0.01,
            sqrt_bias_correction2: one_minus_beta2.sqrt(),
            eps,
            weight_decay,
        };
        let (mut moved, mut first, mut second) = (parameters, [0.0; 4], [0.0; 4]);
        adam(factors, &mut moved, &mut first, &mut second, &gradient);
        for ((moved, parameter), gradient) in moved.into_iter().zip(parameters).zip(gradient) {
            let left = f64::from(weight_decay) * f64::from(parameter) + f64::from(gradient);
            let step = 0.01 * 0.1 * left / (left.abs() + f64::from(eps));
            let expected = f64::from(parameter) - step;
            assert!((f64::from(moved) - expected).abs() <= 1e-7 * expected.abs(), "{moved} for {expected}");
            assert_ne!(moved, parameter);
        }
    }
}
