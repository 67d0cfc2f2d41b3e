//! The validation of several seeds by epoch: each thin, their mean strong, what is published as a line; and the last half of it
//! larger, where they end.

use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde::Deserialize;

use super::svg::{WIDTH, at, frame, path, ticks};
use crate::eval::MetricAt;
use crate::verdict::statistics::mean;
use crate::verdict::{Expectation, Record, counted};
use crate::{Error, Result};

const HEIGHT: f64 = 480.0;
/// The box of the whole, and the one of its end in the corner that curves which rise leave free.
const WHOLE: Place = Place { left: 72.0, right: WIDTH - 20.0, top: 56.0, bottom: HEIGHT - 120.0 };
const END: Place = Place { left: 292.0, right: WIDTH - 44.0, top: 166.0, bottom: HEIGHT - 166.0 };

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// Where it goes.
    pub file: PathBuf,
    title: String,
    /// The folder of the records.
    runs: PathBuf,
    /// The expectation with what is published of the best epoch's validation.
    expect: PathBuf,
    /// Whose that is.
    published: String,
}

/// Epoch and value.
type Point = (f64, f64);

/// What is drawn.
struct Plot {
    metric: MetricAt,
    /// Whose, and the value.
    published: (String, f64),
    runs: Vec<Vec<Point>>,
    /// The mean over the runs, as far as all of them go.
    mean: Vec<Point>,
    /// The mean over the runs of their best epochs' values.
    best: f64,
}

/// Edges in user units.
#[derive(Clone, Copy)]
struct Place {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// The part of a plot that is drawn at a place: epochs and values from and to.
struct View {
    place: Place,
    epochs: (f64, f64),
    values: (f64, f64),
}

impl Form {
    /// The figure.
    ///
    /// # Errors
    /// Records or an expectation that cannot be read; runs that were validated by different metrics, or by none that is published.
    pub fn svg(&self, folder: &Path) -> Result<String> {
        let runs = folder.join(&self.runs);
        let plot = Plot::new(&Record::load_all(&runs)?, self, &folder.join(&self.expect))
            .map_err(|e| e.at(&runs).hint("correct figures.yaml: draw runs and an expectation that belong together"))?;
        let (whole, end) = plot.views();
        let elements = [whole.axes(), whole.curves(&plot), end.paper(), end.axes(), end.curves(&plot), plot.legend()];
        Ok(frame(&self.title, &plot.words(), HEIGHT, elements.concat()))
    }
}

impl Plot {
    fn new(records: &[Record], form: &Form, expect: &Path) -> Result<Self> {
        let metric = records.first().map(|record| record.valid_metric);
        let metric = metric.ok_or_else(|| Error::new("expected at least one record, found none"))?;
        if records.iter().any(|record| record.valid_metric != metric || record.valid.is_empty()) {
            return Err(Error::new(format!("expected runs that were validated by {metric}, found another one")));
        }
        let expectation = Expectation::load(expect)?;
        let published = expectation.valid_figures().find(|&(name, _)| name == metric).map(|(_, value)| value);
        let published = published.ok_or_else(|| {
            Error::new(format!("expected a published `{metric}` of the validation in {}, found none", expect.display()))
        })?;
        let curve = |record: &Record| -> Vec<Point> {
            record.evaluated.iter().map(|&epoch| epoch as f64).zip(record.valid.iter().copied()).collect()
        };
        let runs: Vec<Vec<Point>> = records.iter().map(curve).collect();
        let value = |run: &[Point], at: f64| run.iter().find(|&&(epoch, _)| epoch == at).map(|&(_, value)| value);
        let of_all = |&(epoch, _): &Point| {
            let values: Option<Vec<f64>> = runs.iter().map(|run| value(run, epoch)).collect();
            Some((epoch, mean(&values?)))
        };
        let best: Vec<f64> = records.iter().filter_map(|record| record.best_valid.get(metric)).collect();
        let mean_curve = runs.first().into_iter().flatten().filter_map(of_all).collect();
        Ok(Self { published: (form.published.clone(), published), mean: mean_curve, best: mean(&best), metric, runs })
    }

