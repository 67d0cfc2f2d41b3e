//! One layer on the rows of a chunk, forward and backward.

use super::activation;
use super::attention::{self, Attention, AttributeRows, Gradients, Queries, Scores, Streams};
use super::chunk::Rows;
use super::dropout::Stream;
use super::frame::Frame;
use super::fusion::FusionGrad;
use super::kernels::{add_rows, axpy, fill_rows};
use super::norm::{self, Drops, Norm};
use super::product::{Into, Matrix, product};
use super::weights::{Dense, LayerSlots, Scale};

/// What the forward pass of a layer leaves for the backward pass.
#[derive(Debug, Default)]
pub(super) struct LayerState {
    /// The layer's input, `[rows, H]`.
    pub input: Vec<f32>,
    /// The rows of the input that ask, `[queries, H]`; empty where all do.
    asking: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    /// The rows of the input that have a value, `[valued, H]`; empty where all do.
    valued: Vec<f32>,
    value: Vec<f32>,
    attributes: Vec<AttributeRows>,
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
#[derive(Debug)]
pub(super) struct ThreadGrad {
    /// In the weights' layout; the parts of fusions and of the position stream are added at the end of a step.
    pub flat: Vec<f32>,
    /// By layer.
    pub fusion: Vec<FusionGrad>,
    /// By layer, `[heads, L, P]`.
    pub position: Vec<Vec<f32>>,
}

/// Memory that a thread uses again and again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    d: Vec<f32>,
    attributes: Vec<AttributeRows>,
}

/// A layer of a frame by its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    pub frame: &'a Frame<'a>,
    pub k: usize,
}

