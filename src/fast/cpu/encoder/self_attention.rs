//! Self-attention with what surrounds it: y = LayerNorm(dropout(W attention(x) + b) + x).

use std::mem::swap;

use super::step::{DropoutSite, LayerContext};
use crate::fast::cpu::attention::absorbed::AbsorbedRows;
use crate::fast::cpu::attention::backward::backward as attention_backward;
use crate::fast::cpu::attention::forward::forward as attention_forward;
use crate::fast::cpu::attention::geometry::Queries;
use crate::fast::cpu::attention::inputs::{
    Attention, AttentionGrads, AttentionInputs, Context, ContextGrad, SavedScores,
};
use crate::fast::cpu::attention::side_scores::SideScores;
use crate::fast::cpu::batch::micro_batch::MicroBatch;
use crate::fast::cpu::gemm::Epilogue;
use crate::fast::cpu::ops::layer_norm::{Normalized, add_norm, add_norm_backward};
use crate::fast::cpu::ops::simd::axpy;
use crate::fast::cpu::ops::zero;
use crate::fast::cpu::params::grads::Grads;

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Default)]
pub struct AttentionActivations {
    /// In the last layer: the rows of the input that have a query, `[queries, H]`.
    query_input: Vec<f32>,
    /// `[queries, H]`
    query: Vec<f32>,
    /// `[rows, H]`; empty in the last layer, whose keys and values are the rows themselves.
    key: Vec<f32>,
    /// `[rows, H]`; empty in the last layer, whose keys and values are the rows themselves.
    value: Vec<f32>,
    /// In the last layer: the absorbed queries.
    absorbed_query: AbsorbedRows,
    /// In the last layer: the sums of rows to which the value layer is applied.
    value_sums: AbsorbedRows,
    /// By side stream, the attributes' and the positions': query, then key of every distinct vector of the micro-batch,
    /// `[n, 2, dᵢ]`; empty where a score table serves the step, as it always does for the positions.
    projections: Vec<Vec<f32>>,
    scores: SavedScores,
    /// `[rows, H]`, in the last layer `[queries, H]`.
    context: Vec<f32>,
    /// Of the LayerNorm, `[rows or queries, H]`.
    pub norm: Normalized,
}

/// Memory of a thread.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// The gradient of what `dense` gave, then that of the queries, `[rows, H]` or fewer.
    rows: Vec<f32>,
    /// `[rows, H]` or `[queries, H]`
    dcontext: Vec<f32>,
    /// The gradient of the keys, or in the last layer that of the rows, `[rows, H]`.
    dkey: Vec<f32>,
    /// `[rows, H]`
    dvalue: Vec<f32>,
    /// By side stream, as the projections are.
    dprojections: Vec<Vec<f32>>,
    /// In the last layer.
    dabsorbed_query: AbsorbedRows,
    dvalue_sums: AbsorbedRows,
}

/// Writes the output for the input x: a row for every row of the micro-batch, in the last layer for every query.
///
/// # Shapes
/// x `[rows, H]`, out `[rows, H]` or `[queries, H]`
pub fn forward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &[f32],
    saved: &mut AttentionActivations,
    out: &mut Vec<f32>,
) {
    let (step, layout) = (layer.step, layer.layout());
    let linears = layout.attributes.iter().zip(&batch.attributes);
    saved.projections.resize_with(step.score_tables[layer.k].len(), Vec::new);
    for ((linear, attribute), projections) in linears.zip(&mut saved.projections) {
        step.weights.forward(linear, &attribute.distinct, projections);
    }
    let residual = match layer.queries() {
        Queries::All => {
            project_inputs(layer, batch, x, saved);
            attend(layer, batch, saved);
            x
        }
        Queries::Last => {
            attend_last(layer, batch, x, saved);
            &saved.query_input
        }
    };
    step.weights.forward(&layout.dense, &saved.context, &mut saved.norm.rows);
    out.resize(residual.len(), 0.0);
    let dropout = layer.dropout(batch, DropoutSite::AttentionOutput);
    add_norm(step.layer_norm(&layout.attention_norm), residual, dropout, &mut saved.norm, out);
}

