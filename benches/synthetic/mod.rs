//! Models and batches of any size, drawn from libtorch's generator.
#![allow(dead_code, reason = "each bench uses its own part")]

use dif_sr::config::*;
use dif_sr::data::Batch;
use dif_sr::model::{ItemFeature, Model};
use tch::{Device, Kind, Tensor};

/// The sizes that a cost depends on; the rest is the notebook's, with one attribute of 300 tokens, four an item.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub items: i64,
    pub length: i64,
    pub hidden: i64,
    pub layers: i64,
    pub fusion: Fusion,
}

impl Sizes {
    /// The notebook's on Amazon_Beauty.
    pub const BEAUTY: Self = Self { items: 12_102, length: 7, hidden: 256, layers: 4, fusion: Fusion::Gate };

    pub fn config(self) -> ModelConfig {
        ModelConfig {
            model: Architecture::SasRecD,
            n_layers: self.layers,
            n_heads: 4,
            hidden_size: self.hidden,
            inner_size: self.hidden,
            attribute_hidden_size: vec![self.hidden],
            hidden_dropout_prob: 0.5,
            attn_dropout_prob: 0.3,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            initializer_range: 0.02,
            fusion_type: self.fusion,
            pooling_mode: Pooling::Sum,
            attribute_predictor: Predictor::Linear,
            lamdas: vec![10.0],
            loss_type: Loss::Ce,
        }
    }

    pub fn model(self) -> Model {
        tch::manual_seed(212);
        let int64 = (Kind::Int64, Device::Cpu);
        let ids = Tensor::randint_low(1, 300, [self.items, 4], int64);
        let feature = ItemFeature { name: "tags".to_owned(), kind: AttributeKind::TokenSeq, vocab: 300, ids };
        let mut model = Model::new(&self.config(), self.items, self.length, vec![feature], Kind::Float);
        model.initialize();
        model
    }

    /// Sequences of every length from 1 to L, alike often.
    pub fn batch(self, rows: i64) -> Batch {
        let int64 = (Kind::Int64, Device::Cpu);
        let item_seq_len = Tensor::arange(rows, int64).remainder(self.length) + 1;
        let positions = Tensor::arange(self.length, int64).unsqueeze(0);
        let true_items = positions.lt_tensor(&item_seq_len.unsqueeze(1)).to_kind(Kind::Int64);
        Batch {
            user: Tensor::zeros([rows], int64),
            item_seq: Tensor::randint_low(1, self.items, [rows, self.length], int64) * true_items,
            item_seq_len,
            pos_items: Tensor::randint_low(1, self.items, [rows], int64),
            neg_items: None,
        }
    }
}
