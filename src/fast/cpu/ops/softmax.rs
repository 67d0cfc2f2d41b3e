//! Softmax over a few values of each lane.

use super::simd::{LANES, Lanes, exp};

/// xᵢ = exp(xᵢ − max x) / Σⱼ exp(xⱼ − max x) in every lane, in place.
///
/// # Shapes
/// x `[n, LANES]`
#[inline(always)]
pub fn softmax(x: &mut [Lanes]) {
    let mut max = [f32::NEG_INFINITY; LANES];
    for x in &*x {
        for lane in 0..LANES {
            max[lane] = if x[lane] > max[lane] { x[lane] } else { max[lane] };
        }
    }
    let mut sums = [0.0; LANES];
    for x in &mut *x {
        for lane in 0..LANES {
            x[lane] = exp(x[lane] - max[lane]);
            sums[lane] += x[lane];
        }
    }
    for x in x {
        for lane in 0..LANES {
            x[lane] /= sums[lane];
        }
    }
}