impl<'a> Layer<'a> {
    fn slots(self) -> &'a LayerSlots {
        &self.frame.layout.layers[self.k]
    }

    fn queries(self) -> Queries {
        if self.k + 1 == self.frame.layout.layers.len() { Queries::Last } else { Queries::All }
    }

    fn norm(self, scale: &Scale) -> Norm<'a> {
        self.frame.norm(scale)
    }

    /// The stream of one of the layer's three dropouts: of probabilities, of the attention's and of the network's output.
    fn place(self, which: u64) -> Stream {
        self.frame.stream.part(1 + 3 * self.k as u64 + which)
    }

    fn attention<'b>(self, rows: &'b Rows) -> Attention<'b>
    where
        'a: 'b,
    {
        let frame = self.frame;
        let numbers = rows.numbers(self.queries());
        Attention {
            heads: frame.heads,
            length: frame.length,
            padded: frame.padded,
            queries: self.queries(),
            fusion: &frame.fusions[self.k],
            position: &frame.positions[self.k],
            drops: Drops { dropout: frame.attention_dropout, place: self.place(0), rows: numbers },
        }
    }

    fn drops(self, rows: &Rows, which: u64) -> Drops<'_> {
        let numbers = rows.numbers(self.queries());
        Drops { dropout: self.frame.hidden_dropout, place: self.place(which), rows: numbers }
    }

    /// The layer's output from `state.input`: a row for every query.
    ///
    /// # Shapes
    /// out `[queries, H]`
    pub fn forward(self, rows: &Rows, state: &mut LayerState, scratch: &mut Scratch, out: &mut Vec<f32>) {
        let (frame, slots, h) = (self.frame, self.slots(), self.frame.h);
        let asking = match self.queries() {
            Queries::All => &state.input,
            Queries::Last => select(&state.input, rows.last.iter(), h, &mut state.asking),
        };
        let valued = match rows.valued.len() == rows.items.len() {
            true => &state.input,
            false => select(&state.input, rows.valued.iter(), h, &mut state.valued),
        };
        match &frame.catalogue {
            Some(all) if self.k == 0 => {
                let item = |&row: &u32| &rows.items[row as usize];
                match self.queries() {
                    Queries::All => select(&all.query, rows.items.iter(), h, &mut state.query),
                    Queries::Last => select(&all.query, rows.last.iter().map(item), h, &mut state.query),
                };
                select(&all.key, rows.items.iter(), h, &mut state.key);
                select(&all.value, rows.valued.iter().map(item), h, &mut state.value);
            }
            _ => {
                frame.linear(&slots.query, asking, &mut state.query);
                frame.linear(&slots.key, &state.input, &mut state.key);
                frame.linear(&slots.value, valued, &mut state.value);
            }
        }
        let attributes = match &frame.catalogue {
            Some(all) => &all.attributes[self.k],
            None => {
                state.attributes.resize_with(slots.attributes.len(), AttributeRows::default);
                let attributes = slots.attributes.iter().zip(&rows.attributes).zip(&mut state.attributes);
                attributes.for_each(|((slot, vectors), attribute)| {
                    attribute.size = slot.inputs;
                    frame.linear(slot, vectors, &mut attribute.rows);
                });
                &state.attributes
            }
        };
        state.context.resize(asking.len(), 0.0);
        let streams = Streams {
            sequences: &rows.sequences,
            query: &state.query,
            key: &state.key,
            value: &state.value,
            attributes,
            distinct: &rows.distinct,
        };
        attention::forward(self.attention(rows), streams, &mut state.scores, &mut state.context);

        let n = asking.len() / h;
        let attended = &mut scratch.a;
        frame.linear(&slots.dense, &state.context, &mut state.attended.0);
        attended.resize(n * h, 0.0);
        state.attended.1.resize(n, 0.0);
        let (new, inverse) = (&mut state.attended.0, &mut state.attended.1);
        norm::forward(self.norm(&slots.attention_norm), new, asking, self.drops(rows, 1), inverse, attended);

        frame.linear(&slots.dense_1, attended, &mut state.hidden);
        scratch.b.resize(state.hidden.len(), 0.0);
        activation::forward(frame.activation, &state.hidden, &mut scratch.b);
        frame.linear(&slots.dense_2, &scratch.b, &mut state.output.0);
        out.resize(n * h, 0.0);
        state.output.1.resize(n, 0.0);
        let (new, inverse) = (&mut state.output.0, &mut state.output.1);
        norm::forward(self.norm(&slots.norm), new, attended, self.drops(rows, 2), inverse, out);
    }

    /// Turns the gradient of the output into that of the input.
    ///
    /// # Shapes
    /// grad `[queries, H]` → `[rows, H]`
    pub fn backward(
        self,
        rows: &Rows,
        state: &LayerState,
        scratch: &mut Scratch,
        grad: &mut Vec<f32>,
        into: &mut ThreadGrad,
    ) {
        self.feed_forward_backward(rows, state, scratch, grad, into);
        self.attention_backward(rows, state, scratch, grad, into);
    }

    /// Turns the gradient of the output into that of the attention's output, `[queries, H]`.
    fn feed_forward_backward(
        self,
        rows: &Rows,
        state: &LayerState,
        Scratch { a, b, .. }: &mut Scratch,
        grad: &mut [f32],
        into: &mut ThreadGrad,
    ) {
        let (frame, slots) = (self.frame, self.slots());
        // From here on `grad` is the residual's.
        a.resize(grad.len(), 0.0);
        let norm = self.norm(&slots.norm);
        let scales = pair(&mut into.flat, &slots.norm);
        norm::backward(norm, &state.output.0, &state.output.1, self.drops(rows, 2), grad, a, scales);
        b.resize(state.hidden.len(), 0.0);
        activation::forward(frame.activation, &state.hidden, b);
        parameters(frame, &slots.dense_2, b, a, &mut into.flat);
        frame.transposed(&slots.dense_2, a, b, Into::Replace);
        activation::backward(frame.activation, &state.hidden, b);
        // The attention's output is not kept: it is its normalised rows, scaled.
        let norm = self.norm(&slots.attention_norm);
        norm::scale(norm, &state.attended.0, a);
        parameters(frame, &slots.dense_1, a, b, &mut into.flat);
        frame.transposed(&slots.dense_1, b, grad, Into::Add);
    }

    /// Turns the gradient of the attention's output into that of the layer's input.
    fn attention_backward(
        self,
        rows: &Rows,
        state: &LayerState,
        Scratch { a, b, c, d, attributes }: &mut Scratch,
        grad: &mut Vec<f32>,
        into: &mut ThreadGrad,
    ) {
        let (frame, slots, h) = (self.frame, self.slots(), self.frame.h);
        let norm = self.norm(&slots.attention_norm);
        let asking = match self.queries() {
            Queries::All => &state.input,
            Queries::Last => &state.asking,
        };
        let scales = pair(&mut into.flat, &slots.attention_norm);
        norm::backward(norm, &state.attended.0, &state.attended.1, self.drops(rows, 1), grad, a, scales);
        parameters(frame, &slots.dense, &state.context, a, &mut into.flat);
        b.resize(grad.len(), 0.0);
        frame.transposed(&slots.dense, a, b, Into::Replace);
        zeros(a, state.query.len());
        zeros(c, state.key.len());
        zeros(d, state.value.len());
        attributes.resize_with(state.attributes.len(), AttributeRows::default);
        for (grad, attribute) in attributes.iter_mut().zip(&state.attributes) {
            grad.size = attribute.size;
            zeros(&mut grad.rows, attribute.rows.len());
        }
        let streams = Streams {
            sequences: &rows.sequences,
            query: &state.query,
            key: &state.key,
            value: &state.value,
            attributes: &state.attributes,
            distinct: &rows.distinct,
        };
        let gradients = Gradients {
            query: a,
            key: c,
            value: d,
            attributes,
            position: &mut into.position[self.k],
            fusion: &mut into.fusion[self.k],
        };
        attention::backward(self.attention(rows), streams, &state.scores, b, gradients);
        parameters(frame, &slots.query, asking, a, &mut into.flat);
        frame.transposed(&slots.query, a, grad, Into::Add);
        parameters(frame, &slots.key, &state.input, c, &mut into.flat);
        for ((slot, vectors), grad) in slots.attributes.iter().zip(&rows.attributes).zip(&*attributes) {
            // The attribute vectors are not trained: their gradient is not asked for.
            parameters(frame, slot, vectors, &grad.rows, &mut into.flat);
        }
        if self.queries() == Queries::Last {
            zeros(a, state.input.len());
            add_selected(grad, &rows.last, h, a);
            std::mem::swap(a, grad);
        }
        frame.transposed(&slots.key, c, grad, Into::Add);
        if rows.valued.len() == rows.items.len() {
            parameters(frame, &slots.value, &state.input, d, &mut into.flat);
            frame.transposed(&slots.value, d, grad, Into::Add);
        } else {
            parameters(frame, &slots.value, &state.valued, d, &mut into.flat);
            a.resize(d.len(), 0.0);
            frame.transposed(&slots.value, d, a, Into::Replace);
            add_selected(a, &rows.valued, h, grad);
        }
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

impl Frame<'_> {
    /// A linear layer: `out` = x · weightᵀ + bias.
    ///
    /// # Shapes
    /// x `[n, inputs]`, out `[n, outputs]`
    pub fn linear(&self, dense: &Dense, x: &[f32], out: &mut Vec<f32>) {
        let bias = &self.flat[dense.bias.clone()];
        out.resize(x.len() / dense.inputs * bias.len(), 0.0);
        fill_rows(bias, out);
        let weight = Matrix::new(&self.flat[dense.weight.clone()], dense.inputs);
        product(self.precision, Matrix::new(x, dense.inputs), weight.t(), out, Into::Add);
    }

    /// The gradient of a linear layer's input: `out` = dy · weight.
    pub fn transposed(&self, dense: &Dense, dy: &[f32], out: &mut [f32], into: Into) {
        let weight = Matrix::new(&self.flat[dense.weight.clone()], dense.inputs);
        product(self.precision, Matrix::new(dy, dense.bias.len()), weight, out, into);
    }

    /// A LayerNorm's parameters.
    pub fn norm(&self, scale: &Scale) -> Norm<'_> {
        Norm { weight: &self.flat[scale.weight.clone()], bias: &self.flat[scale.bias.clone()], eps: self.eps }
    }
}

/// Adds the gradients of a linear layer's weight and bias.
pub(super) fn parameters(frame: &Frame, dense: &Dense, x: &[f32], dy: &[f32], flat: &mut [f32]) {
    let of_outputs = Matrix::new(dy, dense.bias.len()).t();
    product(frame.precision, of_outputs, Matrix::new(x, dense.inputs), &mut flat[dense.weight.clone()], Into::Add);
    add_rows(dy, &mut flat[dense.bias.clone()]);
}

/// The gradients of a LayerNorm's weight and bias, which lie side by side.
pub(super) fn pair<'a>(flat: &'a mut [f32], scale: &Scale) -> (&'a mut [f32], &'a mut [f32]) {
    flat[scale.weight.start..scale.bias.end].split_at_mut(scale.weight.len())
}

pub(super) fn zeros(values: &mut Vec<f32>, len: usize) {
    values.clear();
    values.resize(len, 0.0);
}
