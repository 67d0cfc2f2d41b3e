//! The backward pass: the gradient of probabilities, softmax, fusion, then of side streams, queries, keys and values.

use super::forward::dot_per_head;
use super::fusion::Maps;
use super::geometry::{Geometry, Queries, SequenceLanes};
use super::inputs::{Attention, AttentionGrads, AttentionInputs, ContextGrad, HeadRows, SavedScores, SequenceScores};
use super::mask::ScoreMasks;
use crate::fast::cpu::ops::simd::{LANES, Lanes, WeightedRows, axpy, scale_into};

/// Memory of a thread.
struct Work {
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
    first_positions(geometry, dcontext, &mut masks, &mut into);
    for (number, &sequence) in inputs.sequences.iter().enumerate() {
        let lanes = geometry.lanes(number, sequence);
        if sequence.n_keys == 1 {
            single_key(geometry, inputs, lanes, dcontext, &mut masks, &mut into);
            continue;
        }
        let own = rest.next(lanes, inputs.n_maps(), |rest, n| rest.split_off(..n));
        work.resize(lanes);
        masks.draw(lanes);
        dropped_probs_grad(geometry, inputs, lanes, dcontext, &mut work);
        scores(attention, inputs, lanes, &masks, own, &mut work, &mut into);
        side_scores(geometry, inputs, lanes, &work, &mut into);
        queries(geometry, inputs, lanes, &work, &mut into);
        match geometry.queries {
            Queries::All => {
                values(geometry, lanes, dcontext, &mut work, &mut into);
                keys(geometry, inputs, lanes, &work, &mut into);
            }
            Queries::Last => rows(geometry, inputs, lanes, dcontext, &mut work, &mut into),
        }
    }
}

/// Separate first positions: their context is their value.
#[inline(always)]
fn first_positions(geometry: Geometry, dcontext: ContextGrad, masks: &mut ScoreMasks, into: &mut AttentionGrads) {
    let strides = geometry.key_strides();
    for row in geometry.first_positions() {
        for (head, &weight) in masks.single_key(row).iter().enumerate() {
            let range = strides.range(row, head);
            scale_into(weight, &dcontext.rows[range.clone()], &mut into.value[range]);
        }
    }
}

