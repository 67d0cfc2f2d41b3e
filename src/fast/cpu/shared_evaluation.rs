//! Evaluation among items that ranks share out: each encodes a part of the sequences, and counts better items of its own
//! for those of all. Products are those of one process, and sums of counts are exact.
//!
//! A round is a micro-batch for each thread of each rank:
//!
//! | | what travels |
//! | --- | --- |
//! | the vectors of the items in a rank's sequences, from their owners | `[items, H]` |
//! | the outputs of its sequences, to all | `[sequences, H]` |
//! | the scores of the targets that it has, to all | `[targets]` |
//! | its counts, to all | `[sequences, 2]` |

use std::ops::Range;

use rayon::prelude::*;

use super::batch::micro_batch::BatchView;
use super::encoder::step::StepContext;
use super::params::look_up::SharedTable;
use super::path::{FastPath, gather};
use super::rank::blocks::{blocks, items_of_blocks};
use super::rank::int16::Extent;
use super::rank::{Counts, RankedItems};
use super::threads::Worker;
use super::train_step::wanted;
use crate::Result;
use crate::eval::not_finite;
use crate::ranks::Team;
use crate::ranks::team::{consecutive, of_elements};

/// In the place of a count where a score is no finite number.
const NOT_FINITE: u32 = u32::MAX;

/// What the rounds of an evaluation share.
struct SharedRounds<'a> {
    team: &'a Team,
    view: BatchView<'a>,
    targets: &'a [i64],
    /// Sequences of a micro-batch.
    size: usize,
    items: RankedItems<'a>,
    /// The items that each process counts.
    ranked: Vec<Range<usize>>,
    /// The vectors that each rank has.
    vectors: SharedTable<'a>,
    /// Query, key and value of the items that this rank ranks among, where there is an item cache.
    cache: Option<Vec<f32>>,
}

