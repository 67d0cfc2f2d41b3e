//! The fast path on the CPU.

mod attention;
mod batch;
mod encoder;
mod gemm;
mod loss;
mod ops;
mod params;
mod path;
mod rank;

pub use ops::adam::Factors;
pub use path::{FastPath, Masks};
