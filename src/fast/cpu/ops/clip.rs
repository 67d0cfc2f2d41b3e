//! The norm of a gradient whose parts lie at several threads or ranks: (Σ |g|ᵖ)^(1/p), or the largest |g|.
//!
//! Each part's sum is taken in float64, and the parts' in their order, so that the norm does not depend on where they lie.

use super::simd::LANES;
use crate::config::ClipGradNorm;

/// Σ |x|ᵖ of a part, or its largest |x| where p is infinite.
pub fn power_sum(x: &[f32], p: f64) -> f64 {
    match p {
        2.0 => lanes(x, |sum, x| sum + x * x, |a, b| a + b),
        1.0 => lanes(x, |sum, x| sum + x.abs(), |a, b| a + b),
        f64::INFINITY => lanes(x, |most, x| larger(most, x.abs()), larger),
        p => lanes(x, |sum, x| sum + x.abs().powf(p), |a, b| a + b),
    }
}

/// The factor that takes all gradients to `max_norm`; `None` where they are within it. As PyTorch's `clip_grad_norm_`, which
/// adds a millionth to the norm.
pub fn scale(
    power_sums: impl Iterator<Item = f64>,
    ClipGradNorm { max_norm, norm_type: p }: ClipGradNorm,
) -> Option<f32> {
    let norm = match p {
        f64::INFINITY => power_sums.fold(0.0, larger),
        p => power_sums.sum::<f64>().powf(1.0 / p),
    };
    let scale = max_norm / (norm + 1e-6);
    // A norm that is no number makes the gradients so.
    (scale < 1.0 || scale.is_nan()).then_some(scale as f32)
}

/// The larger one; NaN, whatever its sign, is larger than all.
pub fn larger(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
}

fn lanes(x: &[f32], add: impl Fn(f64, f64) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for x in whole {
        sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum = add(*sum, x.into()));
    }
    rest.iter().zip(&mut sums).for_each(|(&x, sum)| *sum = add(*sum, x.into()));
    sums.into_iter().fold(0.0, join)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_is_that_of_all_parts_together() {
        let parts: [&[f32]; 3] = [&[1.0, 2.0], &[], &[-3.0, 4.0]];
        for (p, norm) in [(1.0, 10.0), (2.0, 30.0_f64.sqrt()), (3.0, 100.0_f64.cbrt()), (f64::INFINITY, 4.0)] {
            let scale =
                |max_norm| scale(parts.iter().map(|part| power_sum(part, p)), ClipGradNorm { max_norm, norm_type: p });
            let found = f64::from(scale(1.0).expect("a norm above 1"));
            assert!((found - 1.0 / (norm + 1e-6)).abs() < 1e-7, "{p}: {found}");
            assert_eq!(scale(11.0), None, "{p}");
        }
    }

    #[test]
    fn a_long_gradient_is_summed_to_the_end() {
        let x: Vec<f32> = (1..=100).map(|x| x as f32).collect();
        assert_eq!(power_sum(&x, 1.0), 5050.0);
        assert_eq!(power_sum(&x, 2.0), 338_350.0);
        assert_eq!(power_sum(&x, f64::INFINITY), 100.0);
    }

    #[test]
    fn a_gradient_that_is_no_number_stays_none() {
        for p in [1.0, 2.0, 3.0, f64::INFINITY] {
            let clip = ClipGradNorm { max_norm: 1.0, norm_type: p };
            let found = scale([power_sum(&[1.0, f32::NAN, 0.5], p)].into_iter(), clip);
            assert!(found.is_some_and(f32::is_nan), "{p}: {found:?}");
        }
    }
}
