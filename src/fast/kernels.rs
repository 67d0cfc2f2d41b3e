//! Loops over rows of floats that the compiler turns into vector instructions.
//!
//! Every sum runs in several partial sums, because the compiler may not reorder a single one. `multiversion` compiles a
//! function for several instruction sets and picks one when the program starts; what it calls must be inlined to share
//! them, hence `inline(always)` below.

/// Short rows are padded to a multiple of this: the floats of an AVX2 register.
pub(super) const LANES: usize = 8;
/// Partial sums of a long row: two registers, so that additions overlap.
const PARTS: usize = 2 * LANES;

/// The next multiple of [`LANES`].
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// Σ aᵢ bᵢ.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_in::<PARTS>(a, b)
}

/// [`dot`] of rows that are padded to a multiple of [`LANES`] and short.
#[inline(always)]
pub(super) fn dot_padded(a: &[f32], b: &[f32]) -> f32 {
    dot_in::<LANES>(a, b)
}

#[inline(always)]
fn dot_in<const N: usize>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; N];
    let ((whole_a, rest_a), (whole_b, rest_b)) = (a.as_chunks::<N>(), b.as_chunks::<N>());
    for (a, b) in whole_a.iter().zip(whole_b) {
        for i in 0..N {
            sums[i] += a[i] * b[i];
        }
    }
    for (i, (a, b)) in rest_a.iter().zip(rest_b).enumerate() {
        sums[i] += a * b;
    }
    total(sums)
}

/// Σ xᵢ.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0; PARTS];
    let (whole, rest) = x.as_chunks::<PARTS>();
    for x in whole {
        for i in 0..PARTS {
            sums[i] += x[i];
        }
    }
    for (i, x) in rest.iter().enumerate() {
        sums[i] += x;
    }
    total(sums)
}

#[inline(always)]
fn total<const N: usize>(mut sums: [f32; N]) -> f32 {
    let mut half = N / 2;
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
pub(super) fn max(x: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; PARTS];
    let (whole, rest) = x.as_chunks::<PARTS>();
    for x in whole {
        for i in 0..PARTS {
            most[i] = if x[i] > most[i] { x[i] } else { most[i] };
        }
    }
    rest.iter().chain(&most).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// y += a x. No sum runs along the row, so that the plain loop is vectorised as it stands.
#[inline(always)]
pub(super) fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// [`axpy`] of rows that are padded to a multiple of [`LANES`] and short.
#[inline(always)]
pub(super) fn axpy_padded(a: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0) {
        for i in 0..LANES {
            y[i] += a * x[i];
        }
    }
}

/// out += Σₜ wₜ rowₜ, where rows are padded like `out`.
///
/// # Shapes
/// weights `[n]`, rows `[n, P]`, out `[P]`
#[inline(always)]
pub(super) fn combine(weights: &[f32], rows: &[f32], out: &mut [f32]) {
    let p = out.len();
    let lanes = |row: usize, at: usize| -> &[f32; LANES] { rows[row * p + at..].first_chunk().expect("padded rows") };
    for (block, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        // Two sums stay in registers.
        let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
        let (pairs, last) = weights.as_chunks::<2>();
        for (pair, &[w, v]) in pairs.iter().enumerate() {
            let (x, y) = (lanes(2 * pair, block * LANES), lanes(2 * pair + 1, block * LANES));
            for i in 0..LANES {
                even[i] += w * x[i];
                odd[i] += v * y[i];
            }
        }
        if let &[w] = last {
            let x = lanes(weights.len() - 1, block * LANES);
            for i in 0..LANES {
                even[i] += w * x[i];
            }
        }
        for i in 0..LANES {
            out[i] += even[i] + odd[i];
        }
    }
}

/// Softmax in place of a row that is padded to a multiple of [`LANES`] with −∞.
#[inline(always)]
pub(super) fn softmax_padded(x: &mut [f32]) {
    let mut most = [f32::NEG_INFINITY; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            most[i] = if x[i] > most[i] { x[i] } else { most[i] };
        }
    }
    let most = most.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let mut sums = [0.0; LANES];
    for x in x.as_chunks_mut::<LANES>().0 {
        for i in 0..LANES {
            x[i] = exp(x[i] - most);
            sums[i] += x[i];
        }
    }
    let inverse = 1.0 / total(sums);
    for x in x.as_chunks_mut::<LANES>().0 {
        x.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// eˣ within two units in the last place; 0 below −87.3, where float32's normal numbers end, and infinite above 88.
///
/// x = n ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by the polynomial of the Cephes library's `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves no bits for a fraction
    const LN2_HIGH: f32 = 0.693_359_4; // its product with a small whole number is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    // Out of range n is garbage, which the last line replaces.
    let power = f32::from_bits(((n.clamp(-126.0, 127.0) as i32 + 127) << 23) as u32);
    let y = (p * r * r + r + 1.0) * power;
    let y = if x > 88.0 { f32::INFINITY } else { y };
    if x < -87.3 { 0.0 } else { y }
}

/// Adds the rows of a matrix to `out`: the gradient of a bias.
///
/// # Shapes
/// rows `[n, out.len()]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn add_rows(rows: &[f32], out: &mut [f32]) {
    for row in rows.chunks_exact(out.len()) {
        axpy(1.0, row, out);
    }
}

/// Copies a row into every row of a matrix.
pub(super) fn fill_rows(row: &[f32], out: &mut [f32]) {
    out.chunks_exact_mut(row.len()).for_each(|out| out.copy_from_slice(row));
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
}