/// Queries, keys and values of every row; in the first layer from the item cache, where there is one.
fn project_inputs(layer: LayerContext, batch: &MicroBatch, x: &[f32], saved: &mut AttentionActivations) {
    let (step, layout, h) = (layer.step, layer.layout(), layer.step.h);
    if let (Some(cache), 0) = (&step.item_cache, layer.k) {
        for (rows, items, out) in [
            (&cache.query, &batch.items[batch.n_first..], &mut saved.query),
            (&cache.key, &batch.items[..], &mut saved.key),
            (&cache.value, &batch.items[..], &mut saved.value),
        ] {
            out.clear();
            items.iter().for_each(|&item| out.extend_from_slice(rows.row(item as usize)));
        }
        return;
    }
    step.weights.forward(&layout.query, &x[batch.n_first * h..], &mut saved.query);
    step.weights.forward(&layout.key, x, &mut saved.key);
    step.weights.forward(&layout.value, x, &mut saved.value);
}

/// The context of every row.
fn attend(layer: LayerContext, batch: &MicroBatch, saved: &mut AttentionActivations) {
    let AttentionActivations { query, key, value, projections, scores, context, .. } = saved;
    context.resize(batch.n_rows() * layer.step.h, 0.0);
    let side_scores = side_scores(layer, batch, projections);
    let inputs = all_queries(batch, query, key, value, &side_scores);
    attention_forward(attention(layer, batch), inputs, scores, Context { rows: context, prob_sums: &mut [] });
}

/// The context of the last items, with absorbed projections.
fn attend_last(layer: LayerContext, batch: &MicroBatch, x: &[f32], saved: &mut AttentionActivations) {
    let (step, layout) = (layer.step, layer.layout());
    let (h, heads, n) = (step.h, step.heads, batch.last.len());
    let AttentionActivations { query_input, query, absorbed_query, value_sums, projections, scores, context, .. } =
        saved;
    query_input.clear();
    batch.last.iter().for_each(|&row| query_input.extend_from_slice(&x[row as usize * h..][..h]));
    step.weights.forward(&layout.query, query_input, query);
    absorbed_query.absorb(&step.weights, &layout.key, heads, query);
    value_sums.resize(n, heads, h);
    context.resize(n * h, 0.0);
    let side_scores = side_scores(layer, batch, projections);
    let inputs = absorbed_queries(batch, absorbed_query, x, &side_scores);
    let sums = Context { rows: &mut value_sums.rows, prob_sums: &mut value_sums.bias };
    attention_forward(attention(layer, batch), inputs, scores, sums);
    value_sums.project(&step.weights, &layout.value, heads, context);
}

