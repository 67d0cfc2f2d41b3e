//! The evidence of a training as it goes: log lines, losses, metrics and checkpoints.
//!
//! The best model and the training that knows it are two files. On an improvement the model is first written beside the
//! best one, then the training is saved with the model's seal, then the model takes the best one's place. Whenever a
//! process ends, what was saved last therefore has its best model in one of the two places.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::saved::{self, Saved, SharedRows};
use super::{Checkpoint, Event, Position, Prepared, Start, Training};
use crate::config::RunConfig;
use crate::data::Dataset;
use crate::model::{Losses, Model};
use crate::run_folder::{Calibration, EpochLine, EvaluationLine, Mark, MetricsLine, RunFolder, log_line};
use crate::tensors::{self, copy, rename};
use crate::{Error, Result};

/// Where a run's words go besides its folder.
pub trait Report {
    /// A message, already in the form of a log line.
    fn log(&mut self, line: &str);
    /// What the training loop does.
    fn event(&mut self, event: &Event);
    /// Rows of the final test done so far.
    fn testing(&mut self, done: usize, rows: usize);
}

/// Seconds of training between two measurements of the machine, at least: short epochs would spend their time on them. One at
/// each end alone would not do: in eleven recorded runs with more than twenty measurements their median was between 9 % less
/// and 29 % more than that of all.
const CALIBRATION_INTERVAL: Duration = Duration::from_secs(10);

/// Listens to a training and keeps its run folder.
pub(super) struct Recorder<'a> {
    pub config: &'a RunConfig,
    pub dataset: &'a Dataset,
    pub folder: &'a mut RunFolder,
    pub report: &'a mut dyn Report,
    /// Set from outside where the run shall save and end.
    pub stop: &'a AtomicBool,
    /// The data's fingerprint.
    data: &'a str,
    /// How long the files were when the training could last go on from where it stood.
    mark: Mark,
    /// The seal of the best model.
    best: Option<String>,
    /// When the training was last saved, and the place it was at.
    saved: Instant,
    saved_at: Option<String>,
    /// When the machine's speed was last measured.
    calibrated: Instant,
    began: Instant,
    /// Seconds of training before `began`.
    seconds: f64,
}

impl<'a> Recorder<'a> {
    pub fn new(
        config: &'a RunConfig,
        Prepared { dataset, fingerprint: data, .. }: &'a Prepared,
        folder: &'a mut RunFolder,
        report: &'a mut dyn Report,
        stop: &'a AtomicBool,
    ) -> Self {
        let now = Instant::now();
        let (mark, best, saved_at) = (Mark::default(), None, None);
        Self {
            config,
            dataset,
            folder,
            report,
            stop,
            data,
            mark,
            best,
            saved: now,
            saved_at,
            calibrated: now,
            began: now,
            seconds: 0.0,
        }
    }

    /// Says everything twice: to the folder and to whoever listens.
    pub fn say(&mut self, message: &str) -> Result<()> {
        let line = log_line(message);
        self.report.log(&line);
        self.folder.log(&line)
    }

    /// Puts a training of a run that had begun before where it was last saved, and the folder's files with it. Returns
    /// whether anything had been saved; if not, the run begins again.
    pub fn resume(&mut self, training: &mut Training) -> Result<bool> {
        let last = self.folder.last();
        if !last.exists() {
            self.folder.start_again(self.config)?;
            self.folder.resumed_here(self.config)?;
            self.say("Resumed at the beginning: nothing had been saved")?;
            return Ok(false);
        }
        let Saved { mark, seconds, best, .. } = saved::load(&last, training, self.data)?;
        // Nothing changes before all that can be wrong with the folder has been looked at.
        self.folder.check_length(mark)?;
        self.settle_best(best.as_deref())?;
        self.folder.cut_back(mark, training.position().epoch)?;
        self.folder.resumed_here(self.config)?;
        let place = place(training);
        (self.mark, self.seconds, self.best, self.saved_at) = (mark, seconds, best, Some(place.clone()));
        self.say(&format!("Resumed {place}"))?;
        Ok(true)
    }

