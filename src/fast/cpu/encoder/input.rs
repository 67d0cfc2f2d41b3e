//! What enters the first layer before its LayerNorm: the item's vector alone, or with all that SASRec and SASRecF know.

use std::ops::Range;

use super::layer::parameters;
use super::step::StepContext;
use crate::config::{Architecture, AttributeKind, Pooling};
use crate::fast::cpu::batch::micro_batch::Rows;
use crate::fast::cpu::gemm::Epilogue;
use crate::fast::cpu::ops::simd::axpy;
use crate::fast::cpu::params::layout::{LayoutBuilder, Linear};
use crate::model::{ItemFeature, Model};

/// The input, which tells the models apart.
#[derive(Debug)]
pub enum Input {
    /// SASRecD: items alone.
    Item,
    /// SASRec: the sum of item and position.
    Position,
    /// SASRecF: item and attributes side by side, projected, and the position.
    Attributes(Columns),
}

/// SASRecF's attributes.
#[derive(Debug)]
pub struct Columns {
    pooling: Pooling,
    /// In the order of `concat_layer`'s inputs: those of kind `token` first.
    columns: Vec<Column>,
    /// From the item's vector and those of the attributes.
    concat_layer: Linear,
}

#[derive(Debug)]
struct Column {
    kind: AttributeKind,
    tokens: Tokens,
    /// `[vocabulary, H]`
    table: Range<usize>,
}

/// The tokens of an attribute.
#[derive(Debug)]
pub struct Tokens {
    /// `[n_items, width]`, padded with 0.
    ids: Vec<i64>,
    width: usize,
}

impl Tokens {
    pub fn new(feature: &ItemFeature) -> Self {
        let ids = Vec::try_from(feature.ids.flatten(0, -1)).expect("ids are int64");
        Self { ids, width: feature.ids.size()[1] as usize }
    }

    /// Of an item, padding included.
    fn of(&self, item: usize) -> &[i64] {
        &self.ids[item * self.width..][..self.width]
    }

    /// Of an item, without padding.
    pub fn true_of(&self, item: usize) -> impl Iterator<Item = usize> {
        self.of(item).iter().filter(|&&token| token != 0).map(|&token| token as usize)
    }
}

impl Input {
    pub fn new(model: &Model, place: &mut LayoutBuilder) -> Self {
        let config = model.config();
        match config.model {
            Architecture::SasRecD => return Self::Item,
            Architecture::SasRec => return Self::Position,
            Architecture::SasRecF => {}
        }
        let h = config.hidden_size as usize;
        let features = model.features();
        // The `token` attributes share a table, so that the tables' rows lie in the order of the columns.
        let mut next = place.len;
        let tables = model.named_parameters().into_iter().filter(|(name, _)| name.starts_with("feature_embed_layer."));
        tables.for_each(|(name, table)| _ = place.next(name, table.numel()));
        let kinds = [AttributeKind::Token, AttributeKind::TokenSeq];
        let ordered = kinds.iter().flat_map(|kind| features.iter().filter(move |feature| feature.kind == *kind));
        let columns = ordered.map(|feature| {
            let table = next..next + feature.vocab as usize * h;
            next = table.end;
            Column { kind: feature.kind, tokens: Tokens::new(feature), table }
        });
        Self::Attributes(Columns {
            pooling: config.pooling_mode,
            columns: columns.collect(),
            concat_layer: place.dense(&["concat_layer".to_owned()], h * (1 + features.len()), h),
        })
    }

    /// The input of a chunk. `projected` keeps what SASRecF projects for the backward pass.
    ///
    /// # Shapes
    /// projected `[rows, (1 + attributes) · H]`, out `[rows, H]`
    pub fn forward(&self, step: &StepContext, rows: &Rows, projected: &mut Vec<f32>, out: &mut Vec<f32>) {
        let h = step.h;
        let item = |&item: &u32| &step.table[item as usize * h..][..h];
        match self {
            Self::Item | Self::Position => {
                out.clear();
                rows.items.iter().for_each(|id| out.extend_from_slice(item(id)));
            }
            Self::Attributes(columns) => {
                let width = columns.concat_layer.inputs;
                projected.resize(rows.items.len() * width, 0.0);
                for (id, row) in rows.items.iter().zip(projected.chunks_exact_mut(width)) {
                    let (own, attributes) = row.split_at_mut(h);
                    own.copy_from_slice(item(id));
                    columns.look_up(step, *id as usize, attributes);
                }
                step.linear(&columns.concat_layer, projected, out);
            }
        }
        if !matches!(self, Self::Item) {
            let positions = step.position_embedding();
            for (&position, out) in rows.positions.iter().zip(out.chunks_exact_mut(h)) {
                axpy(1.0, &positions[position as usize * h..][..h], out);
            }
        }
    }

