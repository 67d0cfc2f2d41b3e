//! Where looked-up rows of a table are: in the table, or, of one that ranks share out, brought here from their owners.

use std::borrow::Cow;
use std::ops::Range;

use crate::Result;
use crate::ranks::Team;

/// The rows of a table by their numbers.
#[derive(Debug)]
pub enum LookUp<'a> {
    /// The whole table.
    Whole {
        /// `[n, width]`
        rows: Cow<'a, [f32]>,
        width: usize,
    },
    /// Some rows of it.
    Fetched(Fetched),
}

/// Rows that were brought here.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Their numbers, ascending.
    ids: Vec<u32>,
    /// `[ids, width]`
    rows: Vec<f32>,
    width: usize,
}

/// A table of which each rank has the rows `owners`, in their order.
#[derive(Debug, Clone, Copy)]
pub struct SharedTable<'a> {
    pub owners: &'a [Range<usize>],
    /// Those of this rank, `[own, width]`.
    pub rows: &'a [f32],
    pub width: usize,
}

impl Fetched {
    /// In the order of their numbers, `[ids, width]`.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }
}

impl LookUp<'_> {
    /// A row.
    ///
    /// # Panics
    /// It was not brought here.
    pub fn row(&self, id: usize) -> &[f32] {
        let (rows, width, at) = match self {
            Self::Whole { rows, width } => (&rows[..], *width, id),
            Self::Fetched(Fetched { ids, rows, width }) => {
                (&rows[..], *width, ids.binary_search(&(id as u32)).expect("a row that was asked for"))
            }
        };
        &rows[at * width..][..width]
    }
}

impl SharedTable<'_> {
    /// Brings the rows that each rank wants to it: `wanted` are their numbers, ascending, by rank. Of other ranks those that
    /// lie here are enough. All ranks have the same batch, and know what others want without being asked.
    ///
    /// # Errors
    /// A lost rank.
    pub fn fetch(self, team: &Team, mut wanted: Vec<Vec<u32>>) -> Result<Fetched> {
        let Self { owners, rows, width } = self;
        let own = &owners[team.rank()];
        let within = |ids: &[u32], range: &Range<usize>| {
            let edge = |end: usize| ids.partition_point(|&id| (id as usize) < end);
            edge(range.start)..edge(range.end)
        };
        let to = wanted.iter().map(|ids| {
            let ids = &ids[within(ids, own)];
            ids.iter().flat_map(|&id| &rows[(id as usize - own.start) * width..][..width]).copied().collect()
        });
        let to: Vec<Vec<f32>> = to.collect();
        let ids = std::mem::take(&mut wanted[team.rank()]);
        let received: Vec<usize> = owners.iter().map(|owner| within(&ids, owner).len() * width).collect();
        Ok(Fetched { rows: team.exchange(&to, &received)?, ids, width })
    }
}