/// Turns the gradient of the output, in place, into that of the input x.
///
/// # Shapes
/// grad `[rows, H]`, in the last layer `[queries, H]` → `[rows, H]`; x `[rows, H]`
pub fn backward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &[f32],
    saved: &AttentionActivations,
    scratch: &mut AttentionScratch,
    grad: &mut Vec<f32>,
    into: &mut Grads,
) {
    let (step, layout) = (layer.step, layer.layout());
    let AttentionScratch { rows, dcontext, dprojections, .. } = scratch;
    rows.resize(grad.len(), 0.0);
    let dropout = layer.dropout(batch, DropoutSite::AttentionOutput);
    let norm = step.layer_norm(&layout.attention_norm);
    add_norm_backward(norm, dropout, &saved.norm, grad, rows, into.layer_norm(&layout.attention_norm));
    step.weights.backward_params(&layout.dense, &saved.context, rows, &mut into.flat);
    dcontext.resize(grad.len(), 0.0);
    step.weights.backward_input(&layout.dense, rows, dcontext, Epilogue::Overwrite);
    dprojections.resize_with(saved.projections.len(), Vec::new);
    dprojections.iter_mut().zip(&saved.projections).for_each(|(grad, values)| zero(grad, values.len()));
    match layer.queries() {
        Queries::All => attend_backward(layer, batch, x, saved, scratch, into),
        Queries::Last => attend_last_backward(layer, batch, x, saved, scratch, into),
    }
    for ((linear, attribute), dprojections) in
        layout.attributes.iter().zip(&batch.attributes).zip(&scratch.dprojections)
    {
        // The vectors are not trained: they need no gradient.
        step.weights.backward_params(linear, &attribute.distinct, dprojections, &mut into.flat);
    }
    match layer.queries() {
        Queries::All => project_inputs_backward(layer, batch, x, scratch, grad, into),
        Queries::Last => {
            let AttentionScratch { rows: dquery, dkey: drows, .. } = scratch;
            step.weights.backward_params(&layout.query, &saved.query_input, dquery, &mut into.flat);
            step.weights.backward_input(&layout.query, dquery, grad, Epilogue::Accumulate);
            for (&row, grad) in batch.last.iter().zip(grad.chunks_exact(step.h)) {
                axpy(1.0, grad, &mut drows[row as usize * step.h..][..step.h]);
            }
            swap(drows, grad);
        }
    }
}

/// The gradients of queries (in `scratch.rows`), keys and values from that of the context.
fn attend_backward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &[f32],
    saved: &AttentionActivations,
    scratch: &mut AttentionScratch,
    into: &mut Grads,
) {
    let AttentionActivations { query, key, value, projections, scores, .. } = saved;
    let AttentionScratch { rows: dquery, dcontext, dkey, dvalue, dprojections, .. } = scratch;
    dquery.resize(query.len(), 0.0);
    dkey.resize(x.len(), 0.0);
    dvalue.resize(value.len(), 0.0);
    let side_scores = side_scores(layer, batch, projections);
    let (tables, fusion) = (&mut into.score_tables[layer.k], &mut into.fusion[layer.k]);
    let grads = AttentionGrads {
        query: dquery,
        query_bias: &mut [],
        key: dkey,
        value: dvalue,
        side_scores: &mut side_grads(layer, tables, dprojections),
        fusion,
    };
    let inputs = all_queries(batch, query, key, value, &side_scores);
    let dcontext = ContextGrad { rows: dcontext, prob_sums: &[] };
    attention_backward(attention(layer, batch), inputs, scores, dcontext, grads);
}

/// The gradients of the queries (in `scratch.rows`) and of the rows (in `scratch.dkey`) from that of the context, and
/// those of the absorbed layers.
fn attend_last_backward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &[f32],
    saved: &AttentionActivations,
    scratch: &mut AttentionScratch,
    into: &mut Grads,
) {
    let (step, layout, heads) = (layer.step, layer.layout(), layer.step.heads);
    let AttentionScratch { rows: dquery, dcontext, dkey: drows, dprojections, dabsorbed_query, dvalue_sums, .. } =
        scratch;
    dquery.resize(saved.query.len(), 0.0);
    drows.resize(x.len(), 0.0);
    dvalue_sums.absorb(&step.weights, &layout.value, heads, dcontext);
    saved.value_sums.backward_params(&step.weights, &layout.value, heads, dcontext, &mut into.flat);
    dabsorbed_query.resize(batch.last.len(), heads, step.h);
    let side_scores = side_scores(layer, batch, &saved.projections);
    let (tables, fusion) = (&mut into.score_tables[layer.k], &mut into.fusion[layer.k]);
    let grads = AttentionGrads {
        query: &mut dabsorbed_query.rows,
        query_bias: &mut dabsorbed_query.bias,
        key: drows,
        value: &mut [],
        side_scores: &mut side_grads(layer, tables, dprojections),
        fusion,
    };
    let inputs = absorbed_queries(batch, &saved.absorbed_query, x, &side_scores);
    let dsums = ContextGrad { rows: &dvalue_sums.rows, prob_sums: &dvalue_sums.bias };
    attention_backward(attention(layer, batch), inputs, &saved.scores, dsums, grads);
    dabsorbed_query.project(&step.weights, &layout.key, heads, dquery);
    dabsorbed_query.backward_params(&step.weights, &layout.key, heads, &saved.query, &mut into.flat);
}

