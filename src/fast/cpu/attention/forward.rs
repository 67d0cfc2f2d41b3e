//! The forward pass: side scores and item scores, fusion, softmax, dropout, weighted sum of values.

use super::fusion::Maps;
use super::geometry::{Geometry, SequenceLanes};
use super::inputs::{Attention, AttentionInputs, Context, HeadRows, SavedScores, SequenceScores};
use super::mask::{MASKED, ScoreMasks};
use crate::fast::cpu::gemm::OperandBuffer;
use crate::fast::cpu::ops::simd::{LANES, Lanes, WeightedRows, axpy, dot, dot_heads, scale_into};
use crate::fast::cpu::ops::softmax::softmax;

/// Memory of a thread.
struct Work {
    /// Query, key and value of a sequence's rows, `[keys, 3 H]`, in the last layer the rows, `[keys, H]`.
    rows: Vec<f32>,
    /// The contexts of a sequence, `[keys, H]`.
    context: Vec<f32>,
    /// The fused scores of a block, then its probabilities, `[keys]`.
    fused: Vec<Lanes>,
    /// Probabilities after dropout, `[keys, blocks]`.
    dropped_probs: Vec<Lanes>,
}

/// The context of every query and head, by the equations of `attention/mod.rs`; keeps the scores for the backward pass.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn forward(attention: Attention, inputs: AttentionInputs, saved: &mut SavedScores, out: Context) {
    let Attention { geometry, dropout, .. } = attention;
    let mut out = out;
    saved.resize(geometry, inputs);
    let mut rest = saved.all_mut();
    let mut masks = ScoreMasks::new(geometry, dropout);
    let fused = vec![[0.0; LANES]; geometry.length];
    let mut work = Work { rows: Vec::new(), context: Vec::new(), fused, dropped_probs: Vec::new() };
    if let Context::All(out) = &mut out {
        first_positions(geometry, inputs, &mut masks, &mut work, out);
    }
    for (number, &sequence) in inputs.sequences.iter().enumerate() {
        let lanes = geometry.lanes(number, sequence);
        let Some(first) = geometry.queries(lanes).next() else { continue };
        inputs.load(geometry, sequence, &mut work.rows);
        if sequence.n_keys > 1 {
            let own = rest.next(lanes, inputs.n_maps(), |rest, n| rest.split_off_mut(..n));
            masks.draw(lanes);
            side_scores(geometry, inputs, lanes, own.maps);
            item_scores(geometry, inputs, lanes, &work.rows, own.maps);
            probabilities(attention, inputs, lanes, &masks, own, &mut work);
        }
        let Work { rows, context, dropped_probs, .. } = &mut work;
        let (to, prob_sums) = match &mut out {
            Context::All(_) => {
                context.resize(sequence.n_keys * geometry.h, 0.0);
                (&mut context[..], &mut [][..])
            }
            Context::Last { rows, prob_sums } => (&mut **rows, &mut **prob_sums),
        };
        match sequence.n_keys {
            1 => single_key(geometry, inputs, lanes, rows, &mut masks, to, prob_sums),
            _ => weighted_values(geometry, inputs, lanes, rows, dropped_probs, to, prob_sums),
        }
        if let Context::All(out) = &mut out {
            out.store(first.row * geometry.h, &context[first.local * geometry.h..]);
        }
    }
}

/// Separate first positions: their only key is themselves, so that their context is their value.
#[inline(always)]
fn first_positions(
    geometry: Geometry,
    inputs: AttentionInputs,
    masks: &mut ScoreMasks,
    work: &mut Work,
    out: &mut OperandBuffer,
) {
    let (h, strides) = (geometry.h, geometry.value_strides());
    let Work { rows: value, context, .. } = work;
    [&mut *value, &mut *context].into_iter().for_each(|row| row.resize(h, 0.0));
    for row in 0..geometry.n_first {
        inputs.rows.load(strides.start(row, 0), value);
        let heads = context.chunks_exact_mut(strides.width).zip(value.chunks_exact(strides.width));
        heads.zip(masks.single_key(row)).for_each(|((context, value), &weight)| scale_into(weight, value, context));
        out.store(row * h, context);
    }
}

/// A sequence of a single key, which has the whole probability whatever its score.
#[inline(always)]
fn single_key(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    rows: &[f32],
    masks: &mut ScoreMasks,
    out: &mut [f32],
    prob_sums: &mut [f32],
) {
    let (contexts, values) = (geometry.context_strides(inputs.sequences), geometry.value_strides());
    for query in geometry.queries(lanes) {
        for (head, &weight) in masks.single_key(query.row).iter().enumerate() {
            let to = &mut out[contexts.range(query.local, head)];
            scale_into(weight, &rows[values.range(0, head)], to);
            if let Some(sum) = prob_sums.get_mut(query.row * geometry.heads + head) {
                *sum = weight;
            }
        }
    }
}

