//! Curves over epochs as SVG.

use std::ops::Range;

use plotters::prelude::*;

use crate::{Error, Result};

/// Width and height in user units; the page scales them.
const SIZE: (u32, u32) = (480, 300);
/// The runs' colours, of which the page's style knows the form for dark screens; a seventh run begins again.
pub const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1F, 0x6F, 0xB4),
    RGBColor(0xC2, 0x41, 0x0C),
    RGBColor(0x15, 0x80, 0x3D),
    RGBColor(0x7E, 0x22, 0xCE),
    RGBColor(0xA1, 0x62, 0x07),
    RGBColor(0xBE, 0x18, 0x5D),
];
/// What is expected: lines and their labels.
const EXPECTED: RGBColor = RGBColor(0x77, 0x77, 0x78);
const INK: RGBColor = RGBColor(0, 0, 0);
const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDE);

/// One chart: a curve for each run, in the order of their colours, and expected values.
#[derive(Debug)]
pub struct Chart {
    pub title: String,
    pub curves: Vec<Vec<(f64, f64)>>,
    /// Values with their labels, drawn as horizontal lines.
    pub expected: Vec<(String, f64)>,
}

impl Chart {
    /// Nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.curves.iter().all(Vec::is_empty)
    }

    /// The SVG element, without a title of its own: the page labels it.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|e| Error::new(format!("cannot draw `{}`: {e}", self.title)))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> std::result::Result<(), Box<dyn std::error::Error>> {
        let values = self.values();
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        let font = ("sans-serif", 13).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(38)
            .y_label_area_size(58)
            .build_cartesian_2d(self.epochs(), values.clone())?;
        (chart.configure_mesh())
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x}") } else { String::new() })
            .y_label_formatter(&|y| label(*y, &values))
            .x_desc("epoch")
            .draw()?;
        let epochs = self.epochs();
        for (name, value) in &self.expected {
            chart.draw_series(DashedLineSeries::new(
                [(epochs.start, *value), (epochs.end, *value)],
                5,
                4,
                EXPECTED.stroke_width(2),
            ))?;
            let font = ("sans-serif", 12).into_font().color(&EXPECTED);
            // In pixels from the line's beginning: clear of the axis.
            let label = EmptyElement::at((epochs.start, *value)) + Text::new(name.clone(), (6, 3), font);
            chart.draw_series([label])?;
        }
        for (i, curve) in self.curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            chart.draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))?;
            // A line of one point does not show.
            if let [point] = curve[..] {
                chart.draw_series([Circle::new(point, 3, colour.filled())])?;
            }
        }
        root.present()?;
        Ok(())
    }

    fn epochs(&self) -> Range<f64> {
        let last = self.curves.iter().flatten().map(|&(epoch, _)| epoch).fold(1.0, f64::max);
        0.0..last
    }

    /// The values with a little room; never an empty range.
    fn values(&self) -> Range<f64> {
        let values = self.curves.iter().flatten().map(|&(_, value)| value);
        let all: Vec<f64> = values.chain(self.expected.iter().map(|&(_, value)| value)).collect();
        let (low, high) =
            (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        let room = if high > low { 0.06 * (high - low) } else { 0.1 * high.abs().max(1e-9) };
        low - room..high + room
    }
}

/// A value with one digit more than tells values apart that are as far from each other as the range is wide.
fn label(value: f64, range: &Range<f64>) -> String {
    let decimals = (1.0 - (range.end - range.start).log10().floor()).clamp(0.0, 12.0) as usize;
    format!("{value:.decimals$}")
}
