//! The evidence of one run that verdicts are made from: read from its run folder, or from the small file that is kept of
//! it beside an expectation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::statistics::{mean, median};
use crate::config::RunConfig;
use crate::eval::{MetricAt, MetricValues};
use crate::run_folder::{self, Calibration, Environment, MetricsLine, RankRow, RunResult};
use crate::tensors::replace_json;
use crate::{Error, Result, yaml};

/// Keys that say where and how a run is done, not which run it is, beside [`RunConfig::CHANGEABLE`].
const NOT_THE_EXPERIMENT: [&str; 5] = ["seed", "state", "checkpoint_dir", "eval_batch_size", "loss_decimal_place"];

/// One finished run: what it was, where it ran, what it gave. Lists are written as numbers in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The data set's name.
    pub dataset: String,
    /// Of initial values, shuffles and dropout.
    pub seed: i64,
    /// Epochs trained.
    pub epochs: usize,
    /// The best epoch, from 0.
    pub best_epoch: usize,
    /// The validation's metrics after it.
    pub best_valid: MetricValues,
    /// The test's metrics of the model of that epoch.
    pub test: MetricValues,
    /// The metric that picks the best epoch, `recall@10`.
    pub valid_metric: MetricAt,
    /// Epochs after which the run was evaluated, from 0.
    #[serde(with = "line")]
    pub evaluated: Vec<usize>,
    /// `valid_metric` at them.
    #[serde(with = "line")]
    pub valid: Vec<f64>,
    /// Of each epoch's batches.
    #[serde(with = "line")]
    pub epoch_seconds: Vec<f64>,
    /// Of each evaluation.
    #[serde(with = "line")]
    pub evaluation_seconds: Vec<f64>,
    /// Seconds of the calibrations in the order of the run.
    #[serde(with = "line")]
    pub calibration_seconds: Vec<f64>,
    /// `environment.json` ([`Environment`]), or what another program notes in its place.
    pub environment: Map<String, Value>,
    /// The resolved configuration, without what only says where the run is done.
    pub config: Map<String, Value>,
    /// SHA-256 of the lines `user TAB item` of `ranks.tsv`: runs with the same judge the same targets.
    pub targets_sha256: String,
    /// The rank of every target, 0 being the first, in the order of `ranks.tsv`.
    #[serde(with = "line")]
    pub ranks: Vec<usize>,
    /// The user of each, by number from 0; empty where each user has one target.
    #[serde(with = "line", default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<usize>,
    /// Where it was read from.
    #[serde(skip)]
    pub path: PathBuf,
}

impl Record {
    /// Reads a run folder or a record file.
    ///
    /// # Errors
    /// A run that is not finished, and a folder whose ranks do not give the metrics of its result.
    pub fn load(path: &Path) -> Result<Self> {
        let record = if path.is_dir() { Self::of_folder(path)? } else { Self::of_file(path)? };
        record.check().map_err(|problem| {
            Error::new(problem)
                .at(path)
                .hint("the files are damaged or of different runs: use the run as it was written")
        })?;
        Ok(record)
    }

    /// Reads the records in a folder, its `.json` files, in the order of their seeds.
    ///
    /// # Errors
    /// A folder that cannot be read; as [`Record::load`].
    pub fn load_all(folder: &Path) -> Result<Vec<Self>> {
        let unread = |e| {
            Error::io(folder, "read the recorded runs", e).hint("record runs with `dif-sr record RUN... --into FOLDER`")
        };
        let entries = fs::read_dir(folder).map_err(unread)?.map(|entry| Ok(entry?.path()));
        let mut paths = entries.collect::<std::io::Result<Vec<_>>>().map_err(unread)?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
        paths.sort();
        let mut records = paths.iter().map(|path| Self::load(path)).collect::<Result<Vec<_>>>()?;
        records.sort_by_key(|record| record.seed);
        Ok(records)
    }