impl FastPath {
    /// How many items are better than each target, and how many equal it, over all ranks. `progress` gets the number of
    /// sequences done after every round.
    pub(super) fn count_among_shares(
        &mut self,
        view: BatchView,
        targets: &[i64],
        size: usize,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Counts>> {
        let Self { pool, encoder, parameters, flat, workers, catalogue, held, n_items, team, .. } = self;
        let (team, n) = (&*team, targets.len());
        let parameters = gather(encoder, parameters, (held.start, *n_items), flat);
        let (items, h) = (parameters.items, parameters.items.h);
        let vectors = SharedTable { owners: catalogue.owners(), rows: items.rows, width: h };
        let ranked: Vec<Range<usize>> = vectors.owners.iter().map(|held| items_of_blocks(held, *n_items)).collect();
        let rest = vectors.fetch(team, rests(vectors.owners, &ranked))?;
        let extent = extent_of_all(team, pool.install(|| Extent::of(items.rows, h)))?;
        let (mut step, shares) = pool.install(|| {
            let step = StepContext::new(encoder, parameters, None);
            let blocks = blocks(items, &rest.rows);
            let cache = step
                .wants_item_cache(view.items.len())
                .then(|| step.item_cache_rows(&blocks.iter().map(|block| &block.rows[..]).collect::<Vec<_>>()));
            let items = RankedItems::new(blocks, h, extent);
            (step, SharedRounds { team, view, targets, size, items, ranked, vectors, cache })
        });
        let mut counts = Vec::with_capacity(n);
        let each = size * team.threads();
        for start in (0..n).step_by(each * team.ranks()) {
            let sequences: Vec<Range<usize>> = (0..team.ranks())
                .map(|rank| [rank, rank + 1].map(|rank| (start + rank * each).min(n)))
                .map(|[start, end]| start..end)
                .collect();
            counts.extend(pool.install(|| shares.round(&mut step, &sequences, workers))?);
            progress(counts.len())?;
        }
        Ok(counts)
    }
}

/// The items of each rank's last block that others have.
fn rests(owners: &[Range<usize>], ranked: &[Range<usize>]) -> Vec<Vec<u32>> {
    let rest = |(own, ranked): (&Range<usize>, &Range<usize>)| {
        (own.end.max(ranked.start)..ranked.end).map(|item| item as u32).collect()
    };
    owners.iter().zip(ranked).map(rest).collect()
}

/// That of all ranks' items.
fn extent_of_all(team: &Team, Extent { norm, largest }: Extent) -> Result<Extent> {
    let each: Vec<Range<usize>> = (0..team.ranks()).map(|rank| 2 * rank..2 * rank + 2).collect();
    let all = team.gather(vec![norm, largest.into()], &each)?;
    let all = all.chunks_exact(2).map(|pair| Extent { norm: pair[0], largest: pair[1] as f32 });
    Ok(all.fold(Extent { norm: 0.0, largest: 0.0 }, Extent::and))
}

impl SharedRounds<'_> {
    /// The counts of the sequences of a round, which `sequences` says by rank.
    fn round(&self, step: &mut StepContext, sequences: &[Range<usize>], workers: &mut [Worker]) -> Result<Vec<Counts>> {
        let Self { team, targets, size, items, ranked, .. } = self;
        let all = sequences[0].start..sequences[sequences.len() - 1].end;
        let targets = &targets[all.clone()];
        let own = self.encode(step, sequences, workers)?;
        let outputs = team.gather(own, &of_elements(sequences, step.h))?;
        let micro_batches: Vec<(&[f32], &[i64])> = outputs.chunks(size * step.h).zip(targets.chunks(*size)).collect();
        let mut own: Vec<Counts> = Vec::with_capacity(targets.len());
        // As many at a time as there are threads, each of which keeps the products between the two.
        for wave in micro_batches.chunks(workers.len()) {
            let scored = wave.par_iter().zip(workers.par_iter_mut());
            let scored =
                scored.map(|((outputs, targets), worker)| items.target_scores(outputs, targets, &mut worker.products));
            let scored: Vec<Vec<f32>> = scored.collect();
            let of_wave: Vec<i64> = wave.iter().flat_map(|(_, targets)| *targets).copied().collect();
            let scores = spread(team, ranked, &of_wave, scored.concat())?;
            let counted = wave.par_iter().zip(workers.par_iter_mut()).zip(scores.par_chunks(*size));
            let counted = counted.map(|(((outputs, _), worker), scores)| {
                let counts = items.count(outputs, scores, &mut worker.products);
                counts.unwrap_or_else(|| vec![[NOT_FINITE, 0]; scores.len()])
            });
            own.extend(counted.collect::<Vec<Vec<Counts>>>().concat());
        }
        let n = targets.len();
        let each: Vec<Range<usize>> = (0..team.ranks()).map(|rank| 2 * n * rank..2 * n * (rank + 1)).collect();
        let all = team.gather(own.into_flattened(), &each)?;
        let mut sum = vec![[0, 0]; n];
        for counts in all.chunks_exact(2 * n) {
            for (sum, counts) in sum.iter_mut().zip(counts.as_chunks::<2>().0) {
                if counts[0] == NOT_FINITE {
                    return Err(not_finite());
                }
                sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        Ok(sum)
    }

    /// Encodes this rank's sequences of a round.
    fn encode(&self, step: &mut StepContext, sequences: &[Range<usize>], workers: &mut [Worker]) -> Result<Vec<f32>> {
        let Self { team, view, size, ranked, vectors, cache, .. } = self;
        let wanted = |owners| wanted(team, owners, *view, sequences, None);
        step.look_up = vectors.fetch(team, wanted(vectors.owners))?;
        if let Some(rows) = cache {
            let table = SharedTable { owners: ranked, rows, width: 3 * vectors.width };
            step.item_cache = Some(table.fetch(team, wanted(ranked))?);
        }
        let (step, own) = (&*step, sequences[team.rank()].clone());
        let starts: Vec<usize> = own.clone().step_by(*size).collect();
        let encoded = starts.into_par_iter().zip(workers.par_iter_mut()).map(|(start, worker)| {
            let Worker { classes, scratch, activations, .. } = worker;
            activations.batch.fill(*view, start..(start + size).min(own.end), step.attributes, classes);
            activations.forward(step, scratch);
            activations.output.clone()
        });
        Ok(encoded.collect::<Vec<Vec<f32>>>().concat())
    }
}

/// The score of every target, of which this rank has `own`: those of its items, in the order of the targets.
fn spread(team: &Team, owners: &[Range<usize>], targets: &[i64], own: Vec<f32>) -> Result<Vec<f32>> {
    let owner = targets.iter().map(|&target| owners.partition_point(|items| items.end <= target as usize));
    let owner: Vec<usize> = owner.collect();
    let mut sizes = vec![0; team.ranks()];
    owner.iter().for_each(|&rank| sizes[rank] += 1);
    let parts = consecutive(sizes);
    let scores = team.gather(own, &parts)?;
    let mut next: Vec<usize> = parts.iter().map(|part| part.start).collect();
    let score = |rank: usize| {
        next[rank] += 1;
        scores[next[rank] - 1]
    };
    Ok(owner.into_iter().map(score).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fast::cpu::rank::blocks::BLOCK;

    /// Every block is ranked by one rank, whatever the shares are.
    #[test]
    fn ranks_share_out_all_blocks_and_ask_for_the_rows_that_they_lack() {
        for (n_items, share) in [(5, 1), (1683, 421), (3000, 1000), (4096, 1024), (10_000, 3334)] {
            let owners: Vec<Range<usize>> =
                (0..n_items).step_by(share).map(|start| start..(start + share).min(n_items)).collect();
            let ranked: Vec<Range<usize>> = owners.iter().map(|own| items_of_blocks(own, n_items)).collect();
            assert_eq!(ranked.iter().map(Range::len).sum::<usize>(), n_items, "{ranked:?}");
            for ((own, ranked), rest) in owners.iter().zip(&ranked).zip(rests(&owners, &ranked)) {
                assert!(ranked.is_empty() || ranked.start.is_multiple_of(BLOCK) && own.contains(&ranked.start));
                let held = ranked.start.max(own.start)..ranked.end.min(own.end).max(ranked.start);
                assert_eq!(held.len() + rest.len(), ranked.len(), "{own:?} {ranked:?}");
            }
        }
    }
}
