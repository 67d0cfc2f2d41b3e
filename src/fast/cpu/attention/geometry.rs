//! Where the rows of a chunk's sequences lie, and their heads.

use std::ops::Range;

use super::Attention;
use crate::fast::cpu::ops::simd::LANES;

/// A sequence of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Sequence {
    pub keys: RowSpan,
    /// Its rows: L, or its true items alone.
    pub rows: usize,
    /// Its true items, 1 to L.
    pub items: usize,
    /// Its rows among the values, and how many it has there: probabilities of later keys are exactly 0.
    pub values: RowSpan,
    pub valued: usize,
}

/// Where a sequence's rows lie: the first position's may lie apart, the others follow each other.
#[derive(Debug, Clone, Copy)]
pub struct RowSpan {
    pub first: usize,
    pub second: usize,
}

impl RowSpan {
    /// The row of a position.
    #[inline(always)]
    pub fn row(self, position: usize) -> usize {
        if position == 0 { self.first } else { self.second + position - 1 }
    }
}

/// The queries of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// Every row.
    All,
    /// The last true item of each sequence, which meets the rows as they are ([`super::lift`]).
    Last,
}

/// Where a row of a head lies.
#[derive(Debug, Clone, Copy)]
pub struct HeadStrides {
    /// From a row to the next, and from a head to the next.
    pub row: usize,
    pub head: usize,
    pub width: usize,
}

impl HeadStrides {
    #[inline(always)]
    pub fn of(self, row: usize, head: usize) -> Range<usize> {
        let start = row * self.row + head * self.head;
        start..start + self.width
    }
}

impl Attention<'_> {
    /// Of a sequence with its number in the chunk: the rows of its queries, and their positions.
    #[inline(always)]
    pub fn queries(self, number: usize, sequence: Sequence) -> impl Iterator<Item = (usize, usize)> + Clone {
        match self.queries {
            Queries::All => (sequence.keys.row(self.from())..).zip(self.from()..sequence.rows),
            Queries::Last => (number..).zip(sequence.items - 1..sequence.items),
        }
    }

    /// The first position that asks.
    #[inline(always)]
    pub fn from(self) -> usize {
        usize::from(self.firsts > 0)
    }

    /// Of a context's row, that of its query.
    #[inline(always)]
    pub fn query(self, row: usize) -> usize {
        match self.queries {
            Queries::All => row - self.firsts,
            Queries::Last => row,
        }
    }

    /// The contexts of first positions that lie apart.
    #[inline(always)]
    pub fn alone(self) -> Range<usize> {
        match self.queries {
            Queries::All => 0..self.firsts,
            Queries::Last => 0..0,
        }
    }

    /// Where queries and contexts lie.
    #[inline(always)]
    pub fn asking(self, sequences: &[Sequence]) -> HeadStrides {
        match self.queries {
            Queries::All => self.seen(),
            Queries::Last => HeadStrides { row: self.h, head: sequences.len() * self.h, width: self.h },
        }
    }

    /// Where keys and values lie.
    #[inline(always)]
    pub fn seen(self) -> HeadStrides {
        let (head, width) = match self.queries {
            Queries::All => (self.h / self.heads, self.h / self.heads),
            Queries::Last => (0, self.h),
        };
        HeadStrides { row: self.h, head, width }
    }

    /// Where a sequence's values are.
    #[inline(always)]
    pub fn values(self, sequence: Sequence) -> RowSpan {
        match self.queries {
            Queries::All => sequence.values,
            Queries::Last => sequence.keys,
        }
    }

    /// The blocks of lanes of a sequence's maps: a single key has the whole probability, whatever its score, and no maps.
    #[inline(always)]
    pub fn blocks(self, sequence: Sequence) -> usize {
        match (sequence.rows, self.queries) {
            (1, _) => 0,
            (rows, Queries::All) => ((rows - self.from()) * self.heads).div_ceil(LANES),
            (_, Queries::Last) => self.heads.div_ceil(LANES),
        }
    }
}
