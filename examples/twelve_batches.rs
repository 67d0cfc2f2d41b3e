//! Are the first twelve batches in the notebook's log ours? A test by many draws of dropout masks.
//!
//! The log prints the losses of twelve batches (`fixtures/model/notebook_batches.tsv`). Its initial values and its shuffle are
//! known if its data and its random numbers are ours (`golden/Amazon_Beauty_seed_config.json`); its dropout masks, drawn on a
//! GPU, are not. So we train these batches again and again, each time with other masks, and as often under other shuffles:
//!
//! ```sh
//! cargo run --release --example twelve_batches -- draw --data_path DIR --sets 200 sets.tsv   # goes on where it was stopped
//! cargo run --release --example twelve_batches -- judge sets.tsv
//! ```
//!
//! What is compared, as it was fixed before the first set was drawn, for the item loss and the attribute loss each:
//!
//! - **correlation**: the series of twelve losses, less its own least-squares line, with the mean series of our sets, less its
//!   line. The test: that of the item loss, one-sided.
//! - **distance**: the root mean square over the batches of (loss − mean of our sets) / standard deviation of our sets, so
//!   that another draw of masks lies near 1.
//!
//! The null hypothesis: the notebook's batches came in another random order. Then its series is exchangeable with those under
//! other shuffles, and p = (1 + those at least as near to our mean) / (1 + all of them), the permutation test of one against
//! many. Each of our own sets, held to the others, shows what the same batches give.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use dif_sr::config::RunConfig;
use dif_sr::data::{Batch, RowTensors};
use dif_sr::train::{Prepared, Stepper, set_up};
use dif_sr::{Error, Result};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Batches in the log, and in the golden file.
const BATCHES: usize = 12;
const NOTEBOOK: &str = "fixtures/model/notebook_batches.tsv";
const GOLDEN: &str = "golden/Amazon_Beauty_seed_config.json";
const LOSSES: [&str; 2] = ["item", "attribute"];

#[derive(Parser)]
enum Program {
    /// Train the twelve batches with other masks and shuffles, a line a set; odd sets have the golden shuffle
    Draw(Draw),
    /// Hold the notebook's losses to the sets
    Judge { sets: PathBuf },
}

#[derive(clap::Args)]
struct Draw {
    /// The folder that holds `Amazon_Beauty/`
    #[arg(long = "data_path")]
    data_path: PathBuf,
    /// So many sets of masks for the golden shuffle, and as many other shuffles
    #[arg(long, default_value_t = 200)]
    sets: u64,
    /// The file that the sets are appended to
    file: PathBuf,
}

