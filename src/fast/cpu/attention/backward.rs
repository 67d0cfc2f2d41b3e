//! The backward pass: the gradient of probabilities, softmax, fusion, then of side streams, queries, keys and values.

use super::forward::dot_per_head;
use super::fusion::Maps;
use super::geometry::{Geometry, Query, SequenceLanes};
use super::inputs::{
    Attention, AttentionGrads, AttentionInputs, ContextGrad, HeadRows, RowGrads, SavedScores, SequenceScores,
};
use super::mask::ScoreMasks;
use crate::fast::cpu::ops::simd::{LANES, Lanes, WeightedRows, axpy, scale_into};
use crate::fast::cpu::ops::zero;

/// Memory of a thread.
struct Work {
    /// Query, key and value of a sequence's rows, `[keys, 3 H]`, in the last layer the rows, `[keys, H]`.
    rows: Vec<f32>,
    /// Probabilities after dropout, `[keys, blocks]`.
    dropped_probs: Vec<Lanes>,
    /// Their gradient, `[keys, blocks]`.
    ddropped_probs: Vec<Lanes>,
    /// The gradient of the fused scores of a block, `[keys]`.
    dfused: Vec<Lanes>,
    /// The gradient of the maps of a block, `[maps, keys]`.
    dblock: Vec<Lanes>,
    /// The gradient of every map, `[keys, blocks]`.
    dmaps: Vec<Vec<Lanes>>,
    /// A row, `[H]`.
    row: Vec<f32>,
}

impl Work {
    fn new(geometry: Geometry, n_maps: usize) -> Self {
        Self {
            rows: Vec::new(),
            dropped_probs: Vec::new(),
            ddropped_probs: Vec::new(),
            dfused: vec![[0.0; LANES]; geometry.length],
            dblock: vec![[0.0; LANES]; n_maps * geometry.length],
            dmaps: vec![Vec::new(); n_maps],
            row: vec![0.0; geometry.h],
        }
    }

    fn resize(&mut self, lanes: SequenceLanes) {
        let maps = [&mut self.dropped_probs, &mut self.ddropped_probs].into_iter().chain(&mut self.dmaps);
        maps.for_each(|map| map.resize(lanes.map_len(), [0.0; LANES]));
    }
}

/// The gradients of the forward pass's inputs from that of its output, by the equations of `attention/mod.rs`.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn backward(
    attention: Attention,
    inputs: AttentionInputs,
    saved: &SavedScores,
    dcontext: ContextGrad,
    into: AttentionGrads,
) {
    let Attention { geometry, dropout, .. } = attention;
    let mut into = into;
    let mut rest = saved.all();
    let mut masks = ScoreMasks::new(geometry, dropout);
    let mut work = Work::new(geometry, inputs.n_maps());
    // The gradient of a sequence's rows, `[keys, 3 H]`.
    let mut drows = Vec::new();
    for (number, &sequence) in inputs.sequences.iter().enumerate() {
        let lanes = geometry.lanes(number, sequence);
        inputs.load(geometry, sequence, &mut work.rows);
        if sequence.n_keys > 1 {
            let own = rest.next(lanes, inputs.n_maps(), |rest, n| rest.split_off(..n));
            work.resize(lanes);
            masks.draw(lanes);
            dropped_probs_grad(geometry, inputs, lanes, dcontext, &mut work);
            scores(attention, inputs, lanes, &masks, own, &mut work, into.fusion);
            side_scores(geometry, inputs, lanes, &work, into.side_scores);
        }
        match &mut into.rows {
            RowGrads::All(into) => {
                zero(&mut drows, work.rows.len());
                first_position(geometry, lanes, dcontext, &mut masks, &mut drows);
                if sequence.n_keys > 1 {
                    queries(geometry, inputs, lanes, &work, &mut drows, &mut []);
                    keys(geometry, inputs, lanes, &work, &mut drows);
                    values(geometry, lanes, dcontext, &mut work, &mut drows);
                } else {
                    single_key(geometry, inputs, lanes, dcontext, &mut masks, &mut drows);
                }
                let (first, others) = drows.split_at(geometry.row_width());
                into.store(sequence.keys.first * first.len(), first);
                into.store(sequence.keys.second * first.len(), others);
            }
            RowGrads::Last { query, query_bias, rows: drows } => {
                if sequence.n_keys > 1 {
                    queries(geometry, inputs, lanes, &work, query, query_bias);
                    rows(geometry, inputs, lanes, dcontext, &mut work, drows);
                } else {
                    let drow = &mut drows[sequence.keys.first * geometry.h..][..geometry.h];
                    drow.fill(0.0);
                    single_key(geometry, inputs, lanes, dcontext, &mut masks, drow);
                    let strides = geometry.query_strides(inputs.sequences);
                    (0..geometry.heads).for_each(|head| query[strides.range(number, head)].fill(0.0));
                    query_bias[number * geometry.heads..][..geometry.heads].fill(0.0);
                }
            }
        }
    }
}

