//! The notebook's losses beside those of many sets: the statistics and the tests that `main.rs` states.

use std::fs;
use std::path::Path;

use dif_sr::{Error, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::BATCHES;

const NOTEBOOK: &str = "fixtures/model/notebook_batches.tsv";
const LOSSES: [&str; 2] = ["item", "attribute"];
/// Random orders of the notebook's batches.
const ORDERS: usize = 100_000;

/// Of one kind of loss: a series of twelve for each set.
#[derive(Default)]
struct Sets {
    ours: Vec<Vec<f64>>,
    others: Vec<Vec<f64>>,
}

/// How near a series is to our sets.
#[derive(Clone, Copy)]
struct Near {
    correlation: f64,
    distance: f64,
}

/// A number that says how near a series is, and whether it grows with nearness.
struct Statistic {
    name: &'static str,
    of: fn(&Near) -> f64,
    grows: bool,
}

const STATISTICS: [Statistic; 2] = [
    Statistic { name: "correlation", of: |near| near.correlation, grows: true },
    Statistic { name: "distance", of: |near| near.distance, grows: false },
];

/// Of one kind of loss.
struct Finding {
    notebook: Near,
    /// Each of our sets, beside the others.
    ours: Vec<Near>,
    /// The set of each other shuffle.
    others: Vec<Near>,
    /// Random orders of the notebook's batches that correlate with our mean at least as the notebook does.
    orders: usize,
}

/// Prints a table of what the sets in a file say.
///
/// # Errors
/// A file that cannot be read, or holds something else, or too little.
pub fn run(path: &Path) -> Result<()> {
    let sets = read_sets(path)?;
    let notebook = read_table(Path::new(NOTEBOOK), 1)?;
    println!("{} sets of masks, {} other shuffles\n", sets[0].ours.len(), sets[0].others.len());
    println!("| loss | statistic | notebook | our sets | other shuffles | as near | p of shuffles | p of places |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (i, (loss, sets)) in LOSSES.iter().zip(&sets).enumerate() {
        let finding = Finding::new(&notebook.iter().map(|row| row[i + 1]).collect::<Vec<_>>(), sets);
        for statistic in STATISTICS {
            let Statistic { name, of, grows } = statistic;
            let told = *loss == "item" && grows;
            let places = if told { format!("{:.5}", p(finding.orders, ORDERS)) } else { String::new() };
            let (notebook, n, as_near) = (of(&finding.notebook), finding.others.len(), finding.as_near(&statistic));
            let [ours, others] = [&finding.ours, &finding.others].map(|all| spread(all.iter().map(of).collect()));
            let shuffles = p(as_near, n);
            println!(
                "| {loss} | {name} | {notebook:.2} | {ours} | {others} | {as_near} of {n} | {shuffles:.3} | {places} |"
            );
        }
    }
    Ok(())
}

impl Finding {
    fn new(notebook: &[f64], Sets { ours, others }: &Sets) -> Self {
        let without = |one: usize| (ours.iter().enumerate()).filter(move |&(i, _)| i != one).map(|(_, set)| &**set);
        let all: Vec<&[f64]> = ours.iter().map(|set| &**set).collect();
        let nearness = near(notebook, &all);
        Self {
            notebook: nearness,
            ours: ours.iter().enumerate().map(|(i, set)| near(set, &without(i).collect::<Vec<_>>())).collect(),
            others: others.iter().map(|set| near(set, &all)).collect(),
            orders: in_disorder(notebook, &means(&all), nearness.correlation),
        }
    }

    /// Other shuffles that are at least as near to our sets as the notebook.
    fn as_near(&self, Statistic { of, grows, .. }: &Statistic) -> usize {
        let bound = of(&self.notebook);
        self.others.iter().map(of).filter(|&other| if *grows { other >= bound } else { other <= bound }).count()
    }
}

/// Of a permutation test.
fn p(as_near: usize, of: usize) -> f64 {
    (1 + as_near) as f64 / (1 + of) as f64
}

fn near(series: &[f64], ours: &[&[f64]]) -> Near {
    let means = means(ours);
    let far = series.iter().zip(&means).enumerate().map(|(batch, (loss, mean))| {
        let variance = ours.iter().map(|ours| (ours[batch] - mean).powi(2)).sum::<f64>() / (ours.len() - 1) as f64;
        (loss - mean).powi(2) / variance
    });
    Near { correlation: cosine(&detrended(series), &detrended(&means)), distance: mean(far).sqrt() }
}

/// How many random orders of what is left of a series beside its line have at least this correlation with our means.
fn in_disorder(series: &[f64], means: &[f64], correlation: f64) -> usize {
    let (mut left, means) = (detrended(series), detrended(means));
    let mut generator = ChaCha8Rng::seed_from_u64(212);
    let mut reaches = || {
        left.shuffle(&mut generator);
        cosine(&detrended(&left), &means) >= correlation
    };
    (0..ORDERS).filter(|_| reaches()).count()
}

/// Of each batch.
fn means(ours: &[&[f64]]) -> Vec<f64> {
    (0..ours[0].len()).map(|batch| mean(ours.iter().map(|series| series[batch]))).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0, 0.0), |(n, sum), value| (n + 1, sum + value));
    sum / f64::from(n)
}

