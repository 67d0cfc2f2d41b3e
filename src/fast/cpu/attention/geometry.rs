//! Where the rows, heads and lanes of attention lie.

use std::ops::Range;

use crate::fast::cpu::batch::sequence::Sequence;
use crate::fast::cpu::ops::simd::LANES;

/// The queries of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// Every row but separate first positions.
    All,
    /// The last item of each sequence, with absorbed projections (`absorbed.rs`): keys and values are the
    /// rows.
    Last,
}

/// The sizes of a layer's attention in a micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// H.
    pub h: usize,
    pub heads: usize,
    /// L.
    pub length: usize,
    pub queries: Queries,
    /// How many rows, before all others, are separate first positions: their only key is themselves, and they have no
    /// query.
    pub n_first: usize,
}

/// A query: the row of its context, and its position in the sequence.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    pub row: usize,
    pub position: usize,
}

/// A sequence with its queries in lanes: lane q · heads + n is its q-th query in head n. A score map of it is
/// `[keys, blocks]` of [`LANES`] lanes each.
#[derive(Debug, Clone, Copy)]
pub struct SequenceLanes {
    /// Its index in the micro-batch.
    pub number: usize,
    pub sequence: Sequence,
    /// Blocks of [`LANES`] lanes; 0 for a single key, which has the whole probability whatever its score.
    pub blocks: usize,
}

impl SequenceLanes {
    /// Lanes of a key.
    #[inline(always)]
    pub fn width(self) -> usize {
        self.blocks * LANES
    }

    /// Blocks of lanes of a whole map.
    #[inline(always)]
    pub fn map_len(self) -> usize {
        self.sequence.n_keys * self.blocks
    }
}

/// Where a row of a head lies.
#[derive(Debug, Clone, Copy)]
pub struct HeadStrides {
    /// From a row to the next.
    pub row: usize,
    /// From a head to the next.
    pub head: usize,
    /// The length of a row in a head.
    pub width: usize,
}

impl HeadStrides {
    #[inline(always)]
    pub fn start(self, row: usize, head: usize) -> usize {
        row * self.row + head * self.head
    }

    #[inline(always)]
    pub fn range(self, row: usize, head: usize) -> Range<usize> {
        let start = self.start(row, head);
        start..start + self.width
    }
}

impl Geometry {
    /// 1 / √d, d being the width of a head.
    #[inline(always)]
    pub fn scale(self) -> f32 {
        1.0 / ((self.h / self.heads) as f32).sqrt()
    }

    /// A sequence of a micro-batch with its number there.
    #[inline(always)]
    pub fn lanes(self, number: usize, sequence: Sequence) -> SequenceLanes {
        let blocks = match (sequence.n_keys, self.queries) {
            (1, _) => 0,
            (rows, Queries::All) => ((rows - self.first_query()) * self.heads).div_ceil(LANES),
            (_, Queries::Last) => self.heads.div_ceil(LANES),
        };
        SequenceLanes { number, sequence, blocks }
    }

    /// The queries of a sequence.
    #[inline(always)]
    pub fn queries(self, lanes: SequenceLanes) -> impl Iterator<Item = Query> + Clone {
        let SequenceLanes { number, sequence, .. } = lanes;
        let (rows, positions) = match self.queries {
            Queries::All => (sequence.keys.row(self.first_query()).., self.first_query()..sequence.n_keys),
            Queries::Last => (number.., sequence.len - 1..sequence.len),
        };
        rows.zip(positions).map(|(row, position)| Query { row, position })
    }

    /// The first position that has a query.
    #[inline(always)]
    pub fn first_query(self) -> usize {
        usize::from(self.n_first > 0)
    }

    /// The row among the queries of a row among the contexts.
    #[inline(always)]
    pub fn query_row(self, row: usize) -> usize {
        match self.queries {
            Queries::All => row - self.n_first,
            Queries::Last => row,
        }
    }

    /// The rows of separate first positions, among the contexts.
    #[inline(always)]
    pub fn first_positions(self) -> Range<usize> {
        match self.queries {
            Queries::All => 0..self.n_first,
            Queries::Last => 0..0,
        }
    }

    /// The strides of queries and contexts.
    #[inline(always)]
    pub fn query_strides(self, sequences: &[Sequence]) -> HeadStrides {
        match self.queries {
            Queries::All => self.key_strides(),
            Queries::Last => HeadStrides { row: self.h, head: sequences.len() * self.h, width: self.h },
        }
    }

    /// The strides of keys and values.
    #[inline(always)]
    pub fn key_strides(self) -> HeadStrides {
        let (head, width) = match self.queries {
            Queries::All => (self.h / self.heads, self.h / self.heads),
            Queries::Last => (0, self.h),
        };
        HeadStrides { row: self.h, head, width }
    }
}