fn main() -> ExitCode {
    let done = match Program::parse() {
        Program::Draw(draw) => draw.run(),
        Program::Judge { sets } => judge(&sets),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

impl Draw {
    fn run(&self) -> Result<()> {
        let done = whole_lines(&self.file)?;
        let keys = [("use_gpu", "False"), ("compute_path", "fast"), ("threads", "1")];
        let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter();
        let keys: Vec<_> = keys.chain([("data_path".to_owned(), self.data_path.display().to_string())]).collect();
        let config = RunConfig::load(&["configs/amazon_beauty.yaml".into()], &keys)?;
        set_up(&config)?;
        let prepared = Prepared::new(&config)?;
        // The generator stands where the reference's stands when the training begins.
        let golden = permutation(&prepared);
        check_shuffle(&prepared, &golden, &config)?;
        let parameters = prepared.model.named_parameters();
        let initial: Vec<Tensor> = parameters.iter().map(|(_, parameter)| parameter.detach().copy()).collect();

        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.file);
        let file = file.as_mut().map_err(|e| Error::io(&self.file, "open", io::Error::from(e.kind())))?;
        for set in done as u64 + 1..=2 * self.sets {
            for ((_, parameter), initial) in prepared.model.named_parameters().iter_mut().zip(&initial) {
                tch::no_grad(|| parameter.copy_(initial));
            }
            let (shuffle, order) = if set % 2 == 1 {
                ("golden", golden.shallow_clone())
            } else {
                tch::manual_seed(set as i64);
                ("other", permutation(&prepared))
            };
            let mut config = config.clone();
            config.run.seed = set as i64; // of the masks
            let [item, attribute] = losses(&config, &prepared, &order)?;
            let values: Vec<String> = item.iter().chain(&attribute).map(|loss| format!("{loss:.7}")).collect();
            let line = format!("{set}\t{shuffle}\t{}\n", values.join("\t"));
            file.write_all(line.as_bytes()).map_err(|e| Error::unwritable(&self.file, e))?;
        }
        Ok(())
    }
}

fn permutation(prepared: &Prepared) -> Tensor {
    Tensor::randperm(prepared.splits.train.n() as i64, (Kind::Int64, Device::Cpu))
}

fn batches(config: &RunConfig, prepared: &Prepared, order: &Tensor) -> Vec<Batch> {
    let mut rows = RowTensors::new(&prepared.splits.train, Device::Cpu);
    rows.permute(order);
    rows.batches(config.train.train_batch_size).take(BATCHES).collect()
}

/// The item losses and the attribute losses of the batches, each before its step.
fn losses(config: &RunConfig, prepared: &Prepared, order: &Tensor) -> Result<[Vec<f64>; 2]> {
    let mut stepper = Stepper::new(config, &prepared.model)?;
    let (mut item, mut attribute) = (Vec::new(), Vec::new());
    for batch in batches(config, prepared, order) {
        let losses = stepper.losses(&batch).values();
        stepper.update();
        item.push(losses.item);
        attribute.push(losses.attributes[0]);
    }
    Ok([item, attribute])
}

/// The first targets of every batch are those of the golden file: the data and the shuffle are what we say.
fn check_shuffle(prepared: &Prepared, order: &Tensor, config: &RunConfig) -> Result<()> {
    let text = fs::read_to_string(GOLDEN).map_err(|e| Error::io(GOLDEN, "read", e))?;
    let golden: Value = serde_json::from_str(&text).map_err(|e| Error::new(e.to_string()).at(GOLDEN))?;
    for (i, batch) in batches(config, prepared, order).iter().enumerate() {
        let expected = &golden["batches"][i]["pos_first"];
        let n = expected.as_array().map_or(0, Vec::len) as i64;
        let found = Vec::<i64>::try_from(batch.pos_items.narrow(0, 0, n))?;
        if n == 0 || *expected != Value::from(found.clone()) {
            let problem = format!("expected the first targets of batch {} to be {expected}, found {found:?}", i + 1);
            return Err(Error::new(problem).at(&config.data.data_path).hint("use the copy of docs/data.md"));
        }
    }
    Ok(())
}

/// The sets in a file, which is cut behind its last whole line: a process may have been killed while it wrote.
fn whole_lines(path: &Path) -> Result<usize> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        text => text.map_err(|e| Error::io(path, "read", e))?,
    };
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        let file = fs::OpenOptions::new().write(true).open(path);
        file.and_then(|file| file.set_len(whole as u64)).map_err(|e| Error::unwritable(path, e))?;
    }
    Ok(text[..whole].lines().count())
}

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

/// One statistic of one kind of loss: the notebook's value, that of each of our sets beside the others, that of each other shuffle.
struct Finding {
    statistic: &'static str,
    notebook: f64,
    ours: Vec<f64>,
    others: Vec<f64>,
    /// Other shuffles that are at least as near to our sets as the notebook.
    as_near: usize,
}

fn judge(path: &Path) -> Result<()> {
    let sets = read_sets(path)?;
    let notebook = read_table(Path::new(NOTEBOOK), 1)?;
    println!("{} sets of masks, {} other shuffles\n", sets[0].ours.len(), sets[0].others.len());
    println!(
        "| loss | statistic | notebook | our sets, each beside the others | other shuffles | as near as the notebook | p |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (i, (name, sets)) in LOSSES.iter().zip(&sets).enumerate() {
        let series: Vec<f64> = notebook.iter().map(|row| row[i + 1]).collect();
        for finding in findings(&series, sets) {
            let Finding { statistic, notebook, ours, others, as_near } = &finding;
            let (p, n) = (finding.p(), others.len());
            let [ours, others] = [ours, others].map(|values| spread(values));
            println!("| {name} | {statistic} | {notebook:.2} | {ours} | {others} | {as_near} of {n} | {p:.3} |");
        }
    }
    Ok(())
}

fn findings(notebook: &[f64], sets: &Sets) -> [Finding; 2] {
    let notebook = near(notebook, &sets.ours);
    let ours: Vec<Near> = (0..sets.ours.len()).map(|one| near(&sets.ours[one], &without(&sets.ours, one))).collect();
    let others: Vec<Near> = sets.others.iter().map(|series| near(series, &sets.ours)).collect();
    let finding = |statistic, value: fn(&Near) -> f64, sign: f64| {
        let [ours, others] = [&ours, &others].map(|all| all.iter().map(value).collect::<Vec<f64>>());
        let bound = value(&notebook);
        let as_near = others.iter().filter(|&&other| sign * other >= sign * bound).count();
        Finding { statistic, notebook: bound, ours, others, as_near }
    };
    [finding("correlation", |near| near.correlation, 1.0), finding("distance", |near| near.distance, -1.0)]
}

