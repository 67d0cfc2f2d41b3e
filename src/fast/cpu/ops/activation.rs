//! The activation of the feed-forward network: y = f(x), and dx = f′(x) · dy.

use std::f32::consts::FRAC_1_SQRT_2;

use super::simd::exp;
use crate::config::Activation;

/// Replaces x by f(x).
///
/// # Shapes
/// x `[n]`
pub fn forward(activation: Activation, x: &mut [f32]) {
    let map = |x: &mut [f32], f: fn(f32) -> f32| x.iter_mut().for_each(|x| *x = f(*x));
    match activation {
        Activation::Gelu => gelu(x),
        // Not `max`, which would hide a NaN.
        Activation::Relu => map(x, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::Swish => map(x, |x| x * sigmoid(x)),
        Activation::Tanh => map(x, f32::tanh),
        Activation::Sigmoid => map(x, sigmoid),
    }
}

/// Replaces x by f(x), and the gradient of f(x) by that of x.
///
/// # Shapes
/// x, grad `[n]`
pub fn backward(activation: Activation, x: &mut [f32], grad: &mut [f32]) {
    let derivative: fn(f32) -> f32 = match activation {
        Activation::Gelu => return gelu_backward(x, grad),
        Activation::Relu => |x| if x > 0.0 { 1.0 } else { 0.0 },
        Activation::Swish => |x| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
        Activation::Tanh => |x| 1.0 - x.tanh() * x.tanh(),
        Activation::Sigmoid => |x| sigmoid(x) * (1.0 - sigmoid(x)),
    };
    grad.iter_mut().zip(&*x).for_each(|(grad, &x)| *grad *= derivative(x));
    forward(activation, x);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// GELU(x) = x Φ(x), with the distribution function Φ of the normal distribution.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn gelu(x: &mut [f32]) {
    for x in x {
        *x *= normal(*x).0;
    }
}

/// GELU′(x) = Φ(x) + x φ(x), with the density φ.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
fn gelu_backward(x: &mut [f32], grad: &mut [f32]) {
    const PEAK: f32 = 0.398_942_3; // 1 / √2π, the density at 0
    for (x, grad) in x.iter_mut().zip(grad) {
        let (probability, bell) = normal(*x);
        *grad *= probability + *x * bell * PEAK;
        *x *= probability;
    }
}

/// Φ(x) and exp(−x² / 2), the bell curve.
///
/// Φ(x) = (1 + erf(x / √2)) / 2, and erf by 7.1.26 of Abramowitz and Stegun, within 1.6 · 10⁻⁷ in float32.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    const P: f32 = 0.327_591_1 * FRAC_1_SQRT_2;
    let bell = exp(x * x * -0.5);
    let t = 1.0 / (1.0 + P * x.abs());
    let mut tail = 1.061_405_4;
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        tail = tail * t + c;
    }
    let tail = 0.5 * tail * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    #[test]
    fn gelu_and_its_gradient_are_libtorch_s_in_float64() {
        let x: Vec<f32> = (-120_000..=120_000).map(|i| i as f32 * 1e-4).collect();
        let exact = Tensor::from_slice(&x).to_kind(Kind::Double).set_requires_grad(true);
        let value = exact.gelu("none");
        let gradient = &Tensor::run_backward(&[value.sum(None::<Kind>)], &[&exact], false, false)[0];
        let (mut out, mut again, mut grad) = (x.clone(), x.clone(), vec![1.0; x.len()]);
        forward(Activation::Gelu, &mut out);
        backward(Activation::Gelu, &mut again, &mut grad);
        assert_eq!(out, again);
        // GELU grows with x, its gradient does not.
        for (found, expected, size) in
            [(&out, &value, exact.abs().clamp_min(1.0)), (&grad, gradient, exact.ones_like())]
        {
            let distance = (Tensor::from_slice(found).to_kind(Kind::Double) - expected).abs();
            let worst = (distance / size).max().double_value(&[]);
            assert!(worst < 3e-7, "{worst:e}");
        }
        let (mut out, mut grad) = ([f32::NAN], [1.0]);
        backward(Activation::Gelu, &mut out, &mut grad);
        assert!(out[0].is_nan() && grad[0].is_nan(), "a broken model must be seen");
    }
}
