//! Sums and maps over short rows of floats, as loops that the compiler turns into vector instructions.
//!
//! Every sum runs in [`LANES`] partial sums, because the compiler may not reorder a single one. What a `multiversion`
//! kernel calls must be inlined to share its instruction set, hence `inline(always)`.

use std::hint::black_box;

/// Floats that a kernel computes side by side: a register of AVX-512, two of AVX2.
pub const LANES: usize = 16;
pub type Lanes = [f32; LANES];

/// Σ aᵢ bᵢ.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    let mut rest = 0.0;
    for (a, b) in rest_a.iter().zip(rest_b) {
        rest += a * b;
    }
    lane_sum(sums) + rest
}

/// The dot product of two rows, head by head.
///
/// # Shapes
/// a, b `[heads · d]`, out `[heads]`
#[inline(always)]
pub fn dot_heads(a: &[f32], b: &[f32], out: &mut [f32]) {
    let d = a.len() / out.len();
    for ((a, b), out) in a.chunks_exact(d).zip(b.chunks_exact(d)).zip(out) {
        *out = dot(a, b);
    }
}

/// Copies a few floats, for which a call of `memcpy` would take longer.
#[inline(always)]
pub fn copy(from: &[f32], to: &mut [f32]) {
    for (from, to) in from.iter().zip(to) {
        *to = *from;
    }
}

/// Σ xᵢ.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for i in 0..LANES {
            sums[i] += x[i];
        }
    }
    lane_sum(sums) + rest.iter().sum::<f32>()
}

/// The sum of the lanes.
#[inline(always)]
pub fn lane_sum(sums: Lanes) -> f32 {
    // Through memory: otherwise the compiler lays the partial sums out in pairs, for the last addition, and not in one
    // register.
    let mut sums = black_box(sums);
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The largest value.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for i in 0..LANES {
            maxima[i] = if x[i] > maxima[i] { x[i] } else { maxima[i] };
        }
    }
    rest.iter().chain(&maxima).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// y += a x. No sum runs along the row, so that the plain loop is vectorised as it stands.
#[inline(always)]
pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// y = a x.
#[inline(always)]
pub fn scale_into(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = a * x);
}

/// A weighted sum of rows: out = Σₜ weights[t · stride] · rows[offset(t)..].
#[derive(Debug, Clone, Copy)]
pub struct WeightedRows<'a, Offset> {
    pub weights: &'a [f32],
    pub stride: usize,
    /// Where the row of a term begins.
    pub offset: Offset,
    pub rows: &'a [f32],
    /// How many terms there are.
    pub count: usize,
}

impl<Offset: Fn(usize) -> usize + Copy> WeightedRows<'_, Offset> {
    /// Writes the sum to `out`, which is as long as a row.
    #[inline(always)]
    pub fn sum(self, out: &mut [f32]) {
        // As many sums as registers hold beside the rows.
        const WIDE: usize = 4 * LANES;
        let (wide, rest) = out.as_chunks_mut::<WIDE>();
        let (parts, last) = rest.as_chunks_mut::<LANES>();
        let [of_parts, of_last] = [wide.len() * WIDE, wide.len() * WIDE + parts.len() * LANES];
        for (i, out) in wide.iter_mut().enumerate() {
            *out = self.part(i * WIDE);
        }
        for (i, out) in parts.iter_mut().enumerate() {
            *out = self.part(of_parts + i * LANES);
        }
        for (i, out) in last.iter_mut().enumerate() {
            [*out] = self.part(of_last + i);
        }
    }

    #[inline(always)]
    fn part<const N: usize>(self, at: usize) -> [f32; N] {
        let mut sums = [0.0; N];
        for t in 0..self.count {
            let weight = self.weights[t * self.stride];
            let row: &[f32; N] = self.rows[(self.offset)(t) + at..].first_chunk().expect("rows as long as the output");
            for i in 0..N {
                sums[i] += weight * row[i];
            }
        }
        sums
    }
}

/// eˣ within two units in the last place; 0 below −87.3, where float32's normal numbers end, and infinite above 88.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by the polynomial of the Cephes library's `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves no bits for a fraction
    const LN2_HIGH: f32 = 0.693_359_4; // its product with a small whole number is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    // The last bits of the rounded number are n. Out of range they mean nothing, and the last lines replace the result.
    let power = f32::from_bits((rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23);
    let y = (p * r * r + r + 1.0) * power;
    let y = if x > 88.0 { f32::INFINITY } else { y };
    if x < -87.3 { 0.0 } else { y }
}

/// Adds every row of a matrix to `out`: the gradient of a bias.
///
/// # Shapes
/// rows `[n, out.len()]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn add_rows<T: Copy + Into<f32>>(rows: &[T], out: &mut [f32]) {
    for row in rows.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(out, &x)| *out += x.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_the_exponential_within_two_ulps_and_zero_where_float32_ends() {
        let mut worst = 0.0_f64;
        for i in -873_000..880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!((exp(0.0), exp(-10_000.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan(), "a broken model must be seen");
    }

    #[test]
    fn sums_and_maxima_take_every_element_of_any_length() {
        for n in 0..70_usize {
            let x: Vec<f32> = (0..n).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            assert_eq!(dot(&x, &x), x.iter().map(|x| x * x).sum::<f32>(), "{n}");
            assert_eq!(sum(&x), x.iter().sum::<f32>(), "{n}");
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{n}");
        }
    }

    #[test]
    fn weighted_rows_are_summed_over_any_length_and_stride() {
        let (weights, rows): (Vec<f32>, Vec<f32>) =
            ((0..9).map(|i| i as f32 - 4.0).collect(), (0..600).map(|i| (i % 7) as f32).collect());
        for length in 0..140 {
            let mut out = vec![f32::NAN; length];
            WeightedRows { weights: &weights, stride: 3, rows: &rows, offset: |t| 150 * t, count: 3 }.sum(&mut out);
            let expected = (0..length).map(|i| (0..3).map(|t| weights[3 * t] * rows[150 * t + i]).sum::<f32>());
            assert_eq!(out, expected.collect::<Vec<_>>(), "{length}");
        }
    }
}
