//! Self-attention with what surrounds it: y = LayerNorm(dropout(W attention(x) + b) + x).

use std::mem::swap;

use super::step::{DropoutSite, LayerContext};
use crate::config::Precision;
use crate::fast::cpu::attention::absorbed::AbsorbedRows;
use crate::fast::cpu::attention::backward::backward as attention_backward;
use crate::fast::cpu::attention::forward::forward as attention_forward;
use crate::fast::cpu::attention::inputs::{
    Attention, AttentionGrads, AttentionInputs, Context, ContextGrad, RowGrads, SavedScores,
};
use crate::fast::cpu::attention::side_scores::SideScores;
use crate::fast::cpu::batch::micro_batch::MicroBatch;
use crate::fast::cpu::gemm::{Epilogue, OperandBuffer};
use crate::fast::cpu::ops::layer_norm::{Normalized, add_norm, add_norm_backward};
use crate::fast::cpu::ops::simd::axpy;
use crate::fast::cpu::ops::zero;
use crate::fast::cpu::params::grads::Grads;
use crate::fast::cpu::params::layout::{LinearRange, QkvRange};

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Default)]
pub struct AttentionActivations {
    /// Query, key and value, `[rows, 3 H]`; empty in the last layer, whose keys and values are the rows themselves.
    qkv: OperandBuffer,
    /// In the last layer.
    last: LastQueries,
    /// By side stream, the attributes' and the positions': query, then key of every distinct vector of the micro-batch,
    /// `[n, 2, dᵢ]`; empty where a score table serves the step, as it always does for the positions.
    projections: Vec<Vec<f32>>,
    scores: SavedScores,
    /// `[rows, H]`, in the last layer `[queries, H]`.
    context: OperandBuffer,
    /// Of the LayerNorm, `[rows or queries, H]`.
    pub norm: Normalized,
}

/// The queries of the last layer.
#[derive(Debug, Default)]
struct LastQueries {
    /// The rows of the input that have a query, `[queries, H]`.
    input: OperandBuffer,
    /// `[queries, H]`
    query: Vec<f32>,
    /// The absorbed queries.
    absorbed: AbsorbedRows,
    /// The sums of rows to which the value layer is applied.
    value_sums: AbsorbedRows,
    /// `[queries, H]`
    context: Vec<f32>,
}

/// Memory of a thread.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// The gradient of what `dense` gave, `[rows, H]` or `[queries, H]`.
    rows: OperandBuffer,
    /// `[rows, H]` or `[queries, H]`
    dcontext: Vec<f32>,
    /// `[rows, 3 H]`; empty in the last layer.
    dqkv: OperandBuffer,
    /// By side stream, as the projections are.
    dprojections: Vec<Vec<f32>>,
    /// In the last layer: the gradient of the queries, `[queries, H]`.
    dquery: Vec<f32>,
    /// In the last layer: that of the rows, `[rows, H]`.
    drows: Vec<f32>,
    /// In the last layer.
    dabsorbed: AbsorbedRows,
    dvalue_sums: AbsorbedRows,
}

/// Replaces `hidden`, the input of the rows that have an output, by that output: all rows, in the last layer those of the
/// queries. x is the input of all rows as an operand, and `out` gets the output as one, unless `hidden` is one already.
///
/// # Shapes
/// x, of every row, `[rows, H]`; hidden, out `[rows, H]` or `[queries, H]`
pub fn forward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &OperandBuffer,
    saved: &mut AttentionActivations,
    hidden: &mut [f32],
    out: &mut OperandBuffer,
) {
    let (step, layout) = (layer.step, layer.layout());
    let (h, precision) = (step.h, step.weights.precision);
    let linears = layout.attributes.iter().zip(&batch.attributes);
    saved.projections.resize_with(step.score_tables[layer.k].len(), Vec::new);
    for ((linear, attribute), projections) in linears.zip(&mut saved.projections) {
        step.weights.forward(linear, &attribute.distinct, projections);
    }
    saved.context.resize(precision, hidden.len());
    out.resize((precision == Precision::Bf16).then_some(precision), hidden.len());
    match &layout.qkv {
        QkvRange::Joint(linear) => {
            project(layer, batch, linear, x, &mut saved.qkv);
            attend(layer, batch, saved);
        }
        QkvRange::Last { query, key, value } => attend_last(layer, batch, [query, key, value], x, saved, hidden),
    }
    let (dropout, norm) = (layer.dropout(batch, DropoutSite::AttentionOutput), step.layer_norm(&layout.attention_norm));
    saved.norm.resize(step.saved, hidden.len() / h, h);
    step.weights.forward_by_rows(&layout.dense, &saved.context, |first, block| {
        let hidden = &mut hidden[first * h..][..block.len()];
        add_norm(norm, dropout, first, block, &mut saved.norm, hidden);
        out.store(first * h, hidden);
    });
}

