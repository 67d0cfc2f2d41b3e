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
//! The null hypothesis: the notebook's batches are not ours. Two permutation tests hold it to the data; in both
//! p = (1 + those at least as near to our mean) / (1 + all of them):
//!
//! - **shuffles**: the notebook's series is then exchangeable with those under other shuffles.
//! - **places**: which of its twelve batches came first is then chance, but for the line. So what is left of its item losses
//!   beside their line is put into 100,000 random orders, for the correlation. (Attribute losses fall along a curve, not a line.)
//!
//! Each of our own sets, held to the others, shows what the same batches give.
//!
//! A line of the file is a set: its number, which also seeds its masks; its shuffle, `golden` or `other`; twelve item losses;
//! twelve attribute losses.

mod judge;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use dif_sr::config::RunConfig;
use dif_sr::data::{Batch, OrderedRows};
use dif_sr::train::{Prepared, Stepper, set_up};
use dif_sr::{Error, Result};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Batches in the log, and in the golden file.
const BATCHES: usize = 12;
const GOLDEN: &str = "golden/Amazon_Beauty_seed_config.json";

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
    /// Threads; the last bits of sums depend on their number
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The file that the sets are appended to
    file: PathBuf,
}

fn main() -> ExitCode {
    let done = match Program::parse() {
        Program::Draw(draw) => draw.run(),
        Program::Judge { sets } => judge::run(&sets),
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
        let (data_path, threads) = (self.data_path.display().to_string(), self.threads.to_string());
        let keys = [("use_gpu", "False"), ("compute_path", "fast"), ("threads", &*threads), ("data_path", &*data_path)];
        let keys = keys.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = RunConfig::load(&["configs/amazon_beauty.yaml".into()], &keys)?;
        set_up(&config)?;
        let prepared = Prepared::new(&config)?;
        // The generator stands where the reference's stands when the training begins.
        let golden = permutation(&prepared);
        check_shuffle(&prepared, &golden, &config)?;
        let parameters = prepared.model.named_parameters();
        let initial: Vec<Tensor> = parameters.iter().map(|(_, parameter)| parameter.detach().copy()).collect();

        let file = fs::OpenOptions::new().create(true).append(true).open(&self.file);
        let mut file = file.map_err(|e| Error::unwritable(&self.file, e))?;
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
    let mut rows = OrderedRows::new(&prepared.splits.train, Device::Cpu);
    rows.permute(order);
    rows.batches(config.train.train_batch_size).take(BATCHES).collect()
}

/// The item losses and the attribute losses of the batches, each before its step.
fn losses(config: &RunConfig, prepared: &Prepared, order: &Tensor) -> Result<[Vec<f64>; 2]> {
    let mut stepper = Stepper::new(config, &prepared.model)?;
    let (mut item, mut attribute) = (Vec::new(), Vec::new());
    for batch in batches(config, prepared, order) {
        let losses = stepper.losses(&batch)?.values();
        stepper.update()?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
