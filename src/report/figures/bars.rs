//! How many times as fast something is as what it is compared with: a bar for each work, a group for each machine.

use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde::Deserialize;

use super::read;
use super::svg::{WIDTH, at, frame, path, ticks};
use crate::{Error, Result};

/// The edges of the bars, left of which they are named and right of which their values stand.
const LEFT: f64 = 190.0;
const RIGHT: f64 = WIDTH - 196.0;
const TOP: f64 = 60.0;
/// The heights of a machine's name, of a bar's row, of a bar, and of what is below the last one.
const HEADING: f64 = 36.0;
const ROW: f64 = 32.0;
const BAR: f64 = 22.0;
const FOOT: f64 = 66.0;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// Where it goes.
    pub file: PathBuf,
    title: String,
    /// The measurements.
    data: PathBuf,
}

/// The form of the measurements.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// What has the speed 1.
    unit: String,
    /// By what they were measured, for the reader of the file.
    #[serde(rename = "command")]
    _command: String,
    machines: Vec<Machine>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    machine: String,
    /// How often all was measured.
    rounds: usize,
    work: Vec<Work>,
}

/// The ratios of several rounds: the median, the least and the most.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    name: String,
    precision: String,
    ratio: f64,
    least: f64,
    most: f64,
}

impl Form {
    /// The figure.
    ///
    /// # Errors
    /// Measurements that cannot be read, none, or one whose median is not between its least and its most.
    pub fn svg(&self, folder: &Path) -> Result<String> {
        let path = folder.join(&self.data);
        let data: Data = read(&path)?;
        data.check().map_err(|problem| Error::new(problem).at(&path).hint("correct the file"))?;
        Ok(frame(&self.title, &data.words(), data.height(), [data.axis(), data.bars()].concat()))
    }
}

impl Data {
    fn check(&self) -> std::result::Result<(), String> {
        let all: Vec<&Work> = self.machines.iter().flat_map(|machine| &machine.work).collect();
        let wrong = |work: &&&Work| !(work.least > 0.0 && work.least <= work.ratio && work.ratio <= work.most);
        match all.iter().find(wrong) {
            _ if all.is_empty() => Err("expected the measurements of at least one work, found none".to_owned()),
            Some(Work { name, ratio, least, most, .. }) => {
                Err(format!("`{name}`: expected 0 < least ≤ ratio ≤ most, found {least}, {ratio}, {most}"))
            }
            None if all.iter().any(|work| !work.most.is_finite()) => {
                Err("expected finite ratios, found another one".to_owned())
            }
            None => Ok(()),
        }
    }

    fn height(&self) -> f64 {
        let rows: usize = self.machines.iter().map(|machine| machine.work.len()).sum();
        TOP + HEADING * self.machines.len() as f64 + ROW * rows as f64 + FOOT
    }

    fn most(&self) -> f64 {
        self.machines.iter().flat_map(|machine| &machine.work).map(|work| work.most).fold(1.0, f64::max)
    }

    /// The place of a ratio.
    fn x(&self, ratio: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * ratio / self.most()
    }

    /// What the bars' ends are, below all of them.
    fn axis(&self) -> Vec<Markup> {
        let bottom = self.height() - FOOT + 4.0;
        let label = |ratio: f64| html! { text .middle x=(at(self.x(ratio))) y=(at(bottom + 22.0)) { (ratio) "×" } };
        let mut elements: Vec<Markup> = ticks(0.0, self.most()).into_iter().map(label).collect();
        elements.push(html! { text .mark-text x=(at(self.x(1.0))) y=(at(bottom + 46.0)) { (self.unit) " = 1" } });
        elements
    }

    fn bars(&self) -> Vec<Markup> {
        let mut elements = Vec::new();
        let mut y = TOP;
        for Machine { machine, rounds, work } in &self.machines {
            elements.push(html! { text x="16" y=(at(y + 24.0)) { (machine) ", n = " (rounds) } });
            y += HEADING;
            let bottom = y + ROW * work.len() as f64;
            let line = |ratio: f64| path([(self.x(ratio), y), (self.x(ratio), bottom)].into_iter());
            elements.extend(ticks(0.0, self.most()).into_iter().map(|ratio| html! { path .grid d=(line(ratio)) {} }));
            elements.extend(work.iter().enumerate().flat_map(|(i, work)| self.bar(work, y + ROW * i as f64)));
            elements.push(html! { path .mark d=(line(1.0)) {} });
            y = bottom;
        }
        elements
    }

    fn bar(&self, work: &Work, y: f64) -> Vec<Markup> {
        let Work { name, precision, ratio, least, most } = work;
        let (top, middle) = (y + 0.5 * (ROW - BAR), y + 0.5 * ROW);
        let class = if precision == "bf16" { "bar-two" } else { "bar-one" };
        let value = format!("{ratio:.2}× ({least:.2}–{most:.2})");
        let spread = path([(self.x(*least), middle), (self.x(*most), middle)].into_iter());
        vec![
            html! { text .end x=(at(LEFT - 10.0)) y=(at(middle + 6.0)) { (name) ", " (precision) } },
            html! { rect class=(class) x=(at(LEFT)) y=(at(top)) width=(at(self.x(*ratio) - LEFT)) height=(BAR) {} },
            html! { path .halo d=(spread) {} },
            html! { path .spread d=(spread) {} },
            html! { text x=(at(self.x(*most) + 8.0)) y=(at(middle + 6.0)) { (value) } },
        ]
    }

    fn words(&self) -> String {
        let of = |machine: &Machine| {
            let work = machine.work.iter().map(|Work { name, precision, ratio, least, most }| {
                format!("{name} in {precision} {ratio:.2} times ({least:.2} to {most:.2})")
            });
            let Machine { machine: name, rounds, .. } = machine;
            format!("On {name}, medians of {rounds} rounds, least and most: {}.", work.collect::<Vec<_>>().join(", "))
        };
        let machines: Vec<String> = self.machines.iter().map(of).collect();
        format!("Speed beside {}, which is 1. {}", self.unit, machines.join(" "))
    }
}
