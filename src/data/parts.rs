//! Which interactions stand in which file, where the splits are files.

use super::interactions::Interactions;
use super::table::Ragged;

/// Which interactions of a data set are in which file.
#[derive(Debug)]
pub struct Parts {
    /// Behind the last interaction of each of the three.
    ends: [usize; 3],
    /// The history of each interaction, where the files state it.
    pub(super) lists: Option<Ragged>,
}

impl Parts {
    /// `rows` of the files; `item` gives the id of a token of their histories.
    pub(super) fn new(inter: &Interactions, rows: &[usize], mut item: impl FnMut(i64) -> i64) -> Self {
        let mut end = 0;
        let ends: Vec<usize> = (inter.tables.iter())
            .map(|table| {
                end += table.n_rows();
                rows.partition_point(|&row| row < end)
            })
            .collect();
        let lists = inter.lists.as_ref().map(|lists| {
            let mut numbered = Ragged::default();
            rows.iter().for_each(|&row| numbered.push(lists.ids.row(row).iter().map(|&token| item(token))));
            numbered
        });
        Self { ends: [ends[0], ends[1], ends[2]], lists }
    }

    /// The file, from 0, of an interaction.
    pub(super) fn of(&self, interaction: usize) -> usize {
        self.ends.partition_point(|&end| end <= interaction)
    }
}