/// The maps of attributes and positions. All look-ups are made at once, so that memory answers them at once.
#[inline(always)]
fn side_scores(geometry: Geometry, inputs: AttentionInputs, lanes: SequenceLanes, maps: &mut [Lanes]) {
    let SequenceLanes { sequence, .. } = lanes;
    let (heads, width, size) = (geometry.heads, lanes.width(), lanes.map_len() * LANES);
    let maps = maps.as_flattened_mut();
    for (side, scores) in inputs.side_scores.iter().enumerate() {
        let map = &mut maps[inputs.side_map(side) * size..][..size];
        for (q, query) in geometry.queries(lanes).enumerate() {
            for j in 0..sequence.n_keys {
                let to = &mut map[j * width + q * heads..][..heads];
                scores.forward(sequence.keys.row(query.position), sequence.keys.row(j), to);
            }
        }
    }
}

/// The item's map: query · key.
#[inline(always)]
fn item_scores(geometry: Geometry, inputs: AttentionInputs, lanes: SequenceLanes, rows: &[f32], maps: &mut [Lanes]) {
    let SequenceLanes { sequence, .. } = lanes;
    let (heads, width) = (geometry.heads, lanes.width());
    let queries = HeadRows::queries(geometry, inputs, rows);
    let keys = HeadRows { data: rows, strides: geometry.key_strides() };
    let map = &mut maps.as_flattened_mut()[inputs.item_map() * lanes.map_len() * LANES..];
    for (q, query) in geometry.queries(lanes).enumerate() {
        let of_heads = query.row * heads..(query.row + 1) * heads;
        for j in 0..sequence.n_keys {
            let to = &mut map[j * width + q * heads..][..heads];
            dot_per_head(queries, query.local, keys, j, to);
            // q · b_K; empty unless queries are absorbed.
            if let Some(bias) = inputs.query_bias.get(of_heads.clone()) {
                axpy(1.0, bias, to);
            }
        }
    }
}

/// Fuses the maps, scales, masks, takes the softmax, and drops: `saved.probs` and `work.dropped_probs`.
#[inline(always)]
fn probabilities(
    attention: Attention,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    masks: &ScoreMasks,
    saved: SequenceScores<&mut [Lanes]>,
    work: &mut Work,
) {
    let SequenceLanes { sequence, blocks, .. } = lanes;
    let (scale, n_maps, keys) = (attention.geometry.scale(), inputs.n_maps(), sequence.n_keys);
    work.dropped_probs.resize(lanes.map_len(), [0.0; LANES]);
    for block in 0..blocks {
        let fused = &mut work.fused[..keys];
        let maps = Maps { all: saved.maps, blocks, block, keys };
        attention.fusion.forward(maps, &mut saved.gates[block * n_maps..][..n_maps], fused);
        for (j, score) in fused.iter_mut().enumerate() {
            let mask = if j < sequence.len { masks.causal[j * blocks + block] } else { [MASKED; LANES] };
            for lane in 0..LANES {
                score[lane] = score[lane] * scale + mask[lane];
            }
        }
        softmax(fused);
        for (j, prob) in fused.iter().enumerate() {
            let at = j * blocks + block;
            saved.probs[at] = *prob;
            let (dropped, mask) = (&mut work.dropped_probs[at], &masks.dropout_mask[at]);
            for lane in 0..LANES {
                dropped[lane] = prob[lane] * mask[lane];
            }
        }
    }
}

/// The context: Σⱼ weightⱼ valueⱼ over the keys that have a probability.
#[inline(always)]
fn weighted_values(
    geometry: Geometry,
    inputs: AttentionInputs,
    lanes: SequenceLanes,
    rows: &[f32],
    weights: &[Lanes],
    out: &mut [f32],
    prob_sums: &mut [f32],
) {
    let SequenceLanes { sequence, .. } = lanes;
    let (contexts, values) = (geometry.context_strides(inputs.sequences), geometry.value_strides());
    let stride = lanes.width();
    for (q, query) in geometry.queries(lanes).enumerate() {
        for head in 0..geometry.heads {
            let weights = &weights.as_flattened()[q * geometry.heads + head..];
            let offset = |j| values.start(j, head);
            WeightedRows { weights, stride, rows, offset, count: sequence.n_attended }
                .sum(&mut out[contexts.range(query.local, head)]);
            if let Some(sum) = prob_sums.get_mut(query.row * geometry.heads + head) {
                *sum = weights.iter().step_by(stride).take(sequence.n_attended).sum();
            }
        }
    }
}

/// The dot product of row i of a with row j of b in every head. Where the heads of b share one row, it is as wide as a
/// row of a in one head.
///
/// # Shapes
/// out `[heads]`
#[inline(always)]
pub fn dot_per_head(a: HeadRows, i: usize, b: HeadRows, j: usize, out: &mut [f32]) {
    if b.strides.head == b.strides.width {
        let width = out.len() * b.strides.width;
        dot_heads(&a.data[a.strides.start(i, 0)..][..width], &b.data[b.strides.start(j, 0)..][..width], out);
    } else {
        let b = &b.data[b.strides.range(j, 0)];
        for (head, out) in out.iter_mut().enumerate() {
            *out = dot(&a.data[a.strides.range(i, head)], b);
        }
    }
}
