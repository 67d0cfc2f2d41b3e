//! Fused attention between the products of a layer, sequence by sequence, forward and backward.
//!
//! What is done to single scores goes side by side for all queries and heads of a sequence: lane i · heads + n is query i in
//! head n, and a score map is `[keys, lanes]`.

pub mod absorbed;
pub mod fusion;
pub mod geometry;
pub mod mask;
pub mod score_table;
pub mod side_scores;

use self::fusion::{Fusion, Maps, softmax};
use self::geometry::{HeadStrides, Queries, Sequence};
use self::mask::{MASKED, Masks};
use self::side_scores::SideScores;
use crate::fast::cpu::ops::layer_norm::RowDropout;
use crate::fast::cpu::ops::simd::{LANES, Lanes, WeightedRows, axpy, dot, dot_heads, scale_into};

/// One layer's attention: what does not change within a batch.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// H.
    pub h: usize,
    pub heads: usize,
    /// L.
    pub length: usize,
    pub queries: Queries,
    /// How many rows, before all others, are first positions: they see themselves alone, and ask for nothing.
    pub firsts: usize,
    pub fusion: Fusion<'a>,
    pub drops: RowDropout<'a>,
}

/// The streams of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    pub sequences: &'a [Sequence],
    /// `[queries, H]`, of the rows behind the first positions; or lifted, `[heads, queries, H]`.
    pub query: &'a [f32],
    /// Added to the item's scores of a query, `[queries, heads]`; empty where keys are.
    pub offsets: &'a [f32],
    /// `[rows, H]`; of lifted queries the rows themselves.
    pub key: &'a [f32],
    /// `[valued rows, H]`; of lifted queries the rows themselves, all of them.
    pub value: &'a [f32],
    /// Of the attributes and of the position; none where these enter the input.
    pub tables: &'a [SideScores<'a>],
}

/// What the forward pass leaves for the backward pass: of each sequence, in blocks of lanes, by its keys.
#[derive(Debug, Default)]
pub struct Scores {
    /// Attributes, item and position, `[maps, keys, blocks]`.
    maps: Vec<Lanes>,
    /// The gate's, `[blocks, maps]`.
    gates: Vec<Lanes>,
    /// After the softmax, before dropout, `[keys, blocks]`.
    probs: Vec<Lanes>,
}

/// AttentionGrads: those of the streams are written, the others are added to.
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    /// As the queries are.
    pub query: &'a mut [f32],
    pub offsets: &'a mut [f32],
    /// `[rows, H]`; of lifted queries that of the rows, as keys and as values.
    pub key: &'a mut [f32],
    /// `[valued rows, H]`; empty with lifted queries.
    pub value: &'a mut [f32],
    /// Of every table's scores or sides.
    pub tables: &'a mut [&'a mut [f32]],
    /// Of the fusion's parameters, one after the other.
    pub fusion: &'a mut [Lanes],
}