/// Query, key and value of every row; in the first layer from the item cache, where there is one.
fn project(layer: LayerContext, batch: &MicroBatch, linear: &LinearRange, x: &OperandBuffer, qkv: &mut OperandBuffer) {
    let (step, width) = (layer.step, linear.bias.len());
    qkv.resize(step.weights.precision, batch.n_rows() * width);
    match &step.item_cache {
        Some(cache) if layer.k == 0 => {
            let items = batch.items.iter().enumerate();
            items.for_each(|(row, &item)| qkv.store(row * width, cache.row(item as usize)));
        }
        _ => step.weights.forward_to(linear, x, qkv),
    }
}

/// The context of every row.
fn attend(layer: LayerContext, batch: &MicroBatch, saved: &mut AttentionActivations) {
    let AttentionActivations { qkv, projections, scores, context, .. } = saved;
    let side_scores = side_scores(layer, batch, projections);
    let inputs = all_queries(batch, qkv, &side_scores);
    attention_forward(attention(layer, batch), inputs, scores, Context::All(context));
}

/// The context of the last items, whose rows are `query_input`, with absorbed projections.
fn attend_last(
    layer: LayerContext,
    batch: &MicroBatch,
    [of_query, of_key, of_value]: [&LinearRange; 3],
    x: &OperandBuffer,
    saved: &mut AttentionActivations,
    query_input: &[f32],
) {
    let step = layer.step;
    let (h, heads, n) = (step.h, step.heads, batch.last.len());
    let AttentionActivations { last, projections, scores, context: out, .. } = saved;
    let LastQueries { input, query, absorbed, value_sums, context } = last;
    input.resize(step.weights.precision, n * h);
    input.store(0, query_input);
    step.weights.forward(of_query, &*input, query);
    absorbed.absorb(&step.weights, of_key, heads, query);
    value_sums.resize(n, heads, h);
    let side_scores = side_scores(layer, batch, projections);
    let inputs = absorbed_queries(batch, absorbed, x, &side_scores);
    let sums = Context::Last { rows: &mut value_sums.rows, prob_sums: &mut value_sums.bias };
    attention_forward(attention(layer, batch), inputs, scores, sums);
    context.resize(n * h, 0.0);
    value_sums.project(&step.weights, of_value, heads, context);
    out.store(0, context);
}

/// Turns the gradient of the output, in place, into that of the input x.
///
/// # Shapes
/// grad `[rows, H]`, in the last layer `[queries, H]` → `[rows, H]`; x `[rows, H]`
pub fn backward(
    layer: LayerContext,
    batch: &MicroBatch,
    x: &OperandBuffer,
    saved: &AttentionActivations,
    scratch: &mut AttentionScratch,
    grad: &mut Vec<f32>,
    into: &mut Grads,
) {
    let (step, layout) = (layer.step, layer.layout());
    let AttentionScratch { rows, dcontext, dqkv, dprojections, .. } = scratch;
    rows.resize(step.weights.precision, grad.len());
    let dropout = layer.dropout(batch, DropoutSite::AttentionOutput);
    let norm = step.layer_norm(&layout.attention_norm);
    add_norm_backward(norm, dropout, &saved.norm, grad, rows, into.layer_norm(&layout.attention_norm));
    step.weights.backward_params(&layout.dense, &saved.context, &*rows, &mut into.flat);
    dcontext.resize(grad.len(), 0.0);
    step.weights.backward_input(&layout.dense, &*rows, dcontext, Epilogue::Overwrite);
    dprojections.resize_with(saved.projections.len(), Vec::new);
    dprojections.iter_mut().zip(&saved.projections).for_each(|(grad, values)| zero(grad, values.len()));
    match &layout.qkv {
        QkvRange::Joint(linear) => {
            dqkv.resize(step.weights.precision, saved.qkv.size());
            attend_backward(layer, batch, saved, scratch, into);
            step.weights.backward_params(linear, x, &scratch.dqkv, &mut into.flat);
            step.weights.backward_input(linear, &scratch.dqkv, grad, Epilogue::Accumulate);
        }
        QkvRange::Last { query, key, value } => {
            attend_last_backward(layer, batch, [key, value], x, saved, scratch, into);
            let AttentionScratch { dquery, drows, .. } = scratch;
            step.weights.backward_params(query, &saved.last.input, &*dquery, &mut into.flat);
            step.weights.backward_input(query, &*dquery, grad, Epilogue::Accumulate);
            for (&row, grad) in batch.last.iter().zip(grad.chunks_exact(step.h)) {
                axpy(1.0, grad, &mut drows[row as usize * step.h..][..step.h]);
            }
            swap(drows, grad);
        }
    }
    for ((linear, attribute), dprojections) in
        layout.attributes.iter().zip(&batch.attributes).zip(&scratch.dprojections)
    {
        // The vectors are not trained: they need no gradient.
        step.weights.backward_params(linear, &attribute.distinct, dprojections, &mut into.flat);
    }
}

