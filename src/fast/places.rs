//! Where the rows of a chunk's sequences lie, and their heads.

use std::ops::Range;

/// A sequence of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    pub keys: Span,
    /// Its rows: L, or its true items alone.
    pub rows: usize,
    /// Its true items, 1 to L.
    pub items: usize,
    /// Its rows among the values, and how many it has there: probabilities of later keys are exactly 0.
    pub values: Span,
    pub valued: usize,
}

/// Where a sequence's rows lie: the first position's may lie apart, the others follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub first: usize,
    pub second: usize,
}

impl Span {
    /// The row of a position.
    #[inline(always)]
    pub fn row(self, position: usize) -> usize {
        if position == 0 { self.first } else { self.second + position - 1 }
    }
}

/// The queries of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queries {
    /// Every row.
    All,
    /// The last true item of each sequence, which meets the rows as they are ([`super::lift`]).
    Last,
}

/// Where a row of a head lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// From a row to the next, and from a head to the next.
    pub row: usize,
    pub head: usize,
    pub width: usize,
}

impl Places {
    #[inline(always)]
    pub fn of(self, row: usize, head: usize) -> Range<usize> {
        let start = row * self.row + head * self.head;
        start..start + self.width
    }
}