/// `context` = Σⱼ dropout(p)ⱼ valueⱼ for every query and head, and `sums` = Σⱼ dropout(p)ⱼ where queries are lifted.
///
/// # Shapes
/// context as the queries, sums `[queries, heads]` or empty
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn forward(
    attention: Attention,
    streams: AttentionInputs,
    scores: &mut Scores,
    context: &mut [f32],
    sums: &mut [f32],
) {
    let Attention { h, heads, length, fusion, .. } = attention;
    let AttentionInputs { sequences, query, offsets, key, value, tables } = streams;
    let (asking, seen) = (attention.asking(sequences), attention.seen());
    let maps = tables.len() + 1;
    let scale = 1.0 / ((h / heads) as f32).sqrt();
    scores.resize(attention, sequences, maps);
    let mut rest = (&mut scores.maps[..], &mut scores.gates[..], &mut scores.probs[..]);
    let mut masks = Masks::new(attention);
    let (mut fused, mut weights) = (vec![[0.0; LANES]; length], Vec::new());
    for row in attention.alone() {
        for (head, &weight) in masks.single(attention, row).iter().enumerate() {
            let place = seen.of(row, head);
            scale_into(weight, &value[place.clone()], &mut context[place]);
        }
    }
    for (number, &sequence) in sequences.iter().enumerate() {
        let (keys, blocks) = (sequence.rows, attention.blocks(sequence));
        let values = attention.values(sequence);
        if keys == 1 {
            for (row, _) in attention.queries(number, sequence) {
                for (head, &weight) in masks.single(attention, row).iter().enumerate() {
                    scale_into(weight, &value[seen.of(values.first, head)], &mut context[asking.of(row, head)]);
                    if let Some(sum) = sums.get_mut(row * heads + head) {
                        *sum = weight;
                    }
                }
            }
            continue;
        }
        let width = blocks * LANES;
        let own = rest.0.split_off_mut(..maps * keys * blocks).expect("as resized");
        let gates = rest.1.split_off_mut(..blocks * maps).expect("as resized");
        let probs = rest.2.split_off_mut(..keys * blocks).expect("as resized");
        weights.resize(keys * blocks, [0.0; LANES]);
        masks.draw(attention, number, sequence);
        let flat = own.as_flattened_mut();
        // All look-ups at once, so that the memory answers to them at once.
        for (t, table) in tables.iter().enumerate() {
            let map = &mut flat[place(t, tables) * keys * width..][..keys * width];
            for (q, (_, i)) in attention.queries(number, sequence).enumerate() {
                for j in 0..keys {
                    let to = &mut map[j * width + q * heads..][..heads];
                    table.score(sequence.keys.row(i), sequence.keys.row(j), to);
                }
            }
        }
        for (q, (row, _)) in attention.queries(number, sequence).enumerate() {
            let of_heads = row * heads..(row + 1) * heads;
            for j in 0..keys {
                let to = &mut flat[(item(tables) * keys + j) * width + q * heads..][..heads];
                dot_per_head((query, asking, attention.query(row)), (key, seen, sequence.keys.row(j)), to);
                offsets.get(of_heads.clone()).into_iter().for_each(|offsets| axpy(1.0, offsets, to));
            }
        }
        for block in 0..blocks {
            let fused = &mut fused[..keys];
            let of_block = Maps { all: own, blocks, block, keys };
            fusion.forward(of_block, &mut gates[block * maps..][..maps], fused);
            for (j, score) in fused.iter_mut().enumerate() {
                let mask = if j < sequence.items { masks.future[j * blocks + block] } else { [MASKED; LANES] };
                for lane in 0..LANES {
                    score[lane] = score[lane] * scale + mask[lane];
                }
            }
            softmax(fused);
            for (j, prob) in fused.iter().enumerate() {
                let at = j * blocks + block;
                probs[at] = *prob;
                for lane in 0..LANES {
                    weights[at][lane] = prob[lane] * masks.drops[at][lane];
                }
            }
        }
        for (q, (row, _)) in attention.queries(number, sequence).enumerate() {
            for head in 0..heads {
                let weights = &weights.as_flattened()[q * heads + head..];
                let at = |j| seen.of(values.row(j), head).start;
                WeightedRows { weights, step: width, rows: value, at, n: sequence.valued }
                    .sum(&mut context[asking.of(row, head)]);
                if let Some(sum) = sums.get_mut(row * heads + head) {
                    *sum = weights.iter().step_by(width).take(sequence.valued).sum();
                }
            }
        }
    }
}