    /// Turns the gradient of the input, `[rows, H]`, into that of the items' vectors; adds that of all others to `flat`.
    /// What was projected is not kept.
    pub fn backward(&self, step: &StepContext, rows: &Rows, projected: &mut [f32], grad: &mut [f32], flat: &mut [f32]) {
        let h = step.h;
        if matches!(self, Self::Item) {
            return;
        }
        let positions = &mut flat[step.layout.position_embedding.clone()];
        for (&position, grad) in rows.positions.iter().zip(grad.chunks_exact(h)) {
            axpy(1.0, grad, &mut positions[position as usize * h..][..h]);
        }
        if let Self::Attributes(columns) = self {
            let width = columns.concat_layer.inputs;
            parameters(step, &columns.concat_layer, projected, grad, flat);
            step.transposed(&columns.concat_layer, grad, projected, Epilogue::Overwrite);
            let rows = rows.items.iter().zip(projected.chunks_exact(width)).zip(grad.chunks_exact_mut(h));
            for ((&item, projected), grad) in rows {
                let (own, attributes) = projected.split_at(h);
                grad.copy_from_slice(own);
                columns.differentiate(step, item as usize, attributes, flat);
            }
        }
    }
}

/// Subtracted from the padding token's values under `max` pooling, as in `model/embedding.rs`.
const NO_TOKEN: f32 = 1e9;

impl Columns {
    /// The vectors of an item's attributes.
    ///
    /// # Shapes
    /// out `[attributes, H]`
    fn look_up(&self, step: &StepContext, item: usize, out: &mut [f32]) {
        let h = step.h;
        for (Column { kind, tokens, table }, out) in self.columns.iter().zip(out.chunks_exact_mut(h)) {
            let table = &step.flat[table.clone()];
            let row = |token: usize| &table[token * h..][..h];
            match (kind, self.pooling) {
                (AttributeKind::Token, _) => out.copy_from_slice(row(tokens.of(item)[0] as usize)),
                (AttributeKind::TokenSeq, Pooling::Max) => {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = first_largest(tokens.of(item), |token| row(token)[i]).1;
                    }
                }
                (AttributeKind::TokenSeq, Pooling::Sum | Pooling::Mean) => {
                    let weight = self.weight(tokens, item);
                    out.fill(0.0);
                    tokens.true_of(item).for_each(|token| axpy(weight, row(token), out));
                }
            }
        }
    }

    /// Adds to the tables' gradients what follows from that of an item's vectors.
    fn differentiate(&self, step: &StepContext, item: usize, grad: &[f32], into: &mut [f32]) {
        let h = step.h;
        for (Column { kind, tokens, table }, grad) in self.columns.iter().zip(grad.chunks_exact(h)) {
            let (values, into) = (&step.flat[table.clone()], &mut into[table.clone()]);
            match (kind, self.pooling) {
                (AttributeKind::Token, _) => axpy(1.0, grad, &mut into[tokens.of(item)[0] as usize * h..][..h]),
                (AttributeKind::TokenSeq, Pooling::Max) => {
                    for (i, grad) in grad.iter().enumerate() {
                        into[first_largest(tokens.of(item), |token| values[token * h + i]).0 * h + i] += grad;
                    }
                }
                (AttributeKind::TokenSeq, Pooling::Sum | Pooling::Mean) => {
                    let weight = self.weight(tokens, item);
                    tokens.true_of(item).for_each(|token| axpy(weight, grad, &mut into[token * h..][..h]));
                }
            }
        }
    }

    /// Of each token in an item's sum or mean.
    fn weight(&self, tokens: &Tokens, item: usize) -> f32 {
        if self.pooling == Pooling::Mean { 1.0 / tokens.true_of(item).count() as f32 } else { 1.0 }
    }
}

/// The token of the largest value, the first of equal ones, and that value. A NaN is the largest of all, as in libtorch.
fn first_largest(tokens: &[i64], value: impl Fn(usize) -> f32) -> (usize, f32) {
    let values = tokens.iter().map(|&token| token as usize);
    let values = values.map(|token| (token, value(token) - if token == 0 { NO_TOKEN } else { 0.0 }));
    let larger = |most: (usize, f32), other: (usize, f32)| {
        if most.1 >= other.1 || most.1.is_nan() { most } else { other }
    };
    values.reduce(larger).expect("an attribute has a width")
}
