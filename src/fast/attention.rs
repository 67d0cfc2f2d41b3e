//! Fused attention between the products of a layer, sequence by sequence, forward and backward.

use super::fusion::{Fusion, FusionGrad};
use super::kernels::{axpy, axpy_padded, combine, dot_padded, softmax_padded};
use super::norm::Drops;

/// A sequence of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    /// Its first row.
    pub start: usize,
    /// Its rows: L, or its true items alone.
    pub rows: usize,
    /// Its true items, 1 to L.
    pub items: usize,
    /// Its first row among the values, and how many it has there: probabilities of later keys are exactly 0.
    pub values: usize,
    pub valued: usize,
}

/// The queries of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queries {
    /// Every row.
    All,
    /// The last true item of each sequence.
    Last,
}

/// One layer's attention: what does not change within a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention<'a> {
    pub heads: usize,
    /// L.
    pub length: usize,
    /// The floats of a row of scores, P.
    pub padded: usize,
    pub queries: Queries,
    pub fusion: &'a Fusion,
    /// `[heads, L, P]`: the same for every sequence.
    pub position: &'a [f32],
    pub drops: Drops<'a>,
}

/// The streams of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams<'a> {
    pub sequences: &'a [Sequence],
    /// `[queries, H]`
    pub query: &'a [f32],
    /// `[rows, H]`
    pub key: &'a [f32],
    /// `[valued rows, H]`
    pub value: &'a [f32],
    pub attributes: &'a [AttributeRows],
    /// The distinct item of every row.
    pub distinct: &'a [u32],
}

/// Queries and keys of an attribute, or their gradient.
#[derive(Debug, Default)]
pub(super) struct AttributeRows {
    /// `[distinct items, 2 dᵢ]`: queries, then keys.
    pub rows: Vec<f32>,
    /// dᵢ.
    pub size: usize,
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Default)]
pub(super) struct Scores {
    /// Attributes and item, `[queries, heads, maps − 1, P]`.
    maps: Vec<f32>,
    /// The gate's, `[queries, heads, maps]`.
    weights: Vec<f32>,
    /// After the softmax, before dropout, `[queries, heads, P]`.
    probs: Vec<f32>,
}

/// Gradients that the backward pass adds to.
#[derive(Debug)]
pub(super) struct Gradients<'a> {
    /// `[queries, H]`
    pub query: &'a mut [f32],
    /// `[rows, H]`
    pub key: &'a mut [f32],
    /// `[valued rows, H]`
    pub value: &'a mut [f32],
    pub attributes: &'a mut [AttributeRows],
    /// `[heads, L, P]`
    pub position: &'a mut [f32],
    pub fusion: &'a mut FusionGrad,
}

/// Added to the scores of padded and future keys, as in the reference.
const MASKED: f32 = -10_000.0;

impl AttributeRows {
    /// Where the query (0) or the key (1) of an item and a head lies.
    #[inline(always)]
    fn at(&self, item: u32, which: usize, head: usize, heads: usize) -> std::ops::Range<usize> {
        let size = self.size / heads;
        let start = (2 * item as usize + which) * self.size + head * size;
        start..start + size
    }
}

impl Attention<'_> {
    /// Of a sequence with its number in the chunk: the rows of its queries, and their positions.
    #[inline(always)]
    fn queries(self, number: usize, sequence: Sequence) -> impl Iterator<Item = (usize, usize)> {
        match self.queries {
            Queries::All => (sequence.start..sequence.start + sequence.rows).zip(0..sequence.rows),
            Queries::Last => (number..number + 1).zip(sequence.items - 1..sequence.items),
        }
    }

    /// The position stream's scores of a query.
    #[inline(always)]
    fn position(&self, head: usize, i: usize) -> std::ops::Range<usize> {
        let start = (head * self.length + i) * self.padded;
        start..start + self.padded
    }
}

/// `context` = Σⱼ dropout(p)ⱼ valueⱼ for every query and head.
///
/// # Shapes
/// context `[queries, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn forward(attention: Attention, streams: Streams, scores: &mut Scores, context: &mut [f32]) {
    let Attention { heads, padded: p, fusion, drops, .. } = attention;
    let Streams { sequences, query, key, value, attributes, distinct } = streams;
    let maps = attributes.len() + 2;
    let h = key.len() / distinct.len();
    let d = h / heads;
    let scale = 1.0 / (d as f32).sqrt();
    let n = query.len() / h;
    scores.maps.clear();
    scores.maps.resize(n * heads * (maps - 1) * p, 0.0);
    scores.weights.resize(n * heads * maps, 0.0);
    scores.probs.resize(n * heads * p, 0.0);
    context.fill(0.0);
    let (mut masks, mut scratch) = (vec![1.0; attention.length * heads * p], vec![0.0; p]);
    let mut keys: Vec<Vec<f32>> =
        attributes.iter().map(|a| a.size / heads).chain([d]).map(|d| vec![0.0; d * p]).collect();
    for (number, &sequence) in sequences.iter().enumerate() {
        let rows = sequence.start..sequence.start + sequence.rows;
        for ((row, _), mask) in attention.queries(number, sequence).zip(masks.chunks_exact_mut(heads * p)) {
            drops.mask(row, mask);
        }
        for head in 0..heads {
            let own = head * d..(head + 1) * d;
            let (item_keys, attribute_keys) = keys.split_last_mut().expect("the item's keys come last");
            for (attribute, keys) in attributes.iter().zip(&mut *attribute_keys) {
                let keys_of = distinct[rows.clone()].iter().map(|&item| attribute.at(item, 1, head, heads));
                transpose(keys_of.map(|at| &attribute.rows[at]), keys, p);
            }
            transpose(rows.clone().map(|row| &key[row * h..][own.clone()]), item_keys, p);
            for ((row, i), mask) in attention.queries(number, sequence).zip(masks.chunks_exact(heads * p)) {
                let at = row * heads + head;
                let map = &mut scores.maps[at * (maps - 1) * p..][..(maps - 1) * p];
                for ((attribute, keys), map) in attributes.iter().zip(&*attribute_keys).zip(map.chunks_exact_mut(p)) {
                    let q = attribute.at(distinct[sequence.start + i], 0, head, heads);
                    combine(&attribute.rows[q], keys, map);
                }
                combine(&query[row * h..][own.clone()], item_keys, &mut map[(maps - 2) * p..]);
                let position = &attention.position[attention.position(head, i)];
                let probs = &mut scores.probs[at * p..][..p];
                fusion.forward(map, position, &mut scores.weights[at * maps..][..maps], probs, &mut scratch);
                for (j, score) in probs[..sequence.rows].iter_mut().enumerate() {
                    *score = *score * scale + if j > i || j >= sequence.items { MASKED } else { 0.0 };
                }
                probs[sequence.rows..].fill(f32::NEG_INFINITY);
                softmax_padded(probs);
                let context = &mut context[row * h..][own.clone()];
                for j in 0..sequence.valued {
                    let weight = probs[j] * mask[head * p + j];
                    if weight != 0.0 {
                        axpy(weight, &value[(sequence.values + j) * h..][own.clone()], context);
                    }
                }
            }
        }
    }
}

