//! What enters the first layer (src/model/sasrec.rs has the equations).
//!
//! ```text
//! [item, f₁, f₂, …]·W + b = item·W₀ + b + (f₁·W₁)[class] + (f₂·W₂)[class] + …      SASRecF
//! ```
//!
//! W in blocks: an attribute's part is computed once for each class ([`super::classes`]) and looked up.

use tch::Tensor;

use super::classes::Classes;
use super::inputs::Inputs;
use super::weights::{Input, Weights};
use crate::config::{Architecture, AttributeKind, ModelConfig, Pooling};
use crate::model::{ItemFeature, Model, pool};

/// An attribute of SASRecF.
#[derive(Debug)]
pub struct Attribute {
    pub classes: Classes,
    /// The tokens of each class, as rows of the attribute's table, `[classes, S]`.
    ids: Tensor,
    kind: AttributeKind,
    pooling: Pooling,
}

impl Attribute {
    /// Those of a model's attributes; none of other models than SASRecF.
    pub fn all(model: &Model, weights: &Weights) -> Vec<Self> {
        let pooling = model.config().pooling_mode;
        let attribute = |(feature, (_, offset)): (&ItemFeature, &(Tensor, i64))| {
            let classes = Classes::new(feature);
            let ids = feature.ids.index_select(0, &classes.members) + *offset;
            Self { classes, ids, kind: feature.kind, pooling }
        };
        let tables = weights.input.iter().flat_map(|input| &input.tables);
        model.features().iter().zip(tables).map(attribute).collect()
    }

    /// Its part of each position's input, `[B · L, H]`. Of many classes, only those of the positions are computed.
    fn part(&self, table: &Tensor, block: &Tensor, class: &Tensor) -> Tensor {
        let class = class.flatten(0, -1);
        let by_class = self.classes.n() <= class.size()[0];
        let ids = if by_class { self.ids.shallow_clone() } else { self.ids.index_select(0, &class) };
        let embedded = Tensor::embedding(table, &ids, -1, false, false); // [n, S, H]
        let vectors = match self.kind {
            AttributeKind::Token => embedded.squeeze_dim(1),
            AttributeKind::TokenSeq => pool(&embedded, &ids, self.pooling).to_kind(table.kind()),
        };
        let part = vectors.linear::<Tensor>(block, None);
        if by_class { Tensor::embedding(&part, &class, -1, false, false) } else { part }
    }
}

/// The input before its LayerNorm.
///
/// # Shapes
/// items `[B, L, H]` → `[B, L, H]`
pub fn input(
    config: &ModelConfig,
    weights: &Weights,
    attributes: &[Attribute],
    items: &Tensor,
    inputs: &Inputs,
) -> Tensor {
    match (&weights.input, config.model) {
        (Some(input), _) => projected(input, attributes, items, inputs) + &weights.position_embedding,
        (None, Architecture::SasRecD) => items.shallow_clone(),
        (None, Architecture::SasRec | Architecture::SasRecF) => items + &weights.position_embedding,
    }
}

fn projected(input: &Input, attributes: &[Attribute], items: &Tensor, inputs: &Inputs) -> Tensor {
    let h = items.size()[2];
    let blocks = input.concat_layer.weight.split(h, 1);
    let own = items.view([-1, h]).linear(&blocks[0], Some(&input.concat_layer.bias));
    let parts = attributes.iter().zip(&inputs.classes).zip(input.tables.iter().zip(&input.blocks));
    let parts = parts.map(|((attribute, class), ((table, _), &block))| attribute.part(table, &blocks[block], class));
    parts.fold(own, |sum, part| sum + part).view_as(items)
}

/// The items' vectors, apart from the gradient's history.
///
/// # Shapes
/// `[B, L]` → `[B, L, H]`
pub fn look_up(weights: &Weights, items: &Tensor) -> Tensor {
    tch::no_grad(|| Tensor::embedding(&weights.item_embedding, items, -1, false, false)).detach()
}
