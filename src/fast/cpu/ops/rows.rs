//! Sums into some rows of a matrix, and zeros.

use super::simd::axpy;

/// Adds the rows of x to those of `out` at `indices`.
///
/// # Shapes
/// x `[m, H]`, indices `[m]`, out `[n, H]`
pub fn scatter_add(x: &[f32], indices: &[u32], h: usize, out: &mut [f32]) {
    indices.iter().zip(x.chunks_exact(h)).for_each(|(&row, x)| axpy(1.0, x, &mut out[row as usize * h..][..h]));
}

/// Makes `values` zeros, as many as `len`, in the memory that they have.
pub fn zero<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    values.clear();
    values.resize(len, T::default());
}