/// Lays rows side by side as columns: `[n, d]` → `[d, P]`.
#[inline(always)]
fn transpose<'a>(rows: impl Iterator<Item = &'a [f32]>, columns: &mut [f32], p: usize) {
    columns.fill(0.0);
    for (j, row) in rows.enumerate() {
        row.iter().zip(columns.chunks_exact_mut(p)).for_each(|(&x, column)| column[j] = x);
    }
}

/// The gradients of the streams, the position scores and the fusion from that of the context.
///
/// # Shapes
/// dcontext `[queries, H]`
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn backward(attention: Attention, streams: Streams, scores: &Scores, dcontext: &[f32], into: Gradients) {
    let Attention { heads, padded: p, fusion, drops, .. } = attention;
    let Streams { sequences, query, key, value, attributes, distinct } = streams;
    let maps = attributes.len() + 2;
    let h = key.len() / distinct.len();
    let d = h / heads;
    let scale = 1.0 / (d as f32).sqrt();
    let (mut masks, mut scratch) = (vec![1.0; attention.length * heads * p], vec![0.0; p]);
    let (mut dfused, mut dmaps, mut values) = (vec![0.0; p], vec![0.0; maps * p], vec![0.0; d * p]);
    for (number, &sequence) in sequences.iter().enumerate() {
        let rows = sequence.start..sequence.start + sequence.rows;
        let value_rows = sequence.values..sequence.values + sequence.valued;
        for ((row, _), mask) in attention.queries(number, sequence).zip(masks.chunks_exact_mut(heads * p)) {
            drops.mask(row, mask);
        }
        for head in 0..heads {
            let own = head * d..(head + 1) * d;
            transpose(value_rows.clone().map(|row| &value[row * h..][own.clone()]), &mut values, p);
            for ((row, i), mask) in attention.queries(number, sequence).zip(masks.chunks_exact(heads * p)) {
                let at = row * heads + head;
                let (probs, map) =
                    (&scores.probs[at * p..][..p], &scores.maps[at * (maps - 1) * p..][..(maps - 1) * p]);
                let (mask, dcontext) = (&mask[head * p..][..p], &dcontext[row * h..][own.clone()]);
                for (j, row) in value_rows.clone().enumerate() {
                    let weight = probs[j] * mask[j];
                    if weight != 0.0 {
                        axpy(weight, dcontext, &mut into.value[row * h..][own.clone()]);
                    }
                }
                dfused.fill(0.0);
                combine(dcontext, &values, &mut dfused);
                dfused.iter_mut().zip(mask).for_each(|(grad, m)| *grad *= m);
                let mean = dot_padded(probs, &dfused);
                for (grad, prob) in dfused.iter_mut().zip(probs) {
                    *grad = prob * (*grad - mean) * scale;
                }
                let position = attention.position(head, i);
                let weights = &scores.weights[at * maps..][..maps];
                let map = (map, &attention.position[position.clone()]);
                fusion.backward(map, weights, &dfused, &mut dmaps, into.fusion, &mut scratch);
                axpy_padded(1.0, &dmaps[(maps - 1) * p..], &mut into.position[position]);

                for ((attribute, grad), dmap) in attributes.iter().zip(&mut *into.attributes).zip(dmaps.chunks_exact(p))
                {
                    let q = attribute.at(distinct[sequence.start + i], 0, head, heads);
                    for (row, &dscore) in rows.clone().zip(dmap) {
                        let k = attribute.at(distinct[row], 1, head, heads);
                        axpy(dscore, &attribute.rows[k.clone()], &mut grad.rows[q.clone()]);
                        axpy(dscore, &attribute.rows[q.clone()], &mut grad.rows[k]);
                    }
                }
                let (q, dq) = (&query[row * h..][own.clone()], &mut into.query[row * h..][own.clone()]);
                for (row, &dscore) in rows.clone().zip(&dmaps[(maps - 2) * p..]) {
                    let k = row * h + own.start..row * h + own.end;
                    axpy(dscore, &key[k.clone()], dq);
                    axpy(dscore, q, &mut into.key[k]);
                }
            }
        }
    }
}
