//! A chunk of a batch: sequences that one thread takes through all layers, small enough to stay in its caches.

use std::ops::Range;

use crate::fast::cpu::attention::geometry::{Queries, RowSpan, Sequence};
use crate::fast::cpu::attention::score_table::Attribute;
use crate::fast::cpu::encoder::layer::{Grads, Layer, LayerActivations, Scratch, pair};
use crate::fast::cpu::encoder::step::StepContext;
use crate::fast::cpu::ops::layer_norm::{self, RowDropout};
use crate::fast::cpu::ops::simd::axpy;

/// The rows of a chunk.
#[derive(Debug, Default)]
pub struct Rows {
    pub sequences: Vec<Sequence>,
    /// How many rows, before all others, are first positions: see [`Padding`].
    pub firsts: usize,
    /// The item of every row.
    pub items: Vec<u32>,
    /// Every row's number in the batch: its sequence's · L + its position.
    numbers: Vec<u64>,
    /// The same of the last rows alone.
    last_numbers: Vec<u64>,
    /// The rows of the last true items.
    pub last: Vec<u32>,
    /// The rows that have a value.
    pub valued: Vec<u32>,
    /// The position of every row.
    pub positions: Vec<u32>,
    pub attributes: Vec<AttributeRows>,
}

/// The vectors of an attribute in a chunk.
#[derive(Debug, Default)]
pub struct AttributeRows {
    /// Of every row, where its vector stands: among those below, or among all where these serve a whole step.
    pub rows: Vec<u32>,
    /// The distinct vectors of the chunk, `[n, dᵢ]`; empty where all serve a whole step.
    pub distinct: Vec<f32>,
}

/// A batch as slices.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// `[B, L]`
    pub items: &'a [i64],
    /// `[B]`
    pub len: &'a [i64],
    pub padding: Padding,
    /// Whether sequences that follow each other share the row of a first item that is the same: where it lies apart and nothing
    /// is dropped, all that becomes of it is a function of the item.
    pub share: bool,
}

/// What is computed for padded positions. Where these have no values, a sequence's first position sees itself alone, whatever
/// it asks: it lies apart, without a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Nothing: under `sum`, and in SASRec and SASRecF, no true position sees them.
    LeftOut,
    /// All but values: `concat` and `gate` see their scores, and the mask then leaves them no probability. Nothing where a
    /// sequence has one true item.
    Unvalued,
    /// Everything: under SASRecD's `max` pooling scores are so large that the mask of −10000 does not reach them.
    Kept,
}

/// What a chunk keeps between its forward and its backward pass.
#[derive(Debug, Default)]
pub struct Activations {
    pub rows: Rows,
    /// What SASRecF projects.
    projected: Vec<f32>,
    /// Normalised rows and 1 / σ of the embedding's LayerNorm.
    embedded: (Vec<f32>, Vec<f32>),
    layers: Vec<LayerActivations>,
    /// `[sequences, H]`: at first the output, then its gradient; after the backward pass that of the embedded items,
    /// `[rows, H]`.
    pub output: Vec<f32>,
}

/// By attribute: where a vector stands among the distinct ones of a chunk.
#[derive(Debug)]
pub struct VectorIndex(Vec<Vec<u32>>);

const NOWHERE: u32 = u32::MAX;

impl VectorIndex {
    pub fn new(attributes: &[Attribute]) -> Self {
        Self(attributes.iter().map(|attribute| vec![NOWHERE; attribute.classes()]).collect())
    }
}

impl Rows {
    /// Takes the sequences `range` of a batch.
    ///
    /// First positions that lie apart come first, each with a value.
    pub fn fill(
        &mut self,
        batch: Sequences,
        range: Range<usize>,
        all: &[Attribute],
        VectorIndex(index): &mut VectorIndex,
    ) {
        let length = batch.items.len() / batch.len.len();
        let Self { sequences, firsts, items, numbers, last_numbers, last, valued, positions, attributes } = self;
        sequences.clear();
        [&mut *numbers, &mut *last_numbers].into_iter().for_each(Vec::clear);
        [&mut *items, &mut *last, &mut *valued, &mut *positions].into_iter().for_each(Vec::clear);
        let begins = |sequence: usize| batch.items[sequence * length];
        let is_new =
            |&sequence: &usize| !batch.share || sequence == range.start || begins(sequence) != begins(sequence - 1);
        let mut push = |sequence: usize, position: usize| {
            numbers.push((sequence * length + position) as u64);
            positions.push(position as u32);
            items.push(batch.items[sequence * length + position] as u32);
            items.len()
        };
        let apart = batch.padding != Padding::Kept;
        *firsts = 0;
        if apart {
            range.clone().filter(is_new).for_each(|sequence| *firsts = push(sequence, 0));
            valued.extend(0..*firsts as u32);
        }
        let (mut n_rows, mut begun) = (*firsts, 0);
        for sequence in range.clone() {
            let true_items = batch.len[sequence] as usize;
            let (rows, with_value) = match batch.padding {
                Padding::LeftOut => (true_items, true_items),
                // A single key has the whole probability, whatever its score.
                Padding::Unvalued if true_items == 1 => (1, 1),
                Padding::Unvalued => (length, true_items),
                Padding::Kept => (length, length),
            };
            begun += usize::from(is_new(&sequence));
            let (own, span) = (usize::from(apart), |next| match apart {
                true => RowSpan { first: begun - 1, second: next },
                false => RowSpan { first: next, second: next + 1 },
            });
            let (keys, values) = (span(n_rows), span(valued.len()));
            sequences.push(Sequence { keys, rows, items: true_items, values, valued: with_value });
            last_numbers.push((sequence * length + true_items - 1) as u64);
            last.push(keys.row(true_items - 1) as u32);
            valued.extend((own..with_value).map(|i| keys.row(i) as u32));
            (own..rows).for_each(|i| n_rows = push(sequence, i));
        }
        attributes.resize_with(all.len(), AttributeRows::default);
        for ((attribute, vectors), index) in all.iter().zip(attributes).zip(index) {
            vectors.fill(attribute, items, index);
        }
    }