    /// The keys of the configuration in which not all of the records agree.
    pub fn differing<'a>(records: impl IntoIterator<Item = &'a Self>) -> Vec<String> {
        let configs: Vec<_> = records.into_iter().map(|record| &record.config).collect();
        let keys: BTreeSet<&String> = configs.iter().flat_map(|config| config.keys()).collect();
        let differs = |key: &&String| configs.iter().any(|config| config.get(*key) != configs[0].get(*key));
        keys.into_iter().filter(differs).cloned().collect()
    }

    /// That runs are different seeds of one configuration.
    ///
    /// # Errors
    /// Two runs of one seed, or of two configurations.
    pub(super) fn of_one_configuration(runs: &[Self]) -> Result<()> {
        let mut seeds = BTreeSet::new();
        if let Some(run) = runs.iter().find(|run| !seeds.insert(run.seed)) {
            return Err(Error::new(format!("expected runs of different seeds, found seed {} twice", run.seed))
                .at(&run.path)
                .hint("a run and its repetition are one draw: name one of them"));
        }
        for run in runs.iter().skip(1) {
            let differing = Self::differing([&runs[0], run]);
            if !differing.is_empty() {
                let (keys, first) = (differing.join(", "), runs[0].path.display());
                return Err(Error::new(format!("expected the configuration of {first}, found another {keys}"))
                    .at(&run.path)
                    .hint("a mean over configurations is nobody's: judge each by itself"));
            }
        }
        Ok(())
    }

    /// That runs rank the targets of `own`, one by one.
    ///
    /// # Errors
    /// A run of other targets.
    pub(super) fn of_the_targets<'a>(own: &Self, runs: impl IntoIterator<Item = &'a Self>) -> Result<()> {
        let is_other = |run: &&Self| {
            run.targets_sha256 != own.targets_sha256 || run.ranks.len() != own.ranks.len() || run.users != own.users
        };
        let Some(other) = runs.into_iter().find(is_other) else { return Ok(()) };
        Err(Error::new(format!(
            "expected the {} targets of {} on {}, found {} others on {}",
            own.ranks.len(),
            own.path.display(),
            own.dataset,
            other.ranks.len(),
            other.dataset
        ))
        .at(&other.path)
        .hint("runs compare on the same data, filters and split: check them with `dif-sr data inspect`"))
    }

    fn of_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|e| Error::io(path, "read the run", e).hint("name a run folder, or the record of a run"))?;
        let record: Self = serde_json::from_str(&text).map_err(|e| {
            Error::new(format!("expected the record of a run, found {e}"))
                .at(path)
                .hint("name a run folder, or what `dif-sr record` wrote")
        })?;
        Ok(Self { path: path.to_owned(), ..record })
    }

    fn of_folder(folder: &Path) -> Result<Self> {
        let result = RunResult::read(folder)?;
        let config_path = folder.join(run_folder::CONFIG);
        let config_text = run_folder::text(&config_path)?;
        let config = RunConfig::from_yaml(&config_text, &config_path)?;
        let valid_metric = config.eval.valid_metric;
        let mut keys: Map<String, Value> = yaml::from_str(&config_text)
            .map_err(|e| Error::new(format!("expected a configuration, found {e}")).at(&config_path))?;
        let left_out = [&RunConfig::CHANGEABLE[..], &NOT_THE_EXPERIMENT].concat();
        keys.retain(|key, _| !left_out.contains(&key.as_str()));

        let (mut trained, mut validated) = (BTreeMap::new(), BTreeMap::new());
        for line in MetricsLine::read(folder)? {
            match line {
                MetricsLine::Epoch(line) => drop(trained.insert(line.epoch, line.seconds)),
                MetricsLine::Evaluation(line) => drop(validated.insert(line.epoch, (line.valid, line.seconds))),
            }
        }
        let ranks = RankRow::read(folder)?;
        let environment = serde_json::to_value(Environment::read(folder)?).expect("text and numbers are JSON");
        Ok(Self {
            dataset: result.dataset,
            seed: result.seed,
            epochs: result.epochs,
            best_epoch: result.best_epoch,
            best_valid: result.best_valid.unwrap_or_default(),
            test: result.test.metrics,
            evaluated: validated.keys().copied().collect(),
            valid: validated.values().filter_map(|(valid, _)| valid.get(valid_metric)).collect(),
            valid_metric,
            epoch_seconds: trained.into_values().collect(),
            evaluation_seconds: validated.into_values().map(|(_, seconds)| seconds).collect(),
            calibration_seconds: Calibration::read(folder)?.iter().filter_map(Calibration::seconds).collect(),
            environment: environment.as_object().cloned().unwrap_or_default(),
            config: keys,
            targets_sha256: RankRow::targets_sha256(&ranks),
            users: RankRow::users(&ranks),
            ranks: ranks.iter().map(|row| row.rank).collect(),
            path: folder.to_owned(),
        })
    }

    /// A metric of the test, from the ranks: every record has it, whatever cut-offs its run was configured with.
    pub fn test_at(&self, metric: MetricAt) -> f64 {
        mean(&metric.of_users(&self.ranks))
    }

    /// A metric of the test for each user, whose mean is the test's. Targets of one user are one observation: their sum, in units
    /// of the targets that users have in the mean.
    pub fn of_users(&self, metric: MetricAt) -> Vec<f64> {
        let values = metric.of_users(&self.ranks);
        let Some(last) = self.users.iter().max() else { return values };
        let mut sums = vec![0.0; last + 1];
        let unit = sums.len() as f64 / values.len() as f64;
        self.users.iter().zip(values).for_each(|(&user, value)| sums[user] += value * unit);
        sums
    }

    /// How many users have a target.
    pub fn user_count(&self) -> usize {
        self.users.iter().max().map_or(self.ranks.len(), |last| last + 1)
    }

    fn numbers_its_users(&self) -> bool {
        let mut known = 0;
        let is_known_or_next = |&user: &usize| {
            let next = known;
            known = next.max(user.saturating_add(1));
            user <= next
        };
        self.users.len() == self.ranks.len() && self.users.iter().all(is_known_or_next)
    }

    /// That the parts belong together.
    fn check(&self) -> Result<(), String> {
        if self.ranks.is_empty() {
            return Err("expected the rank of at least one target, found none".to_owned());
        }
        if !self.users.is_empty() && !self.numbers_its_users() {
            return Err(
                "expected the number of each target's user, each from 0 on as it first occurs, found others".to_owned()
            );
        }
        if self.test.is_empty() {
            return Err("expected the test's metrics, found none".to_owned());
        }
        if self.valid.len() != self.evaluated.len() {
            let (evaluated, valid) = (self.evaluated.len(), self.valid.len());
            return Err(format!("expected `{}` of {evaluated} evaluations, found {valid}", self.valid_metric));
        }
        let decimals = self.config.get("metric_decimal_place").and_then(Value::as_i64).unwrap_or(4) as i32;
        for (metric, value) in self.test.iter() {
            let found = self.test_at(metric);
            if (found - value).abs() > 0.5 * 10_f64.powi(-decimals) + 1e-9 {
                return Err(format!("expected ranks that give the test's {metric} of {value}, found {found:.6}"));
            }
        }
        Ok(())
    }

    /// Writes records into `folder`, all or, where one cannot be, none.
    ///
    /// # Errors
    /// Two records of one seed; a record of a seed that is there already.
    pub fn write_all(records: &[Self], folder: &Path) -> Result<Vec<PathBuf>> {
        let mut places = BTreeSet::new();
        for record in records {
            if !places.insert(record.place(folder)?) {
                return Err(Error::new(format!("expected runs of different seeds, found seed {} twice", record.seed))
                    .hint("a record's file is named by its seed: name one of the two runs"));
            }
        }
        records.iter().map(|record| record.write(folder)).collect()
    }

    /// Where the record goes.
    fn place(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(format!("{}.json", self.seed));
        if path.exists() {
            return Err(Error::new(format!("expected no record of seed {}, found one", self.seed))
                .at(&path)
                .hint("remove it first if this run shall take its place"));
        }
        Ok(path)
    }

    /// Writes the record as `<seed>.json` into `folder`.
    ///
    /// # Errors
    /// A record of this seed that is there already.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = self.place(folder)?;
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "make the folder", e))?;
        replace_json(&path, self)?;
        Ok(path)
    }

    /// A value of `environment.json`, for a reader; `unknown` where the run did not note it, `none` where there was none.
    pub fn environment(&self, key: &str) -> String {
        match self.environment.get(key) {
            // Noted by the run that goes on, and not before.
            None if key == "resumed" => "never".to_owned(),
            None => "unknown".to_owned(),
            Some(Value::Null) => "none".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) if list.is_empty() => "none".to_owned(),
            // The places where a run went on.
            Some(Value::Array(list)) if list.iter().all(Value::is_object) => match list.len() {
                1 => "once".to_owned(),
                n => format!("{n} times"),
            },
            Some(Value::Array(list)) => {
                list.iter().map(|v| v.as_str().map_or(v.to_string(), str::to_owned)).collect::<Vec<_>>().join(", ")
            }
            Some(other) => other.to_string(),
        }
    }

    /// The median time of an epoch in units of the calibration; `None` without either.
    pub fn relative_epoch_time(&self) -> Option<f64> {
        self.relative(&self.epoch_seconds)
    }

    /// The median time of an evaluation in units of the calibration.
    pub fn relative_evaluation_time(&self) -> Option<f64> {
        self.relative(&self.evaluation_seconds)
    }

    fn relative(&self, seconds: &[f64]) -> Option<f64> {
        let known = !seconds.is_empty() && !self.calibration_seconds.is_empty();
        known.then(|| median(seconds) / median(&self.calibration_seconds))
    }

    /// The epochs after which `valid_metric` has first reached `target`, of a run that [is whole](Self::is_whole).
    pub fn reaches(&self, target: f64) -> Option<f64> {
        let at = self.valid.iter().position(|&value| value >= target)?;
        Some((self.evaluated[at] + 1) as f64)
    }

    /// Whether the run began at the beginning, not from the state of another, whose epochs it does not have.
    pub fn is_whole(&self) -> bool {
        self.environment.get("from").is_none_or(Value::is_null)
    }
}