/// A separate first position: its context is its value.
#[inline(always)]
fn first_position(
    geometry: Geometry,
    lanes: SequenceLanes,
    dcontext: ContextGrad,
    masks: &mut ScoreMasks,
    drows: &mut [f32],
) {
    if geometry.first_query() == 0 {
        return;
    }
    let (row, strides) = (lanes.sequence.keys.first, geometry.value_strides());
    for (head, &weight) in masks.single_key(row).iter().enumerate() {
        let dcontext = &dcontext.rows[row * geometry.h + head * strides.width..][..strides.width];
        scale_into(weight, dcontext, &mut drows[strides.range(0, head)]);
    }
}

/// A sequence of a single key, whose probability does not depend on its score: adds to the gradient of its row.
#[inline(always)]
fn single_key(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    dcontext: ContextGrad,
    masks: &mut ScoreMasks,
    drow: &mut [f32],
) {
    let (contexts, values) = (geometry.context_strides(inputs.sequences), geometry.value_strides());
    for query in geometry.queries(lanes) {
        for (head, &weight) in masks.single_key(query.row).iter().enumerate() {
            axpy(weight, &dcontext.rows[contexts.range(query.row, head)], &mut drow[values.range(0, head)]);
        }
    }
}

/// The gradient of the probabilities after dropout, dcontext · value.
#[inline(always)]
fn dropped_probs_grad(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    dcontext: ContextGrad,
    work: &mut Work,
) {
    let SequenceLanes { sequence, .. } = lanes;
    let (heads, width) = (geometry.heads, lanes.width());
    let contexts = HeadRows { data: dcontext.rows, strides: geometry.context_strides(inputs.sequences) };
    let values = HeadRows { data: &work.rows, strides: geometry.value_strides() };
    let ddropped_probs = work.ddropped_probs.as_flattened_mut();
    for (q, query) in geometry.queries(lanes).enumerate() {
        let of_heads = query.row * heads..(query.row + 1) * heads;
        for j in 0..sequence.n_attended {
            let to = &mut ddropped_probs[j * width + q * heads..][..heads];
            dot_per_head(contexts, query.row, values, j, to);
            if let Some(dsums) = dcontext.prob_sums.get(of_heads.clone()) {
                axpy(1.0, dsums, to);
            }
        }
    }
}

/// The gradient of every map through dropout, softmax and fusion: `work.dmaps`. Leaves the probabilities after dropout
/// in `work.dropped_probs`, and adds to the gradient of the fusion's parameters.
#[inline(always)]
fn scores(
    attention: Attention,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    masks: &ScoreMasks,
    saved: SequenceScores<&[Lanes]>,
    work: &mut Work,
    dfusion: &mut [Lanes],
) {
    let SequenceLanes { sequence, blocks, .. } = lanes;
    let (n_maps, keys) = (inputs.n_maps(), sequence.n_keys);
    for block in 0..blocks {
        softmax_block(attention.geometry, lanes, block, masks, saved.probs, work);
        let (dfused, dblock) = (&work.dfused[..keys], &mut work.dblock[..n_maps * keys]);
        let maps = Maps { all: saved.maps, blocks, block, keys };
        attention.fusion.backward(maps, &saved.gates[block * n_maps..][..n_maps], dfused, dblock, dfusion);
        for (dmap, dblock) in work.dmaps.iter_mut().zip(dblock.chunks_exact(keys)) {
            for (to, score) in dmap[block..].iter_mut().step_by(blocks).zip(dblock) {
                *to = *score;
            }
        }
    }
}

/// The gradient of the fused scores of a block: with dp the gradient of the probabilities p, p (dp − Σ p dp) · scale.
#[inline(always)]
fn softmax_block(
    geometry: Geometry,
    lanes: SequenceLanes,
    block: usize,
    masks: &ScoreMasks,
    probs: &[Lanes],
    work: &mut Work,
) {
    let SequenceLanes { sequence, blocks, .. } = lanes;
    let Work { dropped_probs, ddropped_probs, dfused, .. } = work;
    let (scale, dfused) = (geometry.scale(), &mut dfused[..sequence.n_keys]);
    let mut mean = [0.0; LANES];
    dfused.fill([0.0; LANES]);
    for (j, dprob) in dfused[..sequence.n_attended].iter_mut().enumerate() {
        let at = j * blocks + block;
        for lane in 0..LANES {
            dprob[lane] = ddropped_probs[at][lane] * masks.dropout_mask[at][lane];
            dropped_probs[at][lane] = probs[at][lane] * masks.dropout_mask[at][lane];
            mean[lane] += probs[at][lane] * dprob[lane];
        }
    }
    for (j, dprob) in dfused.iter_mut().enumerate() {
        let prob = &probs[j * blocks + block];
        for lane in 0..LANES {
            dprob[lane] = prob[lane] * (dprob[lane] - mean[lane]) * scale;
        }
    }
}