    /// Whether every row has a value.
    pub fn all_valued(&self) -> bool {
        self.valued.len() == self.items.len()
    }

    /// The numbers of a layer's queries.
    pub fn numbers(&self, queries: Queries) -> &[u64] {
        match queries {
            Queries::All => &self.numbers,
            Queries::Last => &self.last_numbers,
        }
    }
}

impl AttributeRows {
    fn fill(&mut self, attribute: &Attribute, items: &[u32], index: &mut [u32]) {
        let Self { rows, distinct } = self;
        rows.clear();
        distinct.clear();
        rows.extend(items.iter().map(|&item| attribute.class[item as usize]));
        if attribute.shared {
            return;
        }
        let classes = rows.clone();
        for row in rows {
            let place = &mut index[*row as usize];
            if *place == NOWHERE {
                *place = (distinct.len() / attribute.size) as u32;
                distinct.extend_from_slice(&attribute.vectors[*row as usize * attribute.size..][..attribute.size]);
            }
            *row = *place;
        }
        classes.into_iter().for_each(|class| index[class as usize] = NOWHERE);
    }
}

impl Activations {
    /// Takes the rows through all layers; leaves the output of the last true items.
    pub fn forward(&mut self, step: &StepContext, scratch: &mut Scratch) {
        let n = self.rows.items.len();
        self.layers.resize_with(step.layout.layers.len(), LayerActivations::default);
        let mut hidden = std::mem::take(&mut self.layers[0].input);
        step.layout.input.forward(step, &self.rows, &mut self.projected, &mut self.embedded.0);
        self.embedded.1.resize(n, 0.0);
        hidden.resize(n * step.h, 0.0);
        let norm = step.norm(&step.layout.norm);
        layer_norm::embed(norm, &mut self.embedded.0, drops_of(&self.rows, step), &mut self.embedded.1, &mut hidden);
        self.layers[0].input = hidden;
        for k in 0..self.layers.len() {
            let mut out = match self.layers.get_mut(k + 1) {
                Some(above) => std::mem::take(&mut above.input),
                None => std::mem::take(&mut self.output),
            };
            Layer { step, k }.forward(&self.rows, &mut self.layers[k], scratch, &mut out);
            match self.layers.get_mut(k + 1) {
                Some(above) => above.input = out,
                None => self.output = out,
            }
        }
    }

    /// Turns the gradient of the output into that of the embedded items.
    pub fn backward(&mut self, step: &StepContext, scratch: &mut Scratch, into: &mut Grads) {
        let mut grad = std::mem::take(&mut self.output);
        for (k, state) in self.layers.iter().enumerate().rev() {
            Layer { step, k }.backward(&self.rows, state, scratch, &mut grad, into);
        }
        let (norm, scale) = (step.norm(&step.layout.norm), &step.layout.norm);
        let drops = drops_of(&self.rows, step);
        layer_norm::embed_backward(
            norm,
            &self.embedded.0,
            &self.embedded.1,
            drops,
            &mut grad,
            pair(&mut into.flat, scale),
        );
        step.layout.input.backward(step, &self.rows, &mut self.projected, &mut grad, &mut into.flat);
        self.output = grad;
    }

    /// Adds the embedded items' gradient to the rows `items` of the item embedding's. Look-ups give the padding item none.
    ///
    /// # Shapes
    /// ditem_embedding `[items, H]`
    pub fn scatter(&self, items: Range<usize>, ditem_embedding: &mut [f32]) {
        let h = self.output.len() / self.rows.items.len();
        for (&item, grad) in self.rows.items.iter().zip(self.output.chunks_exact(h)) {
            let item = item as usize;
            if item != 0 && items.contains(&item) {
                axpy(1.0, grad, &mut ditem_embedding[(item - items.start) * h..][..h]);
            }
        }
    }
}

/// The dropout behind the embedding.
fn drops_of<'a>(rows: &'a Rows, step: &StepContext) -> RowDropout<'a> {
    RowDropout { dropout: step.hidden_dropout, place: step.stream.part(0), rows: &rows.numbers }
}
