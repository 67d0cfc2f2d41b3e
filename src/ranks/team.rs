//! The threads of all ranks as one team: who has what, and sums over all of them.

use std::ops::Range;

use super::{Plain, Ranks, Tree};
use crate::Result;

/// The threads of all ranks, numbered through: rank r has the T threads from r · T on. What a thread does follows from its
/// number in the team alone, so that R ranks of T threads do what one process of R · T threads does.
#[derive(Debug, Clone)]
pub struct Team {
    ranks: Ranks,
    threads: usize,
}

impl Team {
    /// A team in which every rank has so many threads.
    pub fn new(ranks: Ranks, threads: usize) -> Self {
        Self { ranks, threads }
    }

    /// A team in one process.
    pub fn alone(threads: usize) -> Self {
        Self::new(Ranks::alone(), threads)
    }

    /// Whether it is in one process.
    pub fn is_alone(&self) -> bool {
        self.ranks.is_alone()
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.ranks.rank()
    }

    /// How many processes there are.
    pub fn ranks(&self) -> usize {
        self.ranks.size()
    }

    /// Threads of a rank.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Threads of all ranks.
    pub fn all(&self) -> usize {
        self.threads * self.ranks()
    }

    /// Which of `n` things each rank has where every thread has `each` of them, the last ones fewer or none.
    pub fn ranges(&self, n: usize, each: usize) -> Vec<Range<usize>> {
        let edge = |rank: usize| (rank * self.threads * each).min(n);
        (0..self.ranks()).map(|rank| edge(rank)..edge(rank + 1)).collect()
    }

    /// How many of `n` things a thread has where all threads share them out, the last ones fewer or none.
    pub fn share(&self, n: usize) -> usize {
        n.div_ceil(self.all())
    }

    /// Which of `n` things each rank then has: the items of a catalogue that is shared out.
    pub fn shares(&self, n: usize) -> Vec<Range<usize>> {
        self.ranges(n, self.share(n))
    }

    /// Which of `n` things each rank has where ranks share them out evenly.
    pub fn even(&self, n: usize) -> Vec<Range<usize>> {
        let edge = |rank: usize| n * rank / self.ranks();
        (0..self.ranks()).map(|rank| edge(rank)..edge(rank + 1)).collect()
    }

    /// All elements, of which this rank has `own`, and each rank the part that `parts` says.
    ///
    /// # Errors
    /// A rank that has ended, or does not answer in time: a lost rank.
    pub fn gather<T: Plain>(&self, mut own: Vec<T>, parts: &[Range<usize>]) -> Result<Vec<T>> {
        if self.is_alone() {
            return Ok(own);
        }
        let most = parts.iter().map(Range::len).max().unwrap_or(0);
        own.resize(most, T::default());
        let mut all = self.ranks.gather(&own)?;
        let mut end = 0;
        for (rank, part) in parts.iter().enumerate() {
            let start = rank * most;
            if start != end {
                all.copy_within(start..start + part.len(), end);
            }
            end += part.len();
        }
        all.truncate(end);
        Ok(all)
    }

    /// What every rank has for this one, in their order. `to` is what this rank has for each; `received` is how many
    /// elements each has for this one.
    ///
    /// # Errors
    /// A lost rank.
    pub fn exchange<T: Plain>(&self, to: &[Vec<T>], received: &[usize]) -> Result<Vec<T>> {
        let sent: Vec<usize> = to.iter().map(Vec::len).collect();
        self.ranks.exchange(&to.concat(), &sent, received)
    }

    /// The same where the receivers do not know how many elements there are.
    ///
    /// # Errors
    /// A lost rank.
    pub fn exchange_unknown<T: Plain>(&self, to: &[Vec<T>]) -> Result<Vec<T>> {
        let sent: Vec<u64> = to.iter().map(|to| to.len() as u64).collect();
        let counts = self.ranks.gather(&sent)?;
        let received: Vec<usize> = counts.chunks(self.ranks()).map(|sent| sent[self.rank()] as usize).collect();
        self.exchange(to, &received)
    }

    /// This rank's part of a sum of vectors, in the order of the tree: `branches` are what [`Tree::branches`] says of this
    /// rank's vectors, and `wanted` is the part that each rank gets.
    ///
    /// # Errors
    /// A lost rank.
    pub fn sum_parts(&self, tree: &Tree, branches: &[&[f32]], wanted: &[Range<usize>]) -> Result<Vec<f32>> {
        let to = wanted.iter().map(|part| branches.iter().flat_map(|branch| &branch[part.clone()]).copied().collect());
        let to: Vec<Vec<f32>> = to.collect();
        let own = wanted[self.rank()].len();
        let received: Vec<usize> = (0..wanted.len()).map(|rank| tree.branches(rank).len() * own).collect();
        let mut all = self.exchange(&to, &received)?;
        for (to, from) in tree.between_branches() {
            let (head, tail) = all.split_at_mut(from * own);
            head[to * own..][..own].iter_mut().zip(&tail[..own]).for_each(|(to, from)| *to += from);
        }
        all.truncate(own);
        Ok(all)
    }

    /// The whole of a sum of vectors: each rank adds up a part of it.
    ///
    /// # Errors
    /// A lost rank.
    pub fn sum(&self, tree: &Tree, branches: &[&[f32]]) -> Result<Vec<f32>> {
        let parts = self.even(branches.first().map_or(0, |branch| branch.len()));
        self.gather(self.sum_parts(tree, branches, &parts)?, &parts)
    }
}

/// Ranges of such lengths, one behind the other from 0 on.
pub fn consecutive(lengths: impl IntoIterator<Item = usize>) -> Vec<Range<usize>> {
    let behind = |end: &mut usize, length: usize| {
        *end += length;
        Some(*end - length..*end)
    };
    lengths.into_iter().scan(0, behind).collect()
}

/// Parts of rows as parts of their elements.
pub fn of_elements(rows: &[Range<usize>], width: usize) -> Vec<Range<usize>> {
    rows.iter().map(|rows| rows.start * width..rows.end * width).collect()
}