/// Adds to the gradients of attributes and positions.
#[inline(always)]
fn side_scores(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    work: &Work,
    into: &mut [&mut [f32]],
) {
    let SequenceLanes { sequence, .. } = lanes;
    let (heads, width) = (geometry.heads, lanes.width());
    for (q, query) in geometry.queries(lanes).enumerate() {
        for j in 0..sequence.n_keys {
            for (side, (scores, into)) in inputs.side_scores.iter().zip(&mut *into).enumerate() {
                let dmap = work.dmaps[inputs.side_map(side)].as_flattened();
                let dscores = &dmap[j * width + q * heads..][..heads];
                scores.backward(sequence.keys.row(query.position), sequence.keys.row(j), dscores, into);
            }
        }
    }
}

/// dqueryᵢ = Σⱼ dsᵢⱼ keyⱼ.
#[inline(always)]
fn queries(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    work: &Work,
    dquery: &mut [f32],
    dbias: &mut [f32],
) {
    let (query_strides, key_strides) = (geometry.query_strides(inputs.sequences), geometry.key_strides());
    let (heads, stride, count) = (geometry.heads, lanes.width(), lanes.sequence.n_keys);
    let dscores = work.dmaps[inputs.item_map()].as_flattened();
    for head in 0..heads {
        for (q, query) in geometry.queries(lanes).enumerate() {
            let weights = &dscores[q * heads + head..];
            let offset = |j| key_strides.start(j, head);
            WeightedRows { weights, stride, rows: &work.rows, offset, count }
                .sum(&mut dquery[query_strides.range(query.local, head)]);
            if let Some(bias) = dbias.get_mut(query.row * heads + head) {
                *bias = weights.iter().step_by(stride).take(count).sum();
            }
        }
    }
}

/// dvalueⱼ = Σᵢ pᵢⱼ dcontextᵢ; added where the value is that of a separate first position.
#[inline(always)]
fn values(geometry: Geometry, lanes: SequenceLanes, dcontext: ContextGrad, work: &mut Work, drows: &mut [f32]) {
    let (heads, width, strides) = (geometry.heads, lanes.width(), geometry.value_strides());
    let (h, first, count) = (geometry.h, first_query(geometry, lanes), geometry.queries(lanes).count());
    for head in 0..heads {
        for j in 0..lanes.sequence.n_attended {
            let weights = &work.dropped_probs.as_flattened()[j * width + head..];
            let offset = |q| (first.row + q) * h + head * strides.width;
            // From a query to the next.
            let terms = WeightedRows { weights, stride: heads, rows: dcontext.rows, offset, count };
            let to = &mut drows[strides.range(j, head)];
            if j < geometry.first_query() {
                terms.sum(&mut work.row[..to.len()]);
                axpy(1.0, &work.row[..to.len()], to);
            } else {
                terms.sum(to);
            }
        }
    }
}

/// dkeyⱼ = Σᵢ dsᵢⱼ queryᵢ.
#[inline(always)]
fn keys(geometry: Geometry, inputs: AttentionInputs, lanes: SequenceLanes, work: &Work, drows: &mut [f32]) {
    let (query_strides, key_strides) = (geometry.query_strides(inputs.sequences), geometry.key_strides());
    let (heads, width) = (geometry.heads, lanes.width());
    let (first, count) = (first_query(geometry, lanes), geometry.queries(lanes).count());
    let dscores = work.dmaps[inputs.item_map()].as_flattened();
    for head in 0..heads {
        for j in 0..lanes.sequence.n_keys {
            let weights = &dscores[j * width + head..];
            let offset = |q| query_strides.start(first.local + q, head);
            WeightedRows { weights, stride: heads, rows: &work.rows, offset, count }
                .sum(&mut drows[key_strides.range(j, head)]);
        }
    }
}

/// The gradient of a row that is key and value of one absorbed query: Σ over the heads of ds · query + p · dcontext.
#[inline(always)]
fn rows(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    dcontext: ContextGrad,
    work: &mut Work,
    drows: &mut [f32],
) {
    let SequenceLanes { sequence, number, .. } = lanes;
    let (h, width, strides) = (geometry.h, lanes.width(), geometry.query_strides(inputs.sequences));
    let offset = |head| strides.start(number, head);
    let by_head = |weights, rows| WeightedRows { weights, stride: 1, rows, offset, count: geometry.heads };
    let (weights, dscores) = (work.dropped_probs.as_flattened(), work.dmaps[inputs.item_map()].as_flattened());
    for j in 0..sequence.n_keys {
        let to = &mut drows[sequence.keys.row(j) * h..][..h];
        by_head(&dscores[j * width..], inputs.query).sum(to);
        if j < sequence.n_attended {
            by_head(&weights[j * width..], dcontext.rows).sum(&mut work.row);
            axpy(1.0, &work.row, to);
        }
    }
}

/// The first query of a sequence of several keys.
#[inline(always)]
fn first_query(geometry: Geometry, lanes: SequenceLanes) -> Query {
    geometry.queries(lanes).next().expect("a sequence of several keys has a query")
}
