//! The fast path on the CPU: explicit gradients, kernels of this module, and libtorch's products where it has none.
//!
//! What it does differently from the reference, and why the result is the same, is in docs/performance.md. A folder
//! knows only those above it:
//!
//! | | |
//! | --- | --- |
//! | [`gemm`] | matrix products: AVX2, AVX-512, AMX, libtorch |
//! | [`ops`] | kernels on rows: LayerNorm, dropout, activation, softmax, Adam |
//! | [`params`] | parameters and gradients in one slice each, and linear layers on them |
//! | [`batch`] | micro-batches: which rows are computed |
//! | [`attention`] | attention with its fusion, in one pass over each sequence |
//! | [`encoder`] | the layers of a model on a micro-batch, and what a step shares ([`encoder::step`]) |
//! | [`loss`] | cross-entropy, BPR, attribute predictors |
//! | [`rank`] | ranks among all items |
//! | [`path`] | [`FastPath`]; with [`train_step`], [`evaluate`], [`shared_evaluation`] and [`threads`] |
//!
//! [`CacheAligned`] is an allocator for programs that take this path.
//!
//! A training step reads from the top of [`train_step`]; an evaluation from that of [`evaluate`].

mod aligned;
mod attention;
mod batch;
mod encoder;
mod evaluate;
mod gemm;
#[doc(hidden)]
pub mod kernels;
mod loss;
mod ops;
mod params;
mod path;
mod rank;
mod shared_evaluation;
mod threads;
mod train_step;

pub use aligned::CacheAligned;
pub use gemm::backend_name;
pub use ops::adam::AdamFactors;
pub use path::FastPath;
pub use train_step::DropoutSeed;
