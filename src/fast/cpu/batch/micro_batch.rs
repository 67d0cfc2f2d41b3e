//! The rows of a micro-batch: which positions of which sequences are computed.
//!
//! A row is a position of a sequence. Separate first positions come first ([`Padding`]), then the rows of each
//! sequence, one sequence after the other.

use std::ops::Range;

use super::attribute::Attribute;
use super::sequence::{RowSpan, Sequence};

/// The rows of a micro-batch.
#[derive(Debug, Default)]
pub struct MicroBatch {
    pub sequences: Vec<Sequence>,
    /// How many rows, before all others, are separate first positions.
    pub n_first: usize,
    /// The item of every row, `[rows]`.
    pub items: Vec<u32>,
    /// The position of every row, `[rows]`.
    pub positions: Vec<u32>,
    /// The number of every row in the whole batch, `[rows]`: its sequence · L + its position.
    pub row_numbers: Vec<u64>,
    /// The rows of the last items, `[sequences]`.
    pub last: Vec<u32>,
    /// Their numbers in the whole batch, `[sequences]`.
    pub last_numbers: Vec<u64>,
    pub attributes: Vec<AttributeRows>,
}

/// The vectors of an attribute in a micro-batch.
#[derive(Debug, Default)]
pub struct AttributeRows {
    /// The index of every row's vector, `[rows]`: among all classes where a score table serves the step, else among
    /// `distinct`.
    pub vector_index: Vec<u32>,
    /// The distinct vectors of the micro-batch, `[n, dᵢ]`; empty where a score table serves the step.
    pub distinct: Vec<f32>,
}

/// A batch as slices.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    /// `[B, L]`
    pub items: &'a [i64],
    /// `[B]`
    pub len: &'a [i64],
    pub padding: Padding,
    /// Whether consecutive sequences that begin with the same item share the row of a separate first position. They may
    /// where nothing is dropped: all that becomes of the row is a function of the item.
    pub share_first: bool,
}

/// What is computed for padded positions.
///
/// Unless they are [`Padding::Kept`], the mask leaves position 0 one key, itself: its context is its value, whatever its
/// query. Its row is therefore *separate*: it stands before the rows of all sequences, and its query is
/// not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Nothing. Under `sum`, and in SASRec and SASRecF, they reach no other position.
    LeftOut,
    /// Under `concat` and `gate` their scores enter the fusion, and the mask then leaves them no probability. Nothing
    /// for a sequence of one item.
    Masked,
    /// As for items. Under SASRecD's `max` pooling scores are so large that the mask of −10000 does not outweigh them.
    Kept,
}

/// By attribute and class: the index of the class's vector among the distinct ones of a micro-batch that is being
/// filled.
#[derive(Debug)]
pub struct ClassIndex(Vec<Vec<u32>>);

const ABSENT: u32 = u32::MAX;

impl ClassIndex {
    pub fn new(attributes: &[Attribute]) -> Self {
        Self(attributes.iter().map(|attribute| vec![ABSENT; attribute.n_classes()]).collect())
    }
}

impl MicroBatch {
    /// Takes the sequences `range` of a batch.
    pub fn fill(&mut self, batch: BatchView, range: Range<usize>, attributes: &[Attribute], index: &mut ClassIndex) {
        self.clear();
        if batch.padding != Padding::Kept {
            self.push_first_positions(batch, range.clone());
        }
        let mut begun = 0;
        for sequence in range.clone() {
            begun += usize::from(batch.begins_anew(sequence, range.start));
            self.push_sequence(batch, sequence, begun);
        }
        self.attributes.resize_with(attributes.len(), AttributeRows::default);
        for ((attribute, rows), index) in attributes.iter().zip(&mut self.attributes).zip(&mut index.0) {
            rows.fill(attribute, &self.items, index);
        }
    }

    fn clear(&mut self) {
        self.n_first = 0;
        self.sequences.clear();
        [&mut self.row_numbers, &mut self.last_numbers].into_iter().for_each(Vec::clear);
        [&mut self.items, &mut self.positions, &mut self.last].into_iter().for_each(Vec::clear);
    }

    /// Separate first positions.
    fn push_first_positions(&mut self, batch: BatchView, range: Range<usize>) {
        for sequence in range.clone().filter(|&sequence| batch.begins_anew(sequence, range.start)) {
            self.push_row(batch, sequence, 0);
        }
        self.n_first = self.items.len();
    }

    /// The rows of a sequence; `begun`: how many sequences up to it began anew.
    fn push_sequence(&mut self, batch: BatchView, sequence: usize, begun: usize) {
        let (length, len) = (batch.length(), batch.len[sequence] as usize);
        let (n_keys, n_attended) = match batch.padding {
            Padding::LeftOut => (len, len),
            // A single key has the whole probability, whatever its score.
            Padding::Masked if len == 1 => (1, 1),
            Padding::Masked => (length, len),
            Padding::Kept => (length, length),
        };
        let separate = batch.padding != Padding::Kept;
        let next = self.items.len();
        let keys = match separate {
            true => RowSpan { first: begun - 1, second: next },
            false => RowSpan { first: next, second: next + 1 },
        };
        self.sequences.push(Sequence { keys, n_keys, len, n_attended });
        self.last_numbers.push((sequence * length + len - 1) as u64);
        self.last.push(keys.row(len - 1) as u32);
        (usize::from(separate)..n_keys).for_each(|position| self.push_row(batch, sequence, position));
    }

    fn push_row(&mut self, batch: BatchView, sequence: usize, position: usize) {
        let number = sequence * batch.length() + position;
        self.row_numbers.push(number as u64);
        self.positions.push(position as u32);
        self.items.push(batch.items[number] as u32);
    }

    /// How many rows there are.
    pub fn n_rows(&self) -> usize {
        self.items.len()
    }
}

impl BatchView<'_> {
    /// L.
    fn length(self) -> usize {
        self.items.len() / self.len.len()
    }

    /// Whether a sequence's first position has a row of its own in a micro-batch that begins with sequence `start`.
    fn begins_anew(self, sequence: usize, start: usize) -> bool {
        let first = |sequence: usize| self.items[sequence * self.length()];
        !self.share_first || sequence == start || first(sequence) != first(sequence - 1)
    }
}

impl AttributeRows {
    fn fill(&mut self, attribute: &Attribute, items: &[u32], index: &mut [u32]) {
        let Self { vector_index, distinct } = self;
        vector_index.clear();
        distinct.clear();
        vector_index.extend(items.iter().map(|&item| attribute.class[item as usize]));
        if attribute.tabulated {
            return;
        }
        let classes = vector_index.clone();
        for row in vector_index {
            let at = &mut index[*row as usize];
            if *at == ABSENT {
                *at = (distinct.len() / attribute.size) as u32;
                distinct.extend_from_slice(&attribute.vectors[*row as usize * attribute.size..][..attribute.size]);
            }
            *row = *at;
        }
        classes.into_iter().for_each(|class| index[class as usize] = ABSENT);
    }
}