/// The gradient of queries, keys and values from that of the context.
fn attend_backward(
    layer: LayerContext,
    batch: &MicroBatch,
    saved: &AttentionActivations,
    scratch: &mut AttentionScratch,
    into: &mut Grads,
) {
    let AttentionScratch { dcontext, dqkv, dprojections, .. } = scratch;
    let side_scores = side_scores(layer, batch, &saved.projections);
    let (tables, fusion) = (&mut into.score_tables[layer.k], &mut into.fusion[layer.k]);
    let side_scores_grads = &mut side_grads(layer, tables, dprojections);
    let grads = AttentionGrads { rows: RowGrads::All(dqkv), side_scores: side_scores_grads, fusion };
    let inputs = all_queries(batch, &saved.qkv, &side_scores);
    let dcontext = ContextGrad { rows: dcontext, prob_sums: &[] };
    attention_backward(attention(layer, batch), inputs, &saved.scores, dcontext, grads);
}

/// The gradients of the queries and of the rows from that of the context, and those of the absorbed layers.
fn attend_last_backward(
    layer: LayerContext,
    batch: &MicroBatch,
    [of_key, of_value]: [&LinearRange; 2],
    x: &OperandBuffer,
    saved: &AttentionActivations,
    scratch: &mut AttentionScratch,
    into: &mut Grads,
) {
    let (step, heads) = (layer.step, layer.step.heads);
    let LastQueries { query, absorbed, value_sums, .. } = &saved.last;
    let AttentionScratch { dcontext, dprojections, dquery, drows, dabsorbed, dvalue_sums, .. } = scratch;
    dquery.resize(query.len(), 0.0);
    drows.resize(x.size(), 0.0);
    dvalue_sums.absorb(&step.weights, of_value, heads, dcontext);
    value_sums.backward_params(&step.weights, of_value, heads, dcontext, &mut into.flat);
    dabsorbed.resize(batch.last.len(), heads, step.h);
    let side_scores = side_scores(layer, batch, &saved.projections);
    let (tables, fusion) = (&mut into.score_tables[layer.k], &mut into.fusion[layer.k]);
    let rows = RowGrads::Last { query: &mut dabsorbed.rows, query_bias: &mut dabsorbed.bias, rows: drows };
    let grads = AttentionGrads { rows, side_scores: &mut side_grads(layer, tables, dprojections), fusion };
    let inputs = absorbed_queries(batch, absorbed, x, &side_scores);
    let dsums = ContextGrad { rows: &dvalue_sums.rows, prob_sums: &dvalue_sums.bias };
    attention_backward(attention(layer, batch), inputs, &saved.scores, dsums, grads);
    dabsorbed.project(&step.weights, of_key, heads, dquery);
    dabsorbed.backward_params(&step.weights, of_key, heads, query, &mut into.flat);
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
    rows: &'b OperandBuffer,
    side_scores: &'b [SideScores<'b>],
) -> AttentionInputs<'b> {
    AttentionInputs { sequences: &batch.sequences, rows, query: &[], query_bias: &[], side_scores }
}

fn absorbed_queries<'b>(
    batch: &'b MicroBatch,
    queries: &'b AbsorbedRows,
    rows: &'b OperandBuffer,
    side_scores: &'b [SideScores<'b>],
) -> AttentionInputs<'b> {
    let AbsorbedRows { rows: query, bias: query_bias } = queries;
    AttentionInputs { sequences: &batch.sequences, rows, query, query_bias, side_scores }
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
