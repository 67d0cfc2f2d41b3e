//! One layer on the rows of a chunk, forward and backward.

use std::ops::Range;

use super::step::StepContext;
use crate::fast::cpu::attention::absorbed::Absorbed;
use crate::fast::cpu::attention::geometry::Queries;
use crate::fast::cpu::attention::side_scores::SideScores;
use crate::fast::cpu::attention::{self, Attention, AttentionGrads, AttentionInputs, Scores};
use crate::fast::cpu::batch::micro_batch::Rows;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::fast::cpu::ops::activation;
use crate::fast::cpu::ops::dropout::Stream;
use crate::fast::cpu::ops::layer_norm::{self, LayerNorm, RowDropout};
use crate::fast::cpu::ops::simd::{Lanes, add_rows, axpy};
use crate::fast::cpu::params::layout::{LayerLayout, LayerNormRange, Linear};

/// What the forward pass of a layer leaves for the backward pass.
#[derive(Debug, Default)]
pub struct LayerActivations {
    /// The layer's input, `[rows, H]`.
    pub input: Vec<f32>,
    /// The rows of the input that ask, `[queries, H]`; empty where all do.
    asking: Vec<f32>,
    query: Vec<f32>,
    /// Keys and values, but of the last layer.
    key: Vec<f32>,
    /// The rows of the input that have a value, `[valued, H]`; empty where all do.
    valued: Vec<f32>,
    value: Vec<f32>,
    /// Of the last layer: its queries lifted, and what is lowered to its context.
    asked: Absorbed,
    seen: Absorbed,
    /// By stream: queries and keys where scores do not serve the whole step.
    sides: Vec<Vec<f32>>,
    scores: Scores,
    context: Vec<f32>,
    /// Normalised rows and 1 / σ of the attention's LayerNorm.
    attended: (Vec<f32>, Vec<f32>),
    /// Before the activation, `[queries, inner]`.
    hidden: Vec<f32>,
    /// Normalised rows and 1 / σ of the feed-forward network's LayerNorm.
    output: (Vec<f32>, Vec<f32>),
}

/// A thread's gradients of everything but the item embedding.
#[derive(Debug, Default)]
pub struct Grads {
    /// In the weights' layout; what follows is added at the end of a step.
    pub flat: Vec<f32>,
    /// By layer, of the fusion's parameters, one after the other.
    pub fusion: Vec<Vec<Lanes>>,
    /// By layer and stream, of the scores that serve the whole step.
    pub scores: Vec<Vec<Vec<f32>>>,
}

impl Grads {
    /// Zeros, in the memory of the last step.
    pub fn clear(&mut self, step: &StepContext) {
        self.flat.fill(0.0);
        let layers = &step.layout.layers;
        self.fusion.resize_with(layers.len(), Vec::new);
        self.scores.resize_with(layers.len(), Vec::new);
        for (k, slots) in layers.iter().enumerate() {
            zeros(&mut self.fusion[k], slots.fusion.iter().map(Range::len).sum());
            self.scores[k].resize_with(step.shared[k].len(), Vec::new);
            for (dscores, pairs) in self.scores[k].iter_mut().zip(&step.shared[k]) {
                zeros(dscores, pairs.as_ref().map_or(0, |pairs| pairs.scores.len()));
            }
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) {
        add_rows(&other.flat, &mut self.flat);
        let fusion =
            self.fusion.iter_mut().map(|x| x.as_flattened_mut()).zip(other.fusion.iter().map(|x| x.as_flattened()));
        let scores = self.scores.iter_mut().flatten().zip(other.scores.iter().flatten());
        let scores = scores.map(|(to, from)| (&mut to[..], &from[..]));
        fusion.chain(scores).for_each(|(to, from)| axpy(1.0, from, to));
    }
}

/// Memory that a thread uses again and again.
#[derive(Debug, Default)]
pub struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    d: Vec<f32>,
    /// By stream, of queries and keys.
    dsides: Vec<Vec<f32>>,
    /// Of the last layer.
    dasked: Absorbed,
    dseen: Absorbed,
}

/// A layer of a step by its number.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    pub step: &'a StepContext<'a>,
    pub k: usize,
}