/// The gradients of the streams, the tables and the fusion from those of the context and the sums.
///
/// # Shapes
/// dcontext as the queries, dsums `[queries, heads]` or empty
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma", "aarch64+neon"))]
pub fn backward(
    attention: Attention,
    streams: AttentionInputs,
    scores: &Scores,
    (dcontext, dsums): (&[f32], &[f32]),
    into: AttentionGrads,
) {
    let Attention { h, heads, length, fusion, .. } = attention;
    let AttentionInputs { sequences, query, key, value, tables, .. } = streams;
    let (asking, seen) = (attention.asking(sequences), attention.seen());
    let maps = tables.len() + 1;
    let scale = 1.0 / ((h / heads) as f32).sqrt();
    let mut rest = (&scores.maps[..], &scores.gates[..], &scores.probs[..]);
    let mut masks = Masks::new(attention);
    // Of the probabilities after dropout: themselves and their gradient.
    let (mut weights, mut dweights) = (Vec::new(), Vec::new());
    let (mut dfused, mut of_block) = (vec![[0.0; LANES]; length], vec![[0.0; LANES]; maps * length]);
    let mut dmaps: Vec<Vec<Lanes>> = vec![Vec::new(); maps];
    let mut part = vec![0.0; h];
    for row in attention.alone() {
        for (head, &weight) in masks.single(attention, row).iter().enumerate() {
            let place = seen.of(row, head);
            scale_into(weight, &dcontext[place.clone()], &mut into.value[place]);
        }
    }
    for (number, &sequence) in sequences.iter().enumerate() {
        let blocks = attention.blocks(sequence);
        let (keys, values) = (sequence.keys, attention.values(sequence));
        let queries = attention.queries(number, sequence);
        if sequence.rows == 1 {
            into.key[keys.first * h..][..h].fill(0.0);
            for (row, _) in queries {
                let to = match attention.queries {
                    Queries::All => &mut *into.value,
                    Queries::Last => &mut *into.key,
                };
                to[values.first * h..][..h].fill(0.0);
                for (head, &weight) in masks.single(attention, row).iter().enumerate() {
                    axpy(weight, &dcontext[asking.of(row, head)], &mut to[seen.of(values.first, head)]);
                    into.query[asking.of(attention.query(row), head)].fill(0.0);
                }
                into.offsets.get_mut(row * heads..(row + 1) * heads).into_iter().for_each(|offsets| offsets.fill(0.0));
            }
            continue;
        }
        let (width, size) = (blocks * LANES, sequence.rows * blocks);
        let own = rest.0.split_off(..maps * size).expect("as resized");
        let gates = rest.1.split_off(..blocks * maps).expect("as resized");
        let probs = rest.2.split_off(..size).expect("as resized");
        for map in [&mut weights, &mut dweights].into_iter().chain(&mut dmaps) {
            map.resize(size, [0.0; LANES]);
        }
        masks.draw(attention, number, sequence);
        for (q, (row, _)) in queries.clone().enumerate() {
            let of_heads = row * heads..(row + 1) * heads;
            for j in 0..sequence.valued {
                let to = &mut dweights.as_flattened_mut()[j * width + q * heads..][..heads];
                dot_per_head((dcontext, asking, row), (value, seen, values.row(j)), to);
                dsums.get(of_heads.clone()).into_iter().for_each(|dsums| axpy(1.0, dsums, to));
            }
        }
        for block in 0..blocks {
            let (dfused, of_block) = (&mut dfused[..sequence.rows], &mut of_block[..maps * sequence.rows]);
            let mut mean = [0.0; LANES];
            dfused.fill([0.0; LANES]);
            for (j, dprob) in dfused[..sequence.valued].iter_mut().enumerate() {
                let at = j * blocks + block;
                for lane in 0..LANES {
                    dprob[lane] = dweights[at][lane] * masks.drops[at][lane];
                    weights[at][lane] = probs[at][lane] * masks.drops[at][lane];
                    mean[lane] += probs[at][lane] * dprob[lane];
                }
            }
            for (j, dprob) in dfused.iter_mut().enumerate() {
                let prob = &probs[j * blocks + block];
                for lane in 0..LANES {
                    dprob[lane] = prob[lane] * (dprob[lane] - mean[lane]) * scale;
                }
            }
            let own = Maps { all: own, blocks, block, keys: sequence.rows };
            fusion.backward(own, &gates[block * maps..][..maps], dfused, of_block, into.fusion);
            for (dmap, of_block) in dmaps.iter_mut().zip(of_block.chunks_exact(sequence.rows)) {
                for (to, score) in dmap[block..].iter_mut().step_by(blocks).zip(of_block) {
                    *to = *score;
                }
            }
        }
        let dmap = |map: usize| dmaps[map].as_flattened();
        for (q, (_, i)) in queries.clone().enumerate() {
            for j in 0..sequence.rows {
                for (t, (table, into)) in tables.iter().zip(&mut *into.tables).enumerate() {
                    let dscores = &dmap(place(t, tables))[j * width + q * heads..][..heads];
                    table.differentiate(keys.row(i), keys.row(j), dscores, into);
                }
            }
        }
        let (weights, ditem) = (weights.as_flattened(), dmap(item(tables)));
        let n_queries = queries.clone().count();
        let first = queries.clone().next().map_or(0, |(row, _)| row);
        for head in 0..heads {
            for (q, (row, _)) in queries.clone().enumerate() {
                let dscores = &ditem[q * heads + head..];
                let at = |j| seen.of(keys.row(j), head).start;
                let terms = WeightedRows { weights: dscores, step: width, rows: key, at, n: sequence.rows };
                terms.sum(&mut into.query[asking.of(attention.query(row), head)]);
                if let Some(offset) = into.offsets.get_mut(row * heads + head) {
                    *offset = dscores.iter().step_by(width).take(sequence.rows).sum();
                }
            }
        }
        match attention.queries {
            Queries::All => {
                for head in 0..heads {
                    // From a query to the next.
                    for j in 0..sequence.valued {
                        let (weights, at) = (&weights[j * width + head..], |q| asking.of(first + q, head).start);
                        let terms = WeightedRows { weights, step: heads, rows: dcontext, at, n: n_queries };
                        let to = &mut into.value[seen.of(values.row(j), head)];
                        if j < attention.from() {
                            terms.sum(&mut part[..to.len()]);
                            axpy(1.0, &part[..to.len()], to);
                        } else {
                            terms.sum(to);
                        }
                    }
                    let start = attention.query(first);
                    for j in 0..sequence.rows {
                        let (weights, at) = (&ditem[j * width + head..], |q| asking.of(start + q, head).start);
                        let terms = WeightedRows { weights, step: heads, rows: query, at, n: n_queries };
                        terms.sum(&mut into.key[seen.of(keys.row(j), head)]);
                    }
                }
            }
            Queries::Last => {
                // From a head of the only query to the next.
                let at = |head| asking.of(first, head).start;
                let by_head = |weights, rows| WeightedRows { weights, step: 1, rows, at, n: heads };
                for j in 0..sequence.rows {
                    let to = &mut into.key[keys.row(j) * h..][..h];
                    by_head(&ditem[j * width..], query).sum(to);
                    if j < sequence.valued {
                        by_head(&weights[j * width..], dcontext).sum(&mut part);
                        axpy(1.0, &part, to);
                    }
                }
            }
        }
    }
}

