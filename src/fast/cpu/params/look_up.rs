//! Where looked-up rows of a table are: in the table, or, of one that ranks share out, brought here from their owners.

use std::borrow::Cow;
use std::ops::Range;

use crate::Result;
use crate::ranks::Team;

/// The rows of a table by their numbers.
#[derive(Debug)]
pub struct LookUp<'a> {
    /// `[n, width]`
    pub rows: Cow<'a, [f32]>,
    pub width: usize,
    /// The numbers of rows that were brought here, ascending; `None` of the whole table.
    pub ids: Option<Vec<u32>>,
}

/// A table of which each rank has the rows `owners`, in their order.
#[derive(Debug, Clone, Copy)]
pub struct SharedTable<'a> {
    pub owners: &'a [Range<usize>],
    /// Those of this rank, `[own, width]`.
    pub rows: &'a [f32],
    pub width: usize,
}

impl LookUp<'_> {
    /// A row.
    ///
    /// # Panics
    /// It was not brought here.
    pub fn row(&self, id: usize) -> &[f32] {
        let at = match &self.ids {
            Some(ids) => ids.binary_search(&(id as u32)).expect("a row that was asked for"),
            None => id,
        };
        &self.rows[at * self.width..][..self.width]
    }
}

impl SharedTable<'_> {
    /// Brings the rows that each rank wants to it: `wanted` are their numbers, ascending, by rank. Of other ranks those that
    /// lie here are enough. All ranks have the same batch, and know what others want without being asked.
    ///
    /// # Errors
    /// A lost rank.
    pub fn fetch(self, team: &Team, mut wanted: Vec<Vec<u32>>) -> Result<LookUp<'static>> {
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
        Ok(LookUp { rows: team.exchange(&to, &received)?.into(), width, ids: Some(ids) })
    }
}