/// Adds the gradient of the input through queries (in `scratch.rows`), keys and values to `grad`.
fn project_inputs_backward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &[f32],
    scratch: &mut AttentionScratch,
    grad: &mut [f32],
    into: &mut Grads,
) {
    let (step, layout, h) = (layer.step, layer.layout(), layer.step.h);
    let AttentionScratch { rows, dkey, dvalue, .. } = scratch;
    let (first, flat) = (batch.n_first * h, &mut into.flat);
    step.weights.backward_params(&layout.query, &x[first..], rows, flat);
    step.weights.backward_input(&layout.query, rows, &mut grad[first..], Epilogue::Accumulate);
    step.weights.backward_params(&layout.key, x, dkey, flat);
    step.weights.backward_input(&layout.key, dkey, grad, Epilogue::Accumulate);
    step.weights.backward_params(&layout.value, x, dvalue, flat);
    step.weights.backward_input(&layout.value, dvalue, grad, Epilogue::Accumulate);
}

fn attention<'b>(layer: LayerContext<'b>, batch: &'b MicroBatch) -> Attention<'b> {
    Attention {
        geometry: layer.geometry(batch),
        fusion: layer.step.fusions[layer.k],
        dropout: layer.dropout(batch, DropoutSite::Probabilities),
    }
}

fn all_queries<'b>(
    batch: &'b MicroBatch,
    query: &'b [f32],
    key: &'b [f32],
    value: &'b [f32],
    side_scores: &'b [SideScores<'b>],
) -> AttentionInputs<'b> {
    AttentionInputs { sequences: &batch.sequences, query, query_bias: &[], key, value, side_scores }
}

fn absorbed_queries<'b>(
    batch: &'b MicroBatch,
    queries: &'b AbsorbedRows,
    x: &'b [f32],
    side_scores: &'b [SideScores<'b>],
) -> AttentionInputs<'b> {
    let AbsorbedRows { rows: query, bias: query_bias } = queries;
    AttentionInputs { sequences: &batch.sequences, query, query_bias, key: x, value: x, side_scores }
}

/// The side streams of a layer: attributes, then positions.
fn side_scores<'b>(layer: LayerContext<'b>, batch: &'b MicroBatch, projections: &'b [Vec<f32>]) -> Vec<SideScores<'b>> {
    let vectors = batch.attributes.iter().map(|attribute| &attribute.vector_index).chain([&batch.positions]);
    let streams = layer.step.score_tables[layer.k].iter().zip(vectors.zip(projections)).enumerate();
    let streams = streams.map(|(stream, (table, (vector_index, projections)))| match table {
        Some(table) => SideScores::Table { scores: &table.scores, n: table.n, vector_index },
        None => SideScores::Projected { projections, d: layer.step.attributes[stream].size, vector_index },
    });
    streams.collect()
}

/// The gradients of the side streams: of a score table, or of the projections where there is none.
fn side_grads<'b>(
    layer: LayerContext,
    tables: &'b mut [Vec<f32>],
    dprojections: &'b mut [Vec<f32>],
) -> Vec<&'b mut [f32]> {
    let streams = tables.iter_mut().zip(dprojections).zip(&layer.step.score_tables[layer.k]);
    let streams = streams.map(|((dtable, dprojections), table)| if table.is_some() { dtable } else { dprojections });
    streams.map(|grad| &mut grad[..]).collect()
}