/// The products of a row by another in every head.
#[inline(always)]
fn dot_per_head(
    (a, of_a, i): (&[f32], HeadStrides, usize),
    (b, of_b, j): (&[f32], HeadStrides, usize),
    to: &mut [f32],
) {
    if of_b.head == of_b.width {
        let width = to.len() * of_b.width;
        dot_heads(&a[of_a.of(i, 0).start..][..width], &b[of_b.of(j, 0).start..][..width], to);
    } else {
        let b = &b[of_b.of(j, 0)];
        for (head, to) in to.iter_mut().enumerate() {
            *to = dot(&a[of_a.of(i, head)], b);
        }
    }
}

/// The item's map: before the position's, which is the last, or the only one.
#[inline(always)]
fn item(tables: &[SideScores]) -> usize {
    tables.len().saturating_sub(1)
}

/// The map of a table.
#[inline(always)]
fn place(t: usize, tables: &[SideScores]) -> usize {
    t + usize::from(t >= item(tables))
}

impl Scores {
    fn resize(&mut self, attention: Attention, sequences: &[Sequence], maps: usize) {
        let blocks = || sequences.iter().map(|&sequence| attention.blocks(sequence));
        let scores: usize = blocks().zip(sequences).map(|(blocks, sequence)| blocks * sequence.rows).sum();
        let sizes = [(&mut self.maps, maps * scores), (&mut self.gates, maps * blocks().sum::<usize>())];
        // Everything is overwritten but lanes without a query, which nothing is made of.
        for (values, size) in sizes.into_iter().chain([(&mut self.probs, scores)]) {
            values.resize(size, [0.0; LANES]);
        }
    }
}