impl Finding {
    fn p(&self) -> f64 {
        (1 + self.as_near) as f64 / (1 + self.others.len()) as f64
    }
}

fn without(all: &[Vec<f64>], one: usize) -> Vec<Vec<f64>> {
    all.iter().enumerate().filter(|&(i, _)| i != one).map(|(_, series)| series.clone()).collect()
}

fn near(series: &[f64], ours: &[Vec<f64>]) -> Near {
    let column = |batch: usize| ours.iter().map(move |series| series[batch]);
    let means: Vec<f64> = (0..series.len()).map(|batch| mean(column(batch))).collect();
    let far = series.iter().zip(&means).enumerate().map(|(batch, (loss, mean))| {
        let variance = column(batch).map(|ours| (ours - mean).powi(2)).sum::<f64>() / (ours.len() - 1) as f64;
        (loss - mean).powi(2) / variance
    });
    let distance = mean(far).sqrt();
    Near { correlation: cosine(&detrended(series), &detrended(&means)), distance }
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

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

/// Median, and least to most.
fn spread(values: &[f64]) -> String {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({least:.2} to {most:.2})", (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0)
}

fn read_sets(path: &Path) -> Result<[Sets; 2]> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
    let mut sets = [Sets::default(), Sets::default()];
    for (line, number) in text.split_inclusive('\n').filter(|line| line.ends_with('\n')).zip(1..) {
        let fields: Vec<&str> = line.trim_end().split('\t').collect();
        let losses = numbers(&fields[2.min(fields.len())..], 2 * BATCHES).map_err(|e| e.at(path).line(number))?;
        for (series, sets) in losses.chunks(BATCHES).zip(&mut sets) {
            if fields[1] == "golden" { &mut sets.ours } else { &mut sets.others }.push(series.to_vec());
        }
    }
    if sets[0].ours.len() < 3 || sets[0].others.is_empty() {
        return Err(Error::new("expected three sets of masks and one of another shuffle, found fewer").at(path));
    }
    Ok(sets)
}

/// The rows of a table of numbers behind so many lines.
fn read_table(path: &Path, header: usize) -> Result<Vec<Vec<f64>>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read", e))?;
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

    /// A number between −1 and 1 that looks drawn.
    fn noise(of: usize, batch: usize) -> f64 {
        (((of * 12 + batch) as f64 + 0.5) * 12.9898).sin() * 43_758.545 % 1.0
    }

    /// Losses that fall by 0.01 a batch, of batches that are as hard as `batches` says and masks that differ by half as much.
    fn series(batches: usize, masks: usize) -> Vec<f64> {
        (0..BATCHES).map(|i| 9.0 - 0.01 * i as f64 + 0.02 * noise(batches, i) + 0.01 * noise(masks, i)).collect()
    }

    fn sets() -> Sets {
        Sets {
            ours: (100..140).map(|masks| series(0, masks)).collect(),
            others: (200..240).map(|set| series(set, 1000 + set)).collect(),
        }
    }

    #[test]
    fn the_same_batches_are_near_and_others_are_not() {
        for finding in findings(&series(0, 1), &sets()) {
            assert_eq!(finding.p(), 1.0 / 41.0, "{}: {:.2} {:?}", finding.statistic, finding.notebook, finding.others);
        }
        for finding in findings(&series(5000, 1), &sets()) {
            assert!(finding.p() > 0.05, "{}: {:.2} {:?}", finding.statistic, finding.notebook, finding.others);
        }
    }

    #[test]
    fn a_set_beside_the_others_of_its_batches_lies_about_one_deviation_away() {
        let [_, distance] = findings(&series(0, 1), &sets());
        assert!((mean(distance.ours.iter().copied()) - 1.0).abs() < 0.1, "{:?}", distance.ours);
    }

    #[test]
    fn a_line_leaves_nothing() {
        assert!(detrended(&[3.0, 2.5, 2.0, 1.5]).iter().all(|left| left.abs() < 1e-15));
    }

    #[test]
    fn half_a_line_of_a_process_that_was_killed_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sets.tsv");
        assert_eq!(whole_lines(&path).unwrap(), 0);
        fs::write(&path, "1\tgolden\t9.4\n2\toth").unwrap();
        assert_eq!(whole_lines(&path).unwrap(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\tgolden\t9.4\n");
    }
}
