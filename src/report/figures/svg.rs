//! What the figures share: the frame with its colours, the words for those who do not see it, and numbers.

use maud::{Markup, PreEscaped, html};

/// By this a figure of this program is known.
pub const GENERATOR: &str = "<!-- written by `dif-sr publish`, never by hand -->";
/// In user units, of which a screen shows more or fewer than a pixel each.
pub const WIDTH: f64 = 600.0;

/// Colours for light and dark screens. The background is the figure's own, so that text is readable on any page; no font
/// is fetched.
const STYLE: &str = "\
svg { --paper: #ffffff; --ink: #1f2328; --grid: #d8dee4; --one: #4f97d1; --two: #0f4c81; --mark: #b4410c }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --grid: #363d46; --one: #3f7fc4; --two: #a5d0ff; --mark: #ffa05c }
}
text { font: 17px system-ui, sans-serif; fill: var(--ink) }
.title { font-size: 20px; font-weight: 600 }
.end { text-anchor: end }
.middle { text-anchor: middle }
.paper { fill: var(--paper) }
.grid { stroke: var(--grid); fill: none }
.frame { stroke: var(--grid) }
.one { stroke: var(--one); stroke-width: 1.3; fill: none }
.two { stroke: var(--two); stroke-width: 3.5; stroke-linejoin: round; fill: none }
.bar-one { fill: var(--one) }
.bar-two { fill: var(--two) }
.mark { stroke: var(--mark); stroke-width: 2.5; stroke-dasharray: 8 5; fill: none }
.mark-text { fill: var(--mark) }
.halo { stroke: var(--paper); stroke-width: 6; fill: none }
.spread { stroke: var(--ink); stroke-width: 2; fill: none }
";

/// A figure of `height` with its title, and what it shows in words.
pub fn frame(title: &str, words: &str, height: f64, elements: Vec<Markup>) -> String {
    let begin = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-labelledby=\"title desc\">\n{GENERATOR}\n"
    );
    let head = [
        html! { title id="title" { (title) } },
        html! { desc id="desc" { (words) } },
        html! { style { (PreEscaped(STYLE)) } },
        html! { rect .paper width=(WIDTH) height=(height) rx="8" {} },
        html! { text .title x="16" y="32" { (title) } },
    ];
    // A line for each element: a change shows as one.
    let lines = head.into_iter().chain(elements).map(|element| element.into_string() + "\n");
    begin + &lines.collect::<String>() + "</svg>\n"
}

/// A coordinate, to a tenth.
pub fn at(x: f64) -> String {
    format!("{x:.1}")
}

/// A line from point to point.
pub fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    points.enumerate().map(|(i, (x, y))| format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' })).collect()
}

/// Round values from `low` to `high`, of which there are three to six where `low` is 0.
pub fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let exponent = rough.log10().floor() as i32;
    let power = 10_f64.powi(exponent);
    let factor = [1.0, 2.0, 5.0].into_iter().find(|&factor| factor * power >= rough).unwrap_or(10.0);
    let (first, last) = ((low / (factor * power)).ceil() as i64, (high / (factor * power)).floor() as i64);
    // One rounding: 6 / 10 and not 3 · 0.2.
    let tick =
        |i: i64| if exponent < 0 { i as f64 * factor / 10_f64.powi(-exponent) } else { i as f64 * factor * power };
    (first..=last).map(tick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        let close = |found: Vec<f64>, expected: &[f64]| {
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12)
        };
        assert!(close(ticks(0.0, 121.0), &[0.0, 50.0, 100.0]));
        assert!(close(ticks(0.0, 8.78), &[0.0, 2.0, 4.0, 6.0, 8.0]));
        assert!(close(ticks(0.0128, 0.1146), &[0.05, 0.1]));
        assert_eq!(ticks(0.0, 0.8), [0.0, 0.2, 0.4, 0.6, 0.8]);
        for high in [1.0, 3.3, 47.0, 0.0021] {
            assert!((3..=6).contains(&ticks(0.0, high).len()), "{high}: {:?}", ticks(0.0, high));
        }
    }
}
