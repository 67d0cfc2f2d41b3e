//! SASRecD, the model of DIF-SR (Xie, Zhou, Kim, SIGIR 2022), and RecBole's SASRec and SASRecF, with which the paper compares
//! it, of the same layers; leaf to root, one layer a file, each of which opens with its equation.
//!
//! This is the **reference path**: the authors' operations in the authors' order, with nothing hoisted, fused or skipped.
//! It is plain on purpose, for it is the oracle that every faster path is held to.
//!
//! Shapes are written with B sequences in a batch, L positions (`MAX_ITEM_LIST_LENGTH`), H (`hidden_size`), `heads`
//! attention heads of size d = H / heads, and S attribute tokens an item.

mod activation;
mod attention;
mod dropout;
mod embedding;
mod encoder;
mod feed_forward;
mod fusion;
mod init;
mod input;
mod layers;
mod losses;
pub mod names;
mod predictor;
mod sasrec;
mod side;
mod sizes;
mod tree;

pub use attention::{Attention, AttentionOutput};
pub use dropout::Dropout;
pub(crate) use embedding::pool;
pub use embedding::{FeatureSeqEmbLayer, ItemFeature};
pub use encoder::{Encoder, Layer, LayerOutput};
pub use feed_forward::FeedForward;
pub use fusion::FusionLayer;
pub use input::AttributeInput;
pub(crate) use layers::lead;
pub use layers::{Embedding, LayerNorm, Linear};
pub use losses::Losses;
pub use predictor::AttributePredictor;
pub use sasrec::{Encoded, Model};
pub use side::{SideAttention, SideStreams};
pub(crate) use sizes::check_sizes;
pub use tree::Tree;