    /// The whole from 0 on, and its last half.
    fn views(&self) -> (View, View) {
        let last = self.runs.iter().flatten().map(|&(epoch, _)| epoch).fold(1.0, f64::max);
        let range = |from: f64| {
            let values = self.runs.iter().flatten().filter(|&&(epoch, _)| epoch >= from).map(|&(_, value)| value);
            values.fold((self.published.1, self.published.1), |(low, high), value| (low.min(value), high.max(value)))
        };
        let (_, most) = range(0.0);
        let (low, high) = range(0.5 * last);
        let room = (0.1 * (high - low)).max(1e-6);
        (
            View { place: WHOLE, epochs: (0.0, last), values: (0.0, 1.08 * most.max(1e-6)) },
            View { place: END, epochs: (0.5 * last, last), values: (low - room, high + room) },
        )
    }

    fn legend(&self) -> Vec<Markup> {
        let row = |i: usize| HEIGHT - 50.0 + 30.0 * (i / 2) as f64;
        let column = |i: usize| 24.0 + 190.0 * (i % 2) as f64;
        let (whose, published) = &self.published;
        let entries = [
            ("one", self.seeds()),
            ("two", format!("their mean, best {:.4}", self.best)),
            ("mark", format!("{whose}, best {published:.4}")),
        ];
        let entry = |(i, (class, words)): (usize, (&str, String))| {
            let (x, y) = (column(i), row(i));
            let line = path([(x, y), (x + 40.0, y)].into_iter());
            [html! { path class=(class) d=(line) {} }, html! { text x=(at(x + 50.0)) y=(at(y + 6.0)) { (words) } }]
        };
        entries.into_iter().enumerate().flat_map(entry).collect()
    }

    fn seeds(&self) -> String {
        counted(self.runs.len(), "seed")
    }

    fn words(&self) -> String {
        let (whose, published) = &self.published;
        let ends = self.mean.first().zip(self.mean.last());
        let ends = ends.map_or(String::new(), |((first, from), (last, to))| {
            format!(" The mean goes from {from:.4} in epoch {first} to {to:.4} in epoch {last}.")
        });
        format!(
            "{} of the validation by epoch, {}.{ends} The best epochs have {:.4} in the mean; {whose} has {published:.4}.",
            self.metric,
            self.seeds(),
            self.best
        )
    }
}

impl View {
    /// The place of an epoch and a value.
    fn at(&self, (epoch, value): Point) -> (f64, f64) {
        let Place { left, right, top, bottom } = self.place;
        let share = |x: f64, (from, to): (f64, f64)| (x - from) / (to - from);
        (left + (right - left) * share(epoch, self.epochs), bottom - (bottom - top) * share(value, self.values))
    }

    /// An empty box with room for its labels.
    fn paper(&self) -> Vec<Markup> {
        let Place { left, right, top, bottom } = self.place;
        let (x, y, width, height) = (left - 68.0, top - 14.0, right - left + 90.0, bottom - top + 44.0);
        vec![html! { rect .paper.frame x=(at(x)) y=(at(y)) width=(at(width)) height=(at(height)) rx="6" {} }]
    }

    fn axes(&self) -> Vec<Markup> {
        let Place { left, right, bottom, .. } = self.place;
        let mut elements = Vec::new();
        let values = ticks(self.values.0, self.values.1);
        let decimals = if self.values.1 - self.values.0 < 0.05 { 3 } else { 2 };
        for value in values {
            let (_, y) = self.at((self.epochs.0, value));
            elements.push(html! { path .grid d=(path([(left, y), (right, y)].into_iter())) {} });
            elements.push(html! { text .end x=(at(left - 8.0)) y=(at(y + 6.0)) { (format!("{value:.decimals$}")) } });
        }
        for epoch in ticks(self.epochs.0, self.epochs.1) {
            let (x, _) = self.at((epoch, self.values.0));
            elements.push(html! { text .middle x=(at(x)) y=(at(bottom + 22.0)) { (epoch) } });
        }
        if self.epochs.0 == 0.0 {
            elements.push(html! { text .middle x=(at(0.5 * (left + right))) y=(at(bottom + 44.0)) { "epoch" } });
        }
        elements
    }

    fn curves(&self, plot: &Plot) -> Vec<Markup> {
        let line = |curve: &[Point]| {
            path(curve.iter().filter(|(epoch, _)| *epoch >= self.epochs.0).map(|&point| self.at(point)))
        };
        let mut elements: Vec<Markup> = plot.runs.iter().map(|run| html! { path .one d=(line(run)) {} }).collect();
        elements.push(html! { path .two d=(line(&plot.mean)) {} });
        let published = plot.published.1;
        elements.push(html! { path .mark d=(line(&[(self.epochs.0, published), (self.epochs.1, published)])) {} });
        elements
    }
}