/// Lists of numbers as one line of text, so that a record is short enough to review.
mod line {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<T: Display, S: Serializer>(numbers: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&numbers.iter().map(T::to_string).collect::<Vec<_>>().join(" "))
    }

    pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number =
            |word: &str| word.parse().map_err(|_| D::Error::custom(format!("expected a number, found `{word}`")));
        text.split_whitespace().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Recall@1 of the targets is 1 0 1 1 0: user 0 has the first and the third, user 1 the others.
    #[test]
    fn a_user_is_what_all_of_its_targets_say_and_the_mean_is_the_targets() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("records/ml-100k/dif_sr_reference_float32/212.json");
        let record = Record::load(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((record.users.len(), record.user_count()), (0, 943));
        let record = Record { ranks: vec![0, 1, 0, 0, 9], users: vec![0, 1, 0, 1, 1], ..record };
        let recall = "recall@1".parse().expect("a metric");
        // Two users have five targets, 2.5 in the mean.
        assert_eq!((record.of_users(recall), record.user_count()), (vec![2.0 / 2.5, 1.0 / 2.5], 2));
        assert!((mean(&record.of_users(recall)) - record.test_at(recall)).abs() < 1e-15);
        let numbered = |users: &[usize]| Record { users: users.to_vec(), ..record.clone() }.numbers_its_users();
        assert!(numbered(&[0, 1, 0, 2, 1]) && !numbered(&[0, 2, 0, 1, 1]) && !numbered(&[0, 0]));
    }

    #[test]
    fn how_often_a_run_went_on_is_told_in_words() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("records/Amazon_Beauty/dif_sr_fast_bf16/1.json");
        let mut record = Record::load(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (record.environment("resumed"), record.environment("of no run")),
            ("never".into(), "unknown".into())
        );
        for (places, told) in [(json!([{}]), "once"), (json!([{}, {}]), "2 times")] {
            record.environment.insert("resumed".to_owned(), places);
            assert_eq!(record.environment("resumed"), told);
        }
    }
}
