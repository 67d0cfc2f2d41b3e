//! What a gate can see: how often it fails where nothing is wrong, and how often it sees a drop of a given size, by
//! simulation from the recorded runs.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal};

use super::reference::Reference;
use super::statistics::{mean, seeds_alone, spread_to_draw};
use super::{Outcome, counted, markdown_table, worst};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// How often each case is drawn.
    pub repetitions: usize,
    /// Of the draws.
    pub seed: u64,
    /// Numbers of runs that are judged.
    pub runs: Vec<usize>,
    /// Shares of the hits that are lost; 0 for none.
    pub drops: Vec<f64>,
}

/// How often each outcome came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Power {
    /// How many recorded runs there are.
    pub recorded: usize,
    /// How many users each has.
    pub users: usize,
    /// How often each case was drawn.
    pub repetitions: usize,
    /// One for each number of runs and each share of hits lost.
    pub cells: Vec<Cell>,
}

/// Shares of outcomes for so many runs and such a drop.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cell {
    pub runs: usize,
    pub drop: f64,
    pub pass: f64,
    pub undecided: f64,
    pub fail: f64,
}

/// The values `[metrics][users]` of a simulated run.
type Run = Vec<Vec<f64>>;

/// Simulates: every repetition draws a reference of as many runs as are recorded and runs to judge, so that the chance of
/// the reference itself is counted too.
///
/// A drawn run takes, user by user, what one of the recorded runs gave this user, and scales all users by a normal factor of
/// each metric, so that the spread between its runs is the recorded one. A drop takes each user's hit with its chance.
pub fn power(reference: &Reference, simulation: &Simulation, mut progress: impl FnMut(usize)) -> Power {
    let recorded = reference.records.len();
    let values: Vec<Vec<Vec<f64>>> = (reference.metrics.iter())
        .map(|&metric| reference.records.iter().map(|record| record.of_users(metric)).collect())
        .collect();
    let together: Vec<f64> = values.iter().map(|runs| seeds_alone(runs).sqrt() / mean(&runs.concat())).collect();
    let values: Vec<Vec<Vec<f64>>> = values.iter().map(|runs| spread_to_draw(runs)).collect();
    let mut draw = Draw { values: &values, together: &together, random: ChaCha8Rng::seed_from_u64(simulation.seed) };

    let sizes: Vec<usize> = BTreeSet::from_iter(simulation.runs.iter().copied()).into_iter().collect();
    let most = sizes.last().copied().unwrap_or(0);
    let mut counts = vec![[0_usize; 3]; sizes.len() * simulation.drops.len()];
    for repetition in 0..simulation.repetitions {
        let drawn: Vec<Run> = (0..recorded).map(|_| draw.run(0.0)).collect();
        let mut cells = counts.iter_mut();
        for &drop in &simulation.drops {
            let ours: Vec<Run> = (0..most).map(|_| draw.run(drop)).collect();
            for (&n, count) in sizes.iter().zip(cells.by_ref()) {
                count[judge(reference, &drawn, &ours[..n]) as usize] += 1;
            }
        }
        progress(repetition + 1);
    }
    let places = simulation.drops.iter().flat_map(|&drop| sizes.iter().map(move |&runs| (drop, runs)));
    let share = |count: usize| count as f64 / simulation.repetitions as f64;
    let cells = places.zip(&counts).map(|((drop, runs), count)| {
        let [pass, undecided, fail] = count.map(share);
        Cell { runs, drop, pass, undecided, fail }
    });
    Power {
        recorded,
        users: reference.records[0].user_count(),
        repetitions: simulation.repetitions,
        cells: cells.collect(),
    }
}

/// Judges runs as [`Reference::judge`] judges recorded ones.
fn judge(reference: &Reference, drawn: &[Run], ours: &[Run]) -> Outcome {
    let of_metric = |runs: &[Run], metric: usize| runs.iter().map(|run| run[metric].clone()).collect::<Vec<_>>();
    let rows: Vec<_> = (reference.metrics.iter().enumerate())
        .map(|(i, &metric)| reference.row(metric, &of_metric(drawn, i), &of_metric(ours, i)))
        .collect();
    worst(&rows)
}

struct Draw<'a> {
    /// `[metrics][recorded runs][users]`
    values: &'a [Vec<Vec<f64>>],
    /// The relative deviation of what moves all users together, for each metric.
    together: &'a [f64],
    random: ChaCha8Rng,
}

impl Draw<'_> {
    /// A run of which each hit is lost with the chance `drop`.
    fn run(&mut self, drop: f64) -> Run {
        let recorded = self.values[0].len();
        let mut factor =
            |together: &f64| 1.0 + together * Normal::standard().inverse_cdf(self.random.random_range(1e-12..1.0));
        let factors: Vec<f64> = self.together.iter().map(&mut factor).collect();
        let mut run: Run = vec![Vec::with_capacity(self.values[0][0].len()); self.values.len()];
        for user in 0..self.values[0][0].len() {
            let from = self.random.random_range(0..recorded);
            let kept = drop == 0.0 || self.random.random::<f64>() >= drop;
            for ((drawn, values), factor) in run.iter_mut().zip(self.values).zip(&factors) {
                drawn.push(if kept { values[from][user] * factor } else { 0.0 });
            }
        }
        run
    }
}

impl Power {
    /// The table of docs/verdict.md.
    pub fn markdown(&self) -> String {
        let runs = BTreeSet::from_iter(self.cells.iter().map(|cell| cell.runs));
        let header = std::iter::once("drop".to_owned()).chain(runs.iter().map(|&n| counted(n, "run")));
        let mut rows = vec![header.collect::<Vec<_>>()];
        for cells in self.cells.chunks(runs.len()) {
            let name = if cells[0].drop == 0.0 { "none".to_owned() } else { format!("{:.0} %", 100.0 * cells[0].drop) };
            let shares =
                |cell: &Cell| [cell.fail, cell.undecided, cell.pass].map(|x| format!("{:.1}", 100.0 * x)).join(" / ");
            rows.push(std::iter::once(name).chain(cells.iter().map(shares)).collect());
        }
        let table = markdown_table(&rows);
        format!(
            "{table}\nPercent fail / undecided / pass of {} simulations from {} recorded runs of {} users.",
            self.repetitions, self.recorded, self.users
        )
    }
}
