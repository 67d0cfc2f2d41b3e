//! What attention reads, writes, and keeps for its backward pass.

use super::fusion::Fusion;
use super::geometry::{Geometry, HeadStrides, Queries, SequenceLanes};
use super::side_scores::SideScores;
use crate::fast::cpu::batch::sequence::Sequence;
use crate::fast::cpu::gemm::OperandBuffer;
use crate::fast::cpu::ops::dropout::RowDropout;
use crate::fast::cpu::ops::simd::{LANES, Lanes};

/// The attention of one layer in a micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    pub geometry: Geometry,
    pub fusion: Fusion<'a>,
    pub dropout: RowDropout<'a>,
}

/// Queries, keys and values of a micro-batch. With [`Queries::Last`](super::geometry::Queries::Last) keys and values
/// are the layer's input, and queries are absorbed.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    pub sequences: &'a [Sequence],
    /// Query, key and value of every row, `[rows, 3 H]`; where queries are absorbed the row itself, `[rows, H]`.
    pub rows: &'a OperandBuffer,
    /// Where queries are absorbed `[heads, queries, H]`, else empty.
    pub query: &'a [f32],
    /// Added to the item's scores of a query, `[queries, heads]`: q · b_K where queries are absorbed, else empty.
    pub query_bias: &'a [f32],
    /// Those of the attributes, then those of the positions; none where these enter the input.
    pub side_scores: &'a [SideScores<'a>],
}

/// The output, Σⱼ pⱼ valueⱼ.
#[derive(Debug)]
pub enum Context<'a> {
    /// Of every row, `[rows, H]`.
    All(&'a mut OperandBuffer),
    /// Of absorbed queries.
    Last {
        /// `[heads, queries, H]`
        rows: &'a mut [f32],
        /// Σⱼ pⱼ, `[queries, heads]`.
        prob_sums: &'a mut [f32],
    },
}

/// The gradient of the output.
#[derive(Debug, Clone, Copy)]
pub struct ContextGrad<'a> {
    /// `[rows, H]`, of absorbed queries `[heads, queries, H]`.
    pub rows: &'a [f32],
    /// `[queries, heads]` where queries are absorbed, else empty.
    pub prob_sums: &'a [f32],
}

/// The gradients of the inputs, which are written, and of scores and fusion, which are added to.
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    pub rows: RowGrads<'a>,
    /// Of every table or of its projections.
    pub side_scores: &'a mut [&'a mut [f32]],
    /// Of the fusion's parameters, one after the other.
    pub fusion: &'a mut [Lanes],
}

/// The gradients of queries, keys and values.
#[derive(Debug)]
pub enum RowGrads<'a> {
    /// Of every row, `[rows, 3 H]`.
    All(&'a mut OperandBuffer),
    /// Of absorbed queries, and of the rows as keys and as values.
    Last {
        /// `[heads, queries, H]`
        query: &'a mut [f32],
        /// `[queries, heads]`
        query_bias: &'a mut [f32],
        /// `[rows, H]`
        rows: &'a mut [f32],
    },
}

/// The scores that the forward pass keeps, of one sequence after the other. Sequences of a single key have none.
#[derive(Debug, Default)]
pub struct SavedScores {
    /// Attributes, item and positions, `[maps, keys, blocks]`.
    maps: Vec<Lanes>,
    /// The gate's weight of each map, `[blocks, maps]`.
    gates: Vec<Lanes>,
    /// The softmax, before dropout, `[keys, blocks]`.
    probs: Vec<Lanes>,
}

/// The saved scores of a sequence, or of all that follow: slices to read or to write.
#[derive(Debug)]
pub struct SequenceScores<S> {
    pub maps: S,
    pub gates: S,
    pub probs: S,
}

impl AttentionInputs<'_> {
    /// How many score maps there are: the item's and those of the side streams.
    #[inline(always)]
    pub fn n_maps(self) -> usize {
        self.side_scores.len() + 1
    }

    /// The item's map: before that of the positions, which is the last, or the only one.
    #[inline(always)]
    pub fn item_map(self) -> usize {
        self.side_scores.len().saturating_sub(1)
    }

    /// Loads the rows of a sequence, by position.
    ///
    /// # Shapes
    /// out `[keys, 3 H]`, where queries are absorbed `[keys, H]`
    #[inline(always)]
    pub fn load(self, geometry: Geometry, sequence: Sequence, out: &mut Vec<f32>) {
        let width = geometry.row_width();
        out.resize(sequence.n_keys * width, 0.0);
        let (first, others) = out.split_at_mut(width);
        self.rows.load(sequence.keys.first * width, first);
        self.rows.load(sequence.keys.second * width, others);
    }

    /// The map of a side stream.
    #[inline(always)]
    pub fn side_map(self, side: usize) -> usize {
        side + usize::from(side >= self.item_map())
    }
}

impl SavedScores {
    /// Makes room for a micro-batch. All is overwritten but lanes without a query, which reach nothing.
    pub fn resize(&mut self, geometry: Geometry, inputs: AttentionInputs) {
        let lanes = || inputs.sequences.iter().map(|&sequence| geometry.lanes(0, sequence));
        let map: usize = lanes().map(SequenceLanes::map_len).sum();
        let blocks: usize = lanes().map(|lanes| lanes.blocks).sum();
        self.maps.resize(inputs.n_maps() * map, [0.0; LANES]);
        self.gates.resize(inputs.n_maps() * blocks, [0.0; LANES]);
        self.probs.resize(map, [0.0; LANES]);
    }

    #[inline(always)]
    pub fn all(&self) -> SequenceScores<&[Lanes]> {
        SequenceScores { maps: &self.maps[..], gates: &self.gates[..], probs: &self.probs[..] }
    }

    #[inline(always)]
    pub fn all_mut(&mut self) -> SequenceScores<&mut [Lanes]> {
        SequenceScores { maps: &mut self.maps[..], gates: &mut self.gates[..], probs: &mut self.probs[..] }
    }
}

impl<S> SequenceScores<S> {
    /// Takes those of the next sequence off; `take` takes so many from the front of a slice.
    #[inline(always)]
    pub fn next(&mut self, lanes: SequenceLanes, n_maps: usize, take: impl Fn(&mut S, usize) -> Option<S>) -> Self {
        Self {
            maps: take(&mut self.maps, n_maps * lanes.map_len()).expect("as resized"),
            gates: take(&mut self.gates, lanes.blocks * n_maps).expect("as resized"),
            probs: take(&mut self.probs, lanes.map_len()).expect("as resized"),
        }
    }
}

/// Rows by head.
#[derive(Debug, Clone, Copy)]
pub struct HeadRows<'a> {
    pub data: &'a [f32],
    pub strides: HeadStrides,
}

impl<'a> HeadRows<'a> {
    /// The queries: those of a sequence's rows, or absorbed ones.
    #[inline(always)]
    pub fn queries(geometry: Geometry, inputs: AttentionInputs<'a>, rows: &'a [f32]) -> Self {
        let strides = geometry.query_strides(inputs.sequences);
        let data = if geometry.queries == Queries::All { rows } else { inputs.query };
        Self { data, strides }
    }
}
