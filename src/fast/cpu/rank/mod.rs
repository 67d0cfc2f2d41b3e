//! Ranks of targets among all items: a product, and a count of better items instead of a sort.
//!
//! First the score of each target is taken, then the items of a better score are counted. Processes that share the items out
//! do both for their own [`blocks`]; they exchange the targets' scores in between and the counts at the end, whose sums
//! are exact.
//!
//! [`int16`] decides almost all items in integers, where the processor has a kernel for that; [`float32`] computes all
//! scores. Ranks are those of float32 scores either way, whatever the precision of training: in bfloat16 items would
//! tie that are not equal.

pub mod blocks;
pub mod float32;
pub mod int16;

use self::blocks::Block;
use self::float32::Products;
use self::int16::{Extent, Prefilter};
use crate::eval::Ranking;

/// The items that a process ranks among.
#[derive(Debug)]
pub struct RankedItems<'a> {
    blocks: Vec<Block<'a>>,
    h: usize,
    prefilter: Option<Prefilter>,
}

/// How many items have a better score than a target, and how many the same.
pub type Counts = [u32; 2];

impl<'a> RankedItems<'a> {
    /// `extent`: that of all items, here and elsewhere.
    pub fn new(blocks: Vec<Block<'a>>, h: usize, extent: Extent) -> Self {
        Self { prefilter: Prefilter::new(&blocks, h, extent), blocks, h }
    }

    /// The scores of those targets that are here, in their order. `products` keeps what [`RankedItems::count`] goes on with.
    pub fn target_scores(&self, sequences: &[f32], targets: &[i64], products: &mut Products) -> Vec<f32> {
        match self.prefilter_of(sequences) {
            Some(_) => {
                let rows = sequences.chunks_exact(self.h).zip(targets);
                rows.filter_map(|(row, &target)| Some(int16::score(row, self.row(target as usize)?))).collect()
            }
            None => products.target_scores(&self.blocks, self.h, sequences, targets),
        }
    }

    /// Counts the items that are here by the scores of all targets, a target itself as one of the same score; `None` if a
    /// score is not a finite number.
    ///
    /// # Shapes
    /// sequences `[n, H]`, scores `[n]`
    pub fn count(&self, sequences: &[f32], scores: &[f32], products: &mut Products) -> Option<Vec<Counts>> {
        match self.prefilter_of(sequences) {
            Some(prefilter) => Some(prefilter.count(&self.blocks, sequences, scores)),
            None => products.count(&self.blocks, self.h, sequences, scores),
        }
    }

    fn prefilter_of(&self, sequences: &[f32]) -> Option<&Prefilter> {
        self.prefilter.as_ref().filter(|prefilter| prefilter.takes(sequences))
    }

    /// The vector of an item, if it is here.
    fn row(&self, item: usize) -> Option<&[f32]> {
        let block = self.blocks.partition_point(|block| block.first <= item).checked_sub(1)?;
        let Block { first, rows } = &self.blocks[block];
        rows.get((item - first) * self.h..(item - first + 1) * self.h)
    }
}

/// From counts among all items, of which each target is one of its own score.
pub fn ranking(counts: &[Counts]) -> Ranking {
    let (rank, ties) = counts.iter().map(|[better, same]| (*better as usize, *same as usize - 1)).unzip();
    Ranking { rank, ties }
}