/// A sequence of a single key, whose probability does not depend on its score.
#[inline(always)]
fn single_key(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    dcontext: ContextGrad,
    masks: &mut ScoreMasks,
    into: &mut AttentionGrads,
) {
    let (query_strides, key_strides) = (geometry.query_strides(inputs.sequences), geometry.key_strides());
    let (h, heads, sequence) = (geometry.h, geometry.heads, lanes.sequence);
    let value = sequence.keys.first;
    into.key[sequence.keys.first * h..][..h].fill(0.0);
    for query in geometry.queries(lanes) {
        let dvalue = match geometry.queries {
            Queries::All => &mut *into.value,
            Queries::Last => &mut *into.key,
        };
        dvalue[value * h..][..h].fill(0.0);
        for (head, &weight) in masks.single_key(query.row).iter().enumerate() {
            let dcontext = &dcontext.rows[query_strides.range(query.row, head)];
            axpy(weight, dcontext, &mut dvalue[key_strides.range(value, head)]);
            into.query[query_strides.range(geometry.query_row(query.row), head)].fill(0.0);
        }
        let of_heads = query.row * heads..(query.row + 1) * heads;
        if let Some(bias) = into.query_bias.get_mut(of_heads) {
            bias.fill(0.0);
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
    let contexts = HeadRows { data: dcontext.rows, strides: geometry.query_strides(inputs.sequences) };
    let value_rows = HeadRows { data: inputs.value, strides: geometry.key_strides() };
    let ddropped_probs = work.ddropped_probs.as_flattened_mut();
    for (q, query) in geometry.queries(lanes).enumerate() {
        let of_heads = query.row * heads..(query.row + 1) * heads;
        for j in 0..sequence.n_attended {
            let to = &mut ddropped_probs[j * width + q * heads..][..heads];
            dot_per_head(contexts, query.row, value_rows, sequence.keys.row(j), to);
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
    into: &mut AttentionGrads,
) {
    let SequenceLanes { sequence, blocks, .. } = lanes;
    let (n_maps, keys) = (inputs.n_maps(), sequence.n_keys);
    for block in 0..blocks {
        softmax_block(attention.geometry, lanes, block, masks, saved.probs, work);
        let (dfused, dblock) = (&work.dfused[..keys], &mut work.dblock[..n_maps * keys]);
        let maps = Maps { all: saved.maps, blocks, block, keys };
        attention.fusion.backward(maps, &saved.gates[block * n_maps..][..n_maps], dfused, dblock, into.fusion);
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
    into: &mut AttentionGrads,
) {
    let SequenceLanes { sequence, .. } = lanes;
    let (heads, width) = (geometry.heads, lanes.width());
    for (q, query) in geometry.queries(lanes).enumerate() {
        for j in 0..sequence.n_keys {
            for (side, (scores, into)) in inputs.side_scores.iter().zip(&mut *into.side_scores).enumerate() {
                let dmap = work.dmaps[inputs.side_map(side)].as_flattened();
                let dscores = &dmap[j * width + q * heads..][..heads];
                scores.backward(sequence.keys.row(query.position), sequence.keys.row(j), dscores, into);
            }
        }
    }
}

/// dqueryᵢ = Σⱼ dsᵢⱼ keyⱼ.
#[inline(always)]
fn queries(geometry: Geometry, inputs: AttentionInputs, lanes: SequenceLanes, work: &Work, into: &mut AttentionGrads) {
    let SequenceLanes { sequence, .. } = lanes;
    let (query_strides, key_strides) = (geometry.query_strides(inputs.sequences), geometry.key_strides());
    let (heads, stride, count) = (geometry.heads, lanes.width(), sequence.n_keys);
    let dscores = work.dmaps[inputs.item_map()].as_flattened();
    for head in 0..heads {
        for (q, query) in geometry.queries(lanes).enumerate() {
            let weights = &dscores[q * heads + head..];
            let offset = |j| key_strides.start(sequence.keys.row(j), head);
            WeightedRows { weights, stride, rows: inputs.key, offset, count }
                .sum(&mut into.query[query_strides.range(geometry.query_row(query.row), head)]);
            if let Some(bias) = into.query_bias.get_mut(query.row * heads + head) {
                *bias = weights.iter().step_by(stride).take(count).sum();
            }
        }
    }
}

/// dvalueⱼ = Σᵢ pᵢⱼ dcontextᵢ; added where the value is that of a separate first position.
#[inline(always)]
fn values(geometry: Geometry, lanes: SequenceLanes, dcontext: ContextGrad, work: &mut Work, into: &mut AttentionGrads) {
    let SequenceLanes { sequence, .. } = lanes;
    let (heads, width, strides) = (geometry.heads, lanes.width(), geometry.key_strides());
    let (first, count) = (first_row(geometry, lanes), n_queries(geometry, lanes));
    for j in sequence.n_attended..sequence.n_keys {
        into.value[sequence.keys.row(j) * geometry.h..][..geometry.h].fill(0.0);
    }
    for head in 0..heads {
        for j in 0..sequence.n_attended {
            let weights = &work.dropped_probs.as_flattened()[j * width + head..];
            let offset = |q| strides.start(first + q, head);
            // From a query to the next.
            let terms = WeightedRows { weights, stride: heads, rows: dcontext.rows, offset, count };
            let to = &mut into.value[strides.range(sequence.keys.row(j), head)];
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
fn keys(geometry: Geometry, inputs: AttentionInputs, lanes: SequenceLanes, work: &Work, into: &mut AttentionGrads) {
    let SequenceLanes { sequence, .. } = lanes;
    let (heads, width, strides) = (geometry.heads, lanes.width(), geometry.key_strides());
    let (first, count) = (geometry.query_row(first_row(geometry, lanes)), n_queries(geometry, lanes));
    let dscores = work.dmaps[inputs.item_map()].as_flattened();
    for head in 0..heads {
        for j in 0..sequence.n_keys {
            let weights = &dscores[j * width + head..];
            let offset = |q| strides.start(first + q, head);
            WeightedRows { weights, stride: heads, rows: inputs.query, offset, count }
                .sum(&mut into.key[strides.range(sequence.keys.row(j), head)]);
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
    into: &mut AttentionGrads,
) {
    let SequenceLanes { sequence, .. } = lanes;
    let (h, width, strides) = (geometry.h, lanes.width(), geometry.query_strides(inputs.sequences));
    let first = first_row(geometry, lanes);
    let offset = |head| strides.start(first, head);
    let by_head = |weights, rows| WeightedRows { weights, stride: 1, rows, offset, count: geometry.heads };
    let (weights, dscores) = (work.dropped_probs.as_flattened(), work.dmaps[inputs.item_map()].as_flattened());
    for j in 0..sequence.n_keys {
        let to = &mut into.key[sequence.keys.row(j) * h..][..h];
        by_head(&dscores[j * width..], inputs.query).sum(to);
        if j < sequence.n_attended {
            by_head(&weights[j * width..], dcontext.rows).sum(&mut work.row);
            axpy(1.0, &work.row, to);
        }
    }
}

/// The row of a sequence's first query among the contexts.
#[inline(always)]
fn first_row(geometry: Geometry, lanes: SequenceLanes) -> usize {
    geometry.queries(lanes).next().map_or(0, |query| query.row)
}

#[inline(always)]
fn n_queries(geometry: Geometry, lanes: SequenceLanes) -> usize {
    geometry.queries(lanes).count()
}