impl<'a> Layer<'a> {
    fn slots(self) -> &'a LayerLayout {
        &self.step.layout.layers[self.k]
    }

    fn queries(self) -> Queries {
        if self.k + 1 == self.step.layout.layers.len() { Queries::Last } else { Queries::All }
    }

    fn norm(self, scale: &LayerNormRange) -> LayerNorm<'a> {
        self.step.norm(scale)
    }

    /// The stream of one of the layer's three dropouts: of probabilities, of the attention's and of the network's output.
    fn place(self, which: u64) -> Stream {
        self.step.stream.part(1 + 3 * self.k as u64 + which)
    }

    fn attention<'b>(self, rows: &'b Rows) -> Attention<'b>
    where
        'a: 'b,
    {
        let step = self.step;
        let numbers = rows.numbers(self.queries());
        Attention {
            h: step.h,
            heads: step.heads,
            length: step.length,
            queries: self.queries(),
            firsts: rows.firsts,
            fusion: step.fusions[self.k],
            drops: RowDropout { dropout: step.attention_dropout, place: self.place(0), rows: numbers },
        }
    }

    /// What the scores of the attributes and of the position follow from.
    fn tables<'b>(self, rows: &'b Rows, sides: &'b [Vec<f32>]) -> Vec<SideScores<'b>>
    where
        'a: 'b,
    {
        let of_rows = rows.attributes.iter().map(|vectors| &vectors.rows).chain([&rows.positions]);
        let streams = self.step.shared[self.k].iter().zip(of_rows.zip(sides)).enumerate();
        let tables = streams.map(|(stream, (shared, (rows, sides)))| match shared {
            Some(pairs) => SideScores::Scores { scores: &pairs.scores, n: pairs.n, rows },
            None => SideScores::Sides { sides, d: self.step.attributes[stream].size, rows },
        });
        tables.collect()
    }

    fn drops(self, rows: &Rows, which: u64) -> RowDropout<'_> {
        let numbers = rows.numbers(self.queries());
        RowDropout { dropout: self.step.hidden_dropout, place: self.place(which), rows: numbers }
    }

    /// The layer's output from `state.input`: a row for every query.
    ///
    /// # Shapes
    /// out `[queries, H]`
    pub fn forward(self, rows: &Rows, state: &mut LayerActivations, scratch: &mut Scratch, out: &mut Vec<f32>) {
        let (step, slots, h) = (self.step, self.slots(), self.step.h);
        match (self.queries(), &step.item_cache) {
            (Queries::Last, _) => {
                select(&state.input, rows.last.iter(), h, &mut state.asking);
                step.linear(&slots.query, &state.asking, &mut state.query);
                state.asked.lift(step, &slots.key, &state.query);
            }
            (Queries::All, Some(all)) if self.k == 0 => {
                let valued = rows.valued.iter().map(|&row| &rows.items[row as usize]);
                select(&all.query, rows.items[rows.firsts..].iter(), h, &mut state.query);
                select(&all.key, rows.items.iter(), h, &mut state.key);
                select(&all.value, valued, h, &mut state.value);
            }
            (Queries::All, _) => {
                step.linear(&slots.query, &state.input[rows.firsts * h..], &mut state.query);
                step.linear(&slots.key, &state.input, &mut state.key);
                let valued = match rows.all_valued() {
                    true => &state.input,
                    false => select(&state.input, rows.valued.iter(), h, &mut state.valued),
                };
                step.linear(&slots.value, valued, &mut state.value);
            }
        }
        state.sides.resize_with(step.shared[self.k].len(), Vec::new);
        for ((dense, vectors), sides) in slots.attributes.iter().zip(&rows.attributes).zip(&mut state.sides) {
            step.linear(dense, &vectors.distinct, sides);
        }
        let contexts = if self.queries() == Queries::All { rows.items.len() } else { rows.last.len() };
        state.context.resize(contexts * h, 0.0);
        let LayerActivations { input, asking, query, key, value, asked, seen, context, scores, .. } = state;
        let (attention, tables) = (self.attention(rows), self.tables(rows, &state.sides));
        let asking = match self.queries() {
            Queries::All => {
                let streams =
                    AttentionInputs { sequences: &rows.sequences, query, offsets: &[], key, value, tables: &tables };
                attention::forward(attention, streams, scores, context, &mut []);
                input
            }
            Queries::Last => {
                seen.resize(step, rows.last.len());
                attention::forward(
                    attention,
                    asked.streams(rows, input, &tables),
                    scores,
                    &mut seen.rows,
                    &mut seen.offsets,
                );
                seen.lower(step, &slots.value, context);
                asking
            }
        };

        let n = asking.len() / h;
        let attended = &mut scratch.a;
        step.linear(&slots.dense, &state.context, &mut state.attended.0);
        attended.resize(n * h, 0.0);
        state.attended.1.resize(n, 0.0);
        let (new, rstd) = (&mut state.attended.0, &mut state.attended.1);
        layer_norm::forward(self.norm(&slots.attention_norm), new, asking, self.drops(rows, 1), rstd, attended);

        step.linear(&slots.dense_1, attended, &mut state.hidden);
        scratch.b.resize(state.hidden.len(), 0.0);
        activation::forward(step.activation, &state.hidden, &mut scratch.b);
        step.linear(&slots.dense_2, &scratch.b, &mut state.output.0);
        out.resize(n * h, 0.0);
        state.output.1.resize(n, 0.0);
        let (new, rstd) = (&mut state.output.0, &mut state.output.1);
        layer_norm::forward(self.norm(&slots.norm), new, attended, self.drops(rows, 2), rstd, out);
    }

    /// Turns the gradient of the output into that of the input.
    ///
    /// # Shapes
    /// grad `[queries, H]` → `[rows, H]`
    pub fn backward(
        self,
        rows: &Rows,
        state: &LayerActivations,
        scratch: &mut Scratch,
        grad: &mut Vec<f32>,
        into: &mut Grads,
    ) {
        self.feed_forward_backward(rows, state, scratch, grad, into);
        self.attention_backward(rows, state, scratch, grad, into);
    }

    /// Turns the gradient of the output into that of the attention's output, `[queries, H]`.
    fn feed_forward_backward(
        self,
        rows: &Rows,
        state: &LayerActivations,
        Scratch { a, b, .. }: &mut Scratch,
        grad: &mut [f32],
        into: &mut Grads,
    ) {
        let (step, slots) = (self.step, self.slots());
        // From here on `grad` is the residual's.
        a.resize(grad.len(), 0.0);
        let norm = self.norm(&slots.norm);
        let scales = pair(&mut into.flat, &slots.norm);
        layer_norm::backward(norm, &state.output.0, &state.output.1, self.drops(rows, 2), grad, a, scales);
        b.resize(state.hidden.len(), 0.0);
        activation::forward(step.activation, &state.hidden, b);
        parameters(step, &slots.dense_2, b, a, &mut into.flat);
        step.transposed(&slots.dense_2, a, b, Epilogue::Overwrite);
        activation::backward(step.activation, &state.hidden, b);
        // The attention's output is not kept: it is its normalised rows, scaled.
        let norm = self.norm(&slots.attention_norm);
        layer_norm::scale(norm, &state.attended.0, a);
        parameters(step, &slots.dense_1, a, b, &mut into.flat);
        step.transposed(&slots.dense_1, b, grad, Epilogue::Accumulate);
    }

    /// Turns the gradient of the attention's output into that of the layer's input.
    fn attention_backward(
        self,
        rows: &Rows,
        state: &LayerActivations,
        Scratch { a, b, c, d, dsides, dasked, dseen }: &mut Scratch,
        grad: &mut Vec<f32>,
        into: &mut Grads,
    ) {
        let (step, slots, h) = (self.step, self.slots(), self.step.h);
        let norm = self.norm(&slots.attention_norm);
        let scales = pair(&mut into.flat, &slots.attention_norm);
        layer_norm::backward(norm, &state.attended.0, &state.attended.1, self.drops(rows, 1), grad, a, scales);
        parameters(step, &slots.dense, &state.context, a, &mut into.flat);
        b.resize(grad.len(), 0.0);
        step.transposed(&slots.dense, a, b, Epilogue::Overwrite);
        dsides.resize_with(state.sides.len(), Vec::new);
        dsides.iter_mut().zip(&state.sides).for_each(|(dsides, sides)| zeros(dsides, sides.len()));
        let tables = self.tables(rows, &state.sides);
        let dtables = into.scores[self.k].iter_mut().zip(&mut *dsides).zip(&step.shared[self.k]);
        let dtables = dtables.map(|((dscores, dsides), shared)| if shared.is_some() { dscores } else { dsides });
        let mut dtables: Vec<&mut [f32]> = dtables.map(|x| &mut x[..]).collect();
        let (dtables, fusion) = (&mut dtables[..], &mut into.fusion[self.k][..]);
        // `a` becomes the queries' gradient, `c` that of the keys, or of the rows that the last layer's queries meet.
        a.resize(state.query.len(), 0.0);
        c.resize(state.input.len(), 0.0);
        match self.queries() {
            Queries::All => {
                d.resize(state.value.len(), 0.0);
                let LayerActivations { query, key, value, .. } = state;
                let streams =
                    AttentionInputs { sequences: &rows.sequences, query, offsets: &[], key, value, tables: &tables };
                let gradients =
                    AttentionGrads { query: a, offsets: &mut [], key: c, value: d, tables: dtables, fusion };
                attention::backward(self.attention(rows), streams, &state.scores, (b, &[]), gradients);
            }
            Queries::Last => {
                dseen.lift(step, &slots.value, b);
                state.seen.parameters(step, &slots.value, b, &mut into.flat);
                dasked.resize(step, rows.last.len());
                let Absorbed { rows: query, offsets } = &mut *dasked;
                let gradients = AttentionGrads { query, offsets, key: c, value: &mut [], tables: dtables, fusion };
                let dcontext = (&dseen.rows[..], &dseen.offsets[..]);
                let streams = state.asked.streams(rows, &state.input, &tables);
                attention::backward(self.attention(rows), streams, &state.scores, dcontext, gradients);
                dasked.lower(step, &slots.key, a);
                dasked.parameters(step, &slots.key, &state.query, &mut into.flat);
            }
        }
        for ((dense, vectors), dsides) in slots.attributes.iter().zip(&rows.attributes).zip(&*dsides) {
            // The vectors are not trained: their gradient is not asked for.
            parameters(step, dense, &vectors.distinct, dsides, &mut into.flat);
        }
        let (asking, of_asking) = match self.queries() {
            Queries::All => (&state.input[rows.firsts * h..], &mut grad[rows.firsts * h..]),
            Queries::Last => (&state.asking[..], &mut grad[..]),
        };
        parameters(step, &slots.query, asking, a, &mut into.flat);
        step.transposed(&slots.query, a, of_asking, Epilogue::Accumulate);
        if self.queries() == Queries::Last {
            add_selected(grad, &rows.last, h, c);
            std::mem::swap(c, grad);
            return;
        }
        parameters(step, &slots.key, &state.input, c, &mut into.flat);
        step.transposed(&slots.key, c, grad, Epilogue::Accumulate);
        if rows.all_valued() {
            parameters(step, &slots.value, &state.input, d, &mut into.flat);
            step.transposed(&slots.value, d, grad, Epilogue::Accumulate);
        } else {
            parameters(step, &slots.value, &state.valued, d, &mut into.flat);
            a.resize(d.len(), 0.0);
            step.transposed(&slots.value, d, a, Epilogue::Overwrite);
            add_selected(a, &rows.valued, h, grad);
        }
    }
}

