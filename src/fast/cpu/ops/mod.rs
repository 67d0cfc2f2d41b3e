//! Element-wise and row-wise kernels.

pub mod activation;
pub mod adam;
pub mod dropout;
pub mod layer_norm;
pub mod simd;
