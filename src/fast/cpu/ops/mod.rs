//! Kernels on rows of floats: what is neither a product nor attention.
//!
//! A kernel is compiled for several instruction sets by `multiversion`, which picks one at its first call.
//! Forward and backward pass of an operation are in one file.

pub mod activation;
pub mod adam;
pub mod clip;
pub mod dropout;
pub mod layer_norm;
pub mod simd;
pub mod softmax;

/// Makes `values` zeros, as many as `len`, in the memory that they have.
pub fn zero<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    values.clear();
    values.resize(len, T::default());
}