    /// Puts the training of a new run where another one was, and keeps that state, from which the run could not begin again.
    pub fn begin_from(&mut self, start: &Start, training: &mut Training) -> Result<()> {
        let Saved { best, .. } = start.put(training, self.data, SharedRows::Deal)?;
        if let Some(model) = start.best() {
            copy(model, &self.folder.best())?;
        }
        self.best = best;
        self.say(&start.origin.to_string())?;
        self.mark = self.folder.mark()?;
        self.save(training)?;
        start.release();
        Ok(())
    }

    /// Sees to it that `best.safetensors` is the file with this seal.
    fn settle_best(&self, seal: Option<&str>) -> Result<()> {
        let (best, next) = (self.folder.best(), self.next_best());
        let has_seal = |path: &PathBuf| tensors::seal(path).is_ok_and(|found| found.as_deref() == seal);
        if seal.is_some() && !has_seal(&best) {
            if !has_seal(&next) {
                return Err(Error::new(
                    "expected the best model of the saved training, found another or a damaged one",
                )
                .at(&best)
                .hint("put the file back, or begin another run"));
            }
            return rename(&next, &best).map_err(|e| Error::io(&best, "rename the file", e));
        }
        match fs::remove_file(&next) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&next, "remove the file", e)),
            _ => Ok(()),
        }
    }

    fn next_best(&self) -> PathBuf {
        self.folder.path().join("best.safetensors.next")
    }

    pub fn listen(&mut self, event: Event, training: &Training) -> Result<()> {
        self.report.event(&event);
        let decimals = self.config.run.loss_decimal_place;
        match event {
            Event::Batches { epoch, batch, losses, .. } => {
                self.losses(epoch, batch + 1 - losses.len(), losses)?;
                self.rest(training)
            }
            Event::Diverged { epoch, batch, losses, norms } => {
                self.losses(epoch, batch - losses.len(), losses)?;
                let lines: Vec<String> = norms.iter().map(|(name, norm)| format!("{norm:.3e} {name}")).collect();
                self.say(&format!("norms of parameters: \n{}", lines.join("\n")))
            }
            Event::NoGraphs { reason } => self.say(&format!("Training without CUDA graphs: {reason}")),
            // No parameter changes in an evaluation: the training is where it was at the end of the epoch.
            Event::Evaluating { .. } => self.leave_if_asked(training),
            Event::Epoch { epoch, losses, seconds } => {
                let Losses { total, item, attributes } = losses;
                self.folder.metrics(&MetricsLine::Epoch(EpochLine {
                    epoch,
                    train_loss: *total,
                    item_loss: *item,
                    attribute_losses: attributes.clone(),
                    seconds,
                }))?;
                let names = self.config.data.selected_features.iter().map(String::as_str);
                let names = ["total", "item"].into_iter().chain(names);
                let losses = [total, item].into_iter().chain(attributes);
                let scalars = names.zip(losses).map(|(name, &loss)| (format!("loss/{name}"), loss));
                self.folder.scalars(epoch, scalars.chain([("seconds/epoch".to_owned(), seconds)]))?;
                self.say(&format!("epoch {epoch} training [time: {seconds:.2}s, train loss: {total:.decimals$}]"))?;
                if self.calibrated.elapsed() >= CALIBRATION_INTERVAL { self.calibrate(training.model) } else { Ok(()) }
            }
            Event::Evaluated { epoch, valid, score, seconds, best } => {
                let line = EvaluationLine { epoch, valid: valid.clone(), best, seconds };
                self.folder.metrics(&MetricsLine::Evaluation(line))?;
                let scalars = valid.iter().map(|(metric, value)| (format!("valid/{metric}"), value));
                self.folder.scalars(epoch, scalars.chain([("seconds/evaluation".to_owned(), seconds)]))?;
                self.say(&format!("epoch {epoch} evaluating [time: {seconds:.2}s, valid_score: {score:.6}]"))?;
                self.say(&format!("valid result: \n{valid}"))?;
                if best {
                    self.keep_best(training, epoch)?;
                }
                self.rest(training)
            }
        }
    }

    /// Notes how fast the machine is now, between what is timed.
    pub fn calibrate(&mut self, model: &Model) -> Result<()> {
        self.folder.calibration(&Calibration::measure(model.device()))?;
        self.calibrated = Instant::now();
        Ok(())
    }

    /// The losses of an epoch's batches, of which the first is `first`.
    fn losses(&mut self, epoch: usize, first: usize, losses: &[Losses<f64>]) -> Result<()> {
        (first..).zip(losses).try_for_each(|(batch, losses)| self.folder.losses(epoch, batch, losses))
    }

    fn keep_best(&mut self, training: &Training, epoch: usize) -> Result<()> {
        let (best, next) = (self.folder.best(), self.next_best());
        self.say(&format!("Saving current best: {}", best.display()))?;
        let model = (training.model, training.shares.as_ref());
        self.best = Some(Checkpoint::save_shared(&next, self.config, self.dataset, model, epoch)?);
        self.mark = self.folder.mark()?;
        self.save(training)?;
        rename(&next, &best).map_err(|e| Error::io(&best, "rename the file", e))
    }

    /// The training can go on from here: saves it if it is time to.
    fn rest(&mut self, training: &Training) -> Result<()> {
        self.mark = self.folder.mark()?;
        self.leave_if_asked(training)?;
        if self.saved.elapsed() >= Duration::from_secs_f64(self.config.run.checkpoint_interval) {
            self.save(training)?;
        }
        Ok(())
    }

    fn leave_if_asked(&mut self, training: &Training) -> Result<()> {
        if !self.is_asked_to_stop() {
            return Ok(());
        }
        self.save(training)?;
        Err(self.interruption(&place(training)))
    }

    /// Whether the run shall end.
    pub fn is_asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The end of a run that was asked to end, at a place that is saved.
    pub fn interruption(&self, place: &str) -> Error {
        let run = self.folder.path().display();
        Error::interruption(format!("interrupted {place}; saved in {run}")).hint(format!("go on with --resume={run}"))
    }

    /// Saves the training at its end, behind all lines, those of a last epoch without an evaluation too.
    pub fn finish(&mut self, training: &Training) -> Result<()> {
        self.mark = self.folder.mark()?;
        self.save(training)
    }

    /// Writes `last.safetensors`.
    fn save(&mut self, training: &Training) -> Result<()> {
        self.folder.flush()?;
        saved::save(&self.folder.last(), training, &self.saved(training))?;
        (self.saved, self.saved_at) = (Instant::now(), Some(place(training)));
        Ok(())
    }

    /// Where the training stands, for the ranks who have not read it, without what they share out; empty at the start of a
    /// run.
    pub fn state(&self, training: &Training) -> Result<Vec<u8>> {
        match &self.saved_at {
            None => Ok(Vec::new()),
            Some(_) => saved::common_bytes(&self.folder.last(), training, &self.saved(training)),
        }
    }

    fn saved(&self, training: &Training) -> Saved {
        Saved {
            position: training.position().clone(),
            negatives: training.negatives.as_ref().map(|sampler| sampler.state()),
            mark: self.mark,
            seconds: self.seconds(),
            best: self.best.clone(),
            data: self.data.to_owned(),
        }
    }

    /// Begins to count seconds of training.
    pub fn start_clock(&mut self) {
        self.began = Instant::now();
    }

    /// Seconds of training, those before an interruption included.
    pub fn seconds(&self) -> f64 {
        self.seconds + self.began.elapsed().as_secs_f64()
    }

    /// Names the last good checkpoint in an error, and leaves it in the log.
    pub fn ended_by(&mut self, error: Error) -> Error {
        let error = if error.is_interruption() {
            error
        } else {
            error.and(&match &self.saved_at {
                Some(place) => format!("; the last good checkpoint is {}, {place}", self.folder.last().display()),
                None => "; no checkpoint had been written yet".to_owned(),
            })
        };
        self.folder.stopped(error)
    }
}

/// Where a training stands, in words that follow a verb.
fn place(training: &Training) -> String {
    let Position { epoch, batch, .. } = training.position();
    match (epoch, batch) {
        (0, 0) => "at the beginning".to_owned(),
        (_, 0) => format!("after epoch {}", epoch - 1),
        _ => format!("after batch {batch} of {} in epoch {epoch}", training.batches()),
    }
}
