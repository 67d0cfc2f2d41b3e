//! The kernels that `benches/kernels` times. No stable interface.

pub use super::attention::backward::backward as attention_backward;
pub use super::attention::forward::forward as attention_forward;
pub use super::attention::fusion::Fusion;
pub use super::attention::geometry::{Geometry, Queries};
pub use super::attention::inputs::{
    Attention, AttentionGrads, AttentionInputs, Context, ContextGrad, RowGrads, SavedScores,
};
pub use super::attention::side_scores::SideScores;
pub use super::batch::micro_batch::{BatchView, ClassIndex, MicroBatch, Padding};
pub use super::batch::sequence::Sequence;
pub use super::gemm::{Epilogue, MatRef, OperandBuffer, gemm, pack_operand};
pub use super::loss::cross_entropy::{Catalogue, Targets};
pub use super::ops::dropout::{RowDropout, Stream};
pub use super::ops::layer_norm::{LayerNorm, LayerNormGrads, Normalized, add_norm, add_norm_backward};
pub use super::ops::simd::{LANES, Lanes};
pub use super::params::item_embedding::ItemEmbedding;
