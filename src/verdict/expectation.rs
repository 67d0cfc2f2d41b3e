//! What the runs of a configuration are expected to give: the file, and the judgement.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::figures::{Figures, FiguresForm, GoldenRun};
use super::reference::{Reference, ReferenceForm};
use super::{Record, Verdict};
use crate::config::{ComputePath, RunConfig};
use crate::eval::MetricAt;
use crate::{Error, Result, yaml};

/// An expectation file, `configs/expectations/<config>.yaml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    figures: Option<Figures>,
    reference: Option<Reference>,
}

/// The file's form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    figures: Option<FiguresForm>,
    runs: Option<ReferenceForm>,
}

impl Expectation {
    /// Reads an expectation, the golden file and the recorded runs that it names.
    ///
    /// # Errors
    /// A file that is missing or of another form, itself or one that it names.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| {
            Error::io(path, "read what is expected", e)
                .hint("name a file of the form of configs/expectations with --expect")
        })?;
        let file: File = yaml::from_str(&text).map_err(|e| {
            Error::new(format!("expected an expectation, found {e}")).at(path).hint("see docs/verdict.md for the form")
        })?;
        if file.figures.is_none() && file.runs.is_none() {
            return Err(Error::new("expected `figures`, `runs` or both, found neither")
                .at(path)
                .hint("see docs/verdict.md for the form"));
        }
        Ok(Self {
            figures: file.figures.map(|form| Figures::new(form, path)).transpose()?,
            reference: file.runs.map(|form| Reference::new(form, path)).transpose()?,
        })
    }

    /// How many batch losses of a run are those of a golden run, to the bit, for a reader; `None` where there is nothing to
    /// compare.
    ///
    /// # Errors
    /// As [`LossRow::read`](crate::run_folder::LossRow::read).
    pub fn equal_losses(&self, run: &Record, folder: &Path) -> Result<Option<String>> {
        self.figures.as_ref().map_or(Ok(None), |figures| figures.equal_losses(run, folder))
    }

    /// The golden run whose batch losses a run of this configuration can be held to.
    pub fn golden_run(&self, config: &RunConfig) -> Option<&GoldenRun> {
        let is_reference = config.run.compute_path == ComputePath::Reference;
        self.figures.as_ref().and_then(|figures| figures.golden_run(config.run.seed, is_reference))
    }

    /// What a run is held to, for a reader: a line for each section.
    pub fn in_words(&self) -> String {
        let figures = self.figures.iter().map(|figures| format!("{} values of {}", figures.count(), figures.source));
        let reference = self.reference.iter().map(|reference| {
            let names: Vec<String> = reference.metrics.iter().map(ToString::to_string).collect();
            format!("{} of {} recorded runs", names.join(" and "), reference.records.len())
        });
        figures.chain(reference).collect::<Vec<_>>().join(";\n")
    }

    /// The text of an expectation's file with the paths in it made absolute: a copy in another folder says the same.
    ///
    /// # Errors
    /// A file that is missing or of another form; a path in it that leads nowhere.
    pub fn text_for_elsewhere(path: &Path) -> Result<String> {
        let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read what is expected", e))?;
        let not_read = |problem: String| Error::new(problem).at(path).hint("see docs/verdict.md for the form");
        let mut file: Map<String, Value> = yaml::from_str(&text).map_err(|e| not_read(e.to_string()))?;
        for keys in [&["figures", "golden"][..], &["runs", "folder"], &["runs", "time", "folder"]] {
            let section = file.get_mut(keys[0]);
            let named = keys[1..].iter().fold(section, |inner, key| inner.and_then(|inner| inner.get_mut(key)));
            if let Some(Value::String(named)) = named {
                let beside = path.parent().unwrap_or(Path::new("")).join(&*named);
                let absolute = fs::canonicalize(&beside).map_err(|e| Error::io(&beside, "find the file", e))?;
                *named = absolute.display().to_string();
            }
        }
        serde_yaml::to_string(&file).map_err(|e| not_read(e.to_string()))
    }

    /// The recorded runs, if the expectation has any.
    pub fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// The published values on the test part, for a reader: name and value.
    pub fn test_figures(&self) -> impl Iterator<Item = (MetricAt, f64)> {
        self.figures.iter().flat_map(|figures| figures.test.iter())
    }

    /// The same for the best epoch's validation.
    pub fn valid_figures(&self) -> impl Iterator<Item = (MetricAt, f64)> {
        self.figures.iter().flat_map(|figures| figures.valid.iter())
    }

    /// Checks, before a training, that it can be judged: it is about what is expected, and computes every expected metric, for a
    /// smaller claim is another claim.
    ///
    /// # Errors
    /// Another configuration, or an expected metric that it does not compute.
    pub fn check(&self, config: &RunConfig) -> Result<()> {
        let keys: Map<String, Value> = yaml::from_str(&config.to_yaml()).expect("what was written can be read");
        self.figures.iter().try_for_each(|figures| figures.check(&keys))?;
        self.reference.iter().try_for_each(|reference| reference.check(config))?;
        let computed: Vec<MetricAt> = MetricAt::all(&config.eval).collect();
        let mut expected = self.valid_figures().chain(self.test_figures());
        match expected.find(|(metric, _)| !computed.contains(metric)) {
            None => Ok(()),
            Some((metric, _)) => {
                let computed = computed.iter().map(MetricAt::to_string).collect::<Vec<_>>().join(", ");
                Err(Error::new(format!("`{metric}` is expected, but the run computes {computed}"))
                    .hint("add it to metrics and topk, or expect something else with --expect"))
            }
        }
    }

    /// [`Expectation::judge`], with a refusal as the reason of an undecided verdict: runs that cannot be judged, two
    /// configurations say, can still be looked at.
    pub fn verdict(&self, runs: &[Record]) -> Verdict {
        self.judge(runs).unwrap_or_else(|refusal| Verdict::of(Vec::new(), vec![refusal.to_string()]))
    }

    /// Judges runs, one or several seeds of one configuration.
    ///
    /// # Errors
    /// Two runs of one seed, runs of several configurations, on another data set than the golden one or on other targets
    /// than the recorded ones.
    pub fn judge(&self, runs: &[Record]) -> Result<Verdict> {
        Record::of_one_configuration(runs)?;
        let (mut findings, mut notes) = (Vec::new(), Vec::new());
        if let Some(figures) = &self.figures {
            findings.push(figures.judge(runs)?);
        }
        if let Some(reference) = &self.reference {
            findings.extend(reference.judge(runs)?);
            notes.extend(reference.differences(runs));
            notes.extend(reference.recorded_seeds(runs));
            notes.extend(reference.times_left_out(&findings));
        }
        Ok(Verdict::of(findings, notes))
    }
}
