//! Where the rows of a sequence lie in its micro-batch.

/// A sequence of a micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Sequence {
    /// Its rows, which are the keys of attention.
    pub keys: RowSpan,
    /// How many rows it has: L, or its items alone.
    pub n_keys: usize,
    /// How many items it has without padding, 1 to L.
    pub len: usize,
    /// How many of its keys, from the first, have a probability: that of all later ones is exactly 0.
    pub n_attended: usize,
}

/// The rows of a sequence: that of its first position, which may be separate, and those of the others, which are
/// contiguous.
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
