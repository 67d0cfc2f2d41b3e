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
    /// How many rows, before all others, are separate first positions: their only key is themselves, and their query
    /// is not used.
    pub n_first: usize,
}

/// A query of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// The row of its context in the micro-batch.
    pub row: usize,
    pub position: usize,
    /// Its index among the queries at hand: the sequence's, or in the last layer the micro-batch's.
    pub local: usize,
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
    /// Where the first row begins.
    pub offset: usize,
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
        self.offset + row * self.row + head * self.head
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
        rows.zip(positions).map(move |(row, position)| {
            let local = if self.queries == Queries::All { position } else { row };
            Query { row, position, local }
        })
    }

    /// The first position that has a query.
    #[inline(always)]
    pub fn first_query(self) -> usize {
        usize::from(self.n_first > 0)
    }

    /// The width of a row that holds key and value: query, key and value, or the row that is both.
    #[inline(always)]
    pub fn row_width(self) -> usize {
        match self.queries {
            Queries::All => 3 * self.h,
            Queries::Last => self.h,
        }
    }

    /// The strides of queries: of a sequence's rows, or of the micro-batch's absorbed queries.
    #[inline(always)]
    pub fn query_strides(self, sequences: &[Sequence]) -> HeadStrides {
        match self.queries {
            Queries::All => self.part_strides(0),
            Queries::Last => self.context_strides(sequences),
        }
    }

    /// The strides of keys in a sequence's rows.
    #[inline(always)]
    pub fn key_strides(self) -> HeadStrides {
        self.part_strides(1)
    }

    /// The strides of values in a sequence's rows.
    #[inline(always)]
    pub fn value_strides(self) -> HeadStrides {
        self.part_strides(2)
    }

    /// The strides of contexts: `[rows, H]`, or `[heads, queries, H]` of absorbed queries.
    #[inline(always)]
    pub fn context_strides(self, sequences: &[Sequence]) -> HeadStrides {
        let (h, d) = (self.h, self.h / self.heads);
        match self.queries {
            Queries::All => HeadStrides { offset: 0, row: h, head: d, width: d },
            Queries::Last => HeadStrides { offset: 0, row: h, head: sequences.len() * h, width: h },
        }
    }

    /// Those of query (0), key (1) or value (2).
    #[inline(always)]
    fn part_strides(self, part: usize) -> HeadStrides {
        let (h, d, row) = (self.h, self.h / self.heads, self.row_width());
        match self.queries {
            Queries::All => HeadStrides { offset: part * h, row, head: d, width: d },
            Queries::Last => HeadStrides { offset: 0, row, head: 0, width: h },
        }
    }
}
