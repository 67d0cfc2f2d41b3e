//! The order in which summands of several threads become one sum, whichever process the threads are in.
//!
//! Sums of floats depend on their order, so that the order is fixed by the summands' numbers alone: neighbours first, then
//! pairs of neighbours, then pairs of these.
//!
//! ```text
//! 0   1   2   3   4   5   6
//! └─+─┘   └─+─┘   └─+─┘   │
//!   └───+───┘       └──+──┘
//!       └───────+──────┘
//! ```
//!
//! A rank adds what the tree lets it add alone, its branches. Of T summands, T a power of two, that leaves one; else a few.

use std::ops::Range;

/// The order of a sum whose summands lie at several ranks.
#[derive(Debug, Clone)]
pub struct Tree {
    n: usize,
    /// The summands of each rank, which follow each other.
    owners: Vec<Range<usize>>,
}

/// The summand `to` becomes the sum of `span`, by adding `from`.
struct Addition {
    to: usize,
    from: usize,
    span: Range<usize>,
}

impl Tree {
    /// The order of as many summands as the owners have, who follow each other.
    pub fn new(owners: Vec<Range<usize>>) -> Self {
        Self { n: owners.iter().map(|own| own.end).max().unwrap_or(0), owners }
    }

    fn additions(&self) -> impl Iterator<Item = Addition> {
        let n = self.n;
        let strides = std::iter::successors(Some(1_usize), |stride| stride.checked_mul(2));
        strides.take_while(move |&stride| stride < n).flat_map(move |stride| {
            let both = (0..n - stride).step_by(2 * stride);
            both.map(move |to| Addition { to, from: to + stride, span: to..(to + 2 * stride).min(n) })
        })
    }

    fn is_within(own: &Range<usize>, span: &Range<usize>) -> bool {
        own.start <= span.start && span.end <= own.end
    }

    /// Adds up a rank's own summands as far as the tree lets it; `add` adds its second to its first.
    pub fn add_own<T>(&self, rank: usize, own: &mut [T], add: impl Fn(&mut T, &T)) {
        let range = &self.owners[rank];
        for Addition { to, from, .. } in self.additions().filter(|addition| Self::is_within(range, &addition.span)) {
            let (head, tail) = own.split_at_mut(from - range.start);
            add(&mut head[to - range.start], &tail[0]);
        }
    }

    /// Which of a rank's own summands [`Tree::add_own`] leaves, counted from its first: the branches that travel.
    pub fn branches(&self, rank: usize) -> Vec<usize> {
        let range = &self.owners[rank];
        let mut left: Vec<usize> = (0..range.len()).collect();
        for Addition { from, span, .. } in self.additions() {
            if Self::is_within(range, &span) {
                left.retain(|&summand| summand != from - range.start);
            }
        }
        left
    }

    /// What is still to add when the branches of all ranks lie one after the other: pairs of places, of which the second is
    /// added to the first. The sum is then at the first place.
    pub fn between_branches(&self) -> Vec<(usize, usize)> {
        let branches = (0..self.owners.len()).flat_map(|rank| {
            let start = self.owners[rank].start;
            self.branches(rank).into_iter().map(move |branch| start + branch)
        });
        let branches: Vec<usize> = branches.collect();
        let place = |summand: usize| branches.binary_search(&summand).expect("an addition is of branches");
        let left = self.additions().filter(|a| !self.owners.iter().any(|own| Self::is_within(own, &a.span)));
        left.map(|addition| (place(addition.to), place(addition.from))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks::team::consecutive;

    /// The sum as a term: `((0+1)+2)`.
    fn term(owners: Vec<Range<usize>>) -> (String, usize) {
        let tree = Tree::new(owners.clone());
        let add = |to: &mut String, from: &String| *to = format!("({to}+{from})");
        let mut branches = Vec::new();
        for (rank, own) in owners.into_iter().enumerate() {
            let mut own: Vec<String> = own.map(|summand| summand.to_string()).collect();
            tree.add_own(rank, &mut own, add);
            branches.extend(tree.branches(rank).into_iter().map(|branch| own[branch].clone()));
        }
        let travelled = branches.len();
        for (to, from) in tree.between_branches() {
            let from = branches[from].clone();
            add(&mut branches[to], &from);
        }
        (branches.swap_remove(0), travelled)
    }

    /// Of ranks that have so many summands each.
    fn ranks(sizes: &[usize]) -> Vec<Range<usize>> {
        consecutive(sizes.iter().copied())
    }

    #[test]
    fn the_order_is_a_tree_of_neighbours() {
        assert_eq!(term(ranks(&[1])).0, "0");
        assert_eq!(term(ranks(&[2])).0, "(0+1)");
        // Of up to three summands it is the order of a plain loop.
        assert_eq!(term(ranks(&[3])).0, "((0+1)+2)");
        assert_eq!(term(ranks(&[7])).0, "(((0+1)+(2+3))+((4+5)+6))");
    }

    #[test]
    fn who_has_which_summands_does_not_change_the_order() {
        for n in 1..=17 {
            let (alone, _) = term(ranks(&[n]));
            for first in 0..=n {
                assert_eq!(term(ranks(&[first, n - first])).0, alone, "{first} of {n}");
                for second in 0..=n - first {
                    let sizes = [first, second, n - first - second];
                    assert_eq!(term(ranks(&sizes)).0, alone, "{sizes:?}");
                }
            }
            assert_eq!(term(ranks(&vec![1; n])).0, alone, "{n} ranks of one");
        }
    }

    #[test]
    fn of_a_power_of_two_threads_one_vector_a_rank_travels() {
        for threads in [1, 2, 4, 8] {
            for n_ranks in 1..=5 {
                assert_eq!(term(ranks(&vec![threads; n_ranks])).1, n_ranks, "{n_ranks} x {threads}");
            }
        }
        assert_eq!(term(ranks(&[3, 3])).1, 4);
    }
}