/// What is left of a series beside its least-squares line.
fn detrended(series: &[f64]) -> Vec<f64> {
    let (centre, level) = ((series.len() - 1) as f64 / 2.0, mean(series.iter().copied()));
    let place = |i: usize| i as f64 - centre;
    let squares: f64 = (0..series.len()).map(|i| place(i).powi(2)).sum();
    let slope = series.iter().enumerate().map(|(i, loss)| place(i) * loss).sum::<f64>() / squares;
    series.iter().enumerate().map(|(i, loss)| loss - level - slope * place(i)).collect()
}

/// The correlation of two series whose means are 0.
fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

/// Median, and least to most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({least:.2} to {most:.2})", (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0)
}

fn read_sets(path: &Path) -> Result<[Sets; 2]> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
    let mut sets = [Sets::default(), Sets::default()];
    // A process that is writing, or was killed as it wrote, leaves a part of a line.
    for (line, number) in text.split_inclusive('\n').filter(|line| line.ends_with('\n')).zip(1..) {
        let fields: Vec<&str> = line.trim_end().split('\t').collect();
        let losses = numbers(&fields[2.min(fields.len())..], 2 * BATCHES).map_err(|e| e.at(path).line(number))?;
        for (series, sets) in losses.chunks(BATCHES).zip(&mut sets) {
            if fields[1] == "golden" { &mut sets.ours } else { &mut sets.others }.push(series.to_vec());
        }
    }
    if sets[0].ours.len() < 3 || sets[0].others.is_empty() {
        return Err(Error::new("expected three sets of masks and one of another shuffle, found fewer")
            .at(path)
            .hint("draw more"));
    }
    Ok(sets)
}

/// The rows of three numbers behind so many lines.
fn read_table(path: &Path, header: usize) -> Result<Vec<Vec<f64>>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e).hint("run it in the repository"))?;
    let rows = text.lines().zip(1..).skip(header);
    rows.map(|(line, n)| numbers(&line.split('\t').collect::<Vec<_>>(), 3).map_err(|e| e.at(path).line(n))).collect()
}

fn numbers(fields: &[&str], n: usize) -> Result<Vec<f64>> {
    let numbers: Option<Vec<f64>> = fields.iter().map(|field| field.parse().ok()).collect();
    let problem = || Error::new(format!("expected {n} losses, found `{}`", fields.join(" ")));
    numbers.filter(|numbers| numbers.len() == n).ok_or_else(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform between −1 and 1: SplitMix64.
    fn noise(of: usize, batch: usize) -> f64 {
        let mut z = ((of * BATCHES + batch + 1) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Losses that fall by 0.01 a batch, of batches that are as hard as `batches` says and masks that differ by a quarter of that.
    fn series(batches: usize, masks: usize) -> Vec<f64> {
        (0..BATCHES).map(|i| 9.0 - 0.01 * i as f64 + 0.02 * noise(batches, i) + 0.005 * noise(masks, i)).collect()
    }

    fn found(notebook: &[f64]) -> Finding {
        let ours = (100..140).map(|masks| series(0, masks)).collect();
        let others = (200..240).map(|set| series(set, 1000 + set)).collect();
        Finding::new(notebook, &Sets { ours, others })
    }

    #[test]
    fn the_same_batches_are_near_and_others_are_not() {
        let (same, other) = (found(&series(0, 1)), found(&series(6000, 1)));
        for statistic in &STATISTICS {
            assert_eq!(same.as_near(statistic), 0, "{}", statistic.name);
            assert!(p(other.as_near(statistic), 40) > 0.05, "{}: {}", statistic.name, other.as_near(statistic));
        }
        assert!(p(same.orders, ORDERS) < 0.001, "{}", same.orders);
        assert!(p(other.orders, ORDERS) > 0.05, "{}", other.orders);
    }

    #[test]
    fn a_set_beside_the_others_of_its_batches_lies_about_one_deviation_away() {
        let distances = found(&series(0, 1)).ours.into_iter().map(|near| near.distance);
        assert!((mean(distances) - 1.0).abs() < 0.1);
    }

    #[test]
    fn a_line_leaves_nothing() {
        assert!(detrended(&[3.0, 2.5, 2.0, 1.5]).iter().all(|left| left.abs() < 1e-15));
    }

    #[test]
    fn half_a_line_and_too_few_sets_are_not_judged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sets.tsv");
        let line = |number: usize, shuffle: &str| format!("{number}\t{shuffle}{}\n", "\t9.4".repeat(2 * BATCHES));
        let text: String = [line(1, "golden"), line(2, "other"), line(3, "golden"), line(5, "golden")].concat();
        fs::write(&path, format!("{text}7\tgolden\t9.4")).unwrap();
        let [item, attribute] = read_sets(&path).unwrap();
        assert_eq!((item.ours.len(), item.others.len(), attribute.ours[2].len()), (3, 1, BATCHES));
        fs::write(&path, format!("{text}7\tgolden\t9.4\n")).unwrap();
        let error = read_sets(&path).err().unwrap().to_string();
        assert!(error.contains("line 5: expected 24 losses, found `9.4`"), "{error}");
        fs::write(&path, line(1, "golden")).unwrap();
        assert!(read_sets(&path).err().unwrap().to_string().contains("found fewer; draw more"));
    }
}