impl Absorbed {
    /// The streams of lifted queries, which meet the rows themselves.
    fn streams<'a>(&'a self, rows: &'a Rows, input: &'a [f32], tables: &'a [SideScores<'a>]) -> AttentionInputs<'a> {
        let Self { rows: query, offsets } = self;
        AttentionInputs { sequences: &rows.sequences, query, offsets, key: input, value: input, tables }
    }
}

/// Copies some rows of a matrix.
fn select<'a, 'b>(x: &[f32], rows: impl Iterator<Item = &'b u32>, h: usize, out: &'a mut Vec<f32>) -> &'a Vec<f32> {
    out.clear();
    rows.for_each(|&row| out.extend_from_slice(&x[row as usize * h..][..h]));
    out
}

/// Adds to some rows of a matrix.
fn add_selected(x: &[f32], rows: &[u32], h: usize, out: &mut [f32]) {
    rows.iter().zip(x.chunks_exact(h)).for_each(|(&row, x)| axpy(1.0, x, &mut out[row as usize * h..][..h]));
}

/// Adds the gradients of a linear layer's weight and bias.
pub fn parameters(step: &StepContext, dense: &Linear, x: &[f32], dy: &[f32], flat: &mut [f32]) {
    let of_outputs = MatRef::new(dy, dense.bias.len()).t();
    gemm(
        step.precision,
        of_outputs,
        &MatRef::new(x, dense.inputs).into(),
        &mut flat[dense.weight.clone()],
        Epilogue::Accumulate,
    );
    add_rows(dy, &mut flat[dense.bias.clone()]);
}

/// The gradients of a LayerNorm's weight and bias, which lie side by side.
pub fn pair<'a>(flat: &'a mut [f32], scale: &LayerNormRange) -> (&'a mut [f32], &'a mut [f32]) {
    flat[scale.weight.start..scale.bias.end].split_at_mut(scale.weight.len())
}

pub fn zeros<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    values.clear();
    values.resize(len, T::default());
}
