//! What a departing tensor's numbers say of themselves, where no known fault gives them. Each sentence is a fact: it holds
//! for every element, or it is not said.

use crate::compare::largest;
use crate::context::Context;
use crate::numbers::Names;
use crate::relations::Pair;
use crate::{Part, Stage, optimizer, parts};

/// Relative to the largest value: what a few operations in float32 make of float64 numbers.
const FLOAT32_ROUNDING: f64 = 4e-7;

impl<'a> Context<'a> {
    /// Everything that can be said.
    pub fn known(&self) -> Vec<String> {
        let Some(pair) = self.pair(&self.first.name) else { return Vec::new() };
        let broken = pair.ours.values().iter().filter(|value| !value.is_finite()).count();
        if broken > 0 {
            return vec![format!("{broken} of {} elements are not finite", pair.ours.values().len())];
        }
        let region = self.where_it_departs(&pair);
        let mut known = match () {
            () if pair.ours.values().iter().all(|&value| value == 0.0) => {
                vec![format!("`{}` is 0 in every element", self.first.name)]
            }
            () if region.is_some() => Vec::new(),
            () => self.related(&pair),
        };
        known.extend(region);
        known.extend(self.of_float32(&pair));
        known.extend(match self.stage {
            Stage::Layer(k, Part::Probabilities) => parts::of_probabilities(self, k),
            Stage::SequenceOutput => parts::of_sequence_output(self, &pair),
            Stage::Losses => parts::of_losses(self),
            Stage::Gradients => optimizer::of_gradients(self),
            Stage::OptimizerSteps => optimizer::of_steps(self),
            _ => Vec::new(),
        });
        known
    }

    /// In a float64 dump: whether the departure is float32's.
    fn of_float32(&self, pair: &Pair<'_>) -> Option<String> {
        let name = &self.first.name;
        let is_float32 = |values: &[f64]| values.iter().all(|&value| f64::from(value as f32) == value);
        let (error, largest) = (self.first.error_and_bound().0, largest(pair.golden.values()));
        match () {
            () if self.single || is_float32(pair.golden.values()) => None,
            // Zeros and ones are float32 numbers, too.
            () if is_float32(pair.ours.values())
                && pair.ours.values().iter().any(|&v| (v as f32).to_bits() & 0xff != 0) =>
            {
                Some(format!("every element of `{name}` is a float32 number: it was computed, or kept, in float32"))
            }
            () if error <= FLOAT32_ROUNDING * largest => Some(format!(
                "the error is {:.0e} of the largest value, no more than rounding to float32 makes",
                error / largest
            )),
            () => None,
        }
    }

    /// How the whole tensor is related to what is expected.
    fn related(&self, pair: &Pair<'_>) -> Vec<String> {
        let names = Names::of(self.case);
        let name = &self.first.name;
        if pair.ours.values().len() == 1 {
            let factor = pair.factor().filter(|_| self.stage != Stage::OptimizerSteps);
            let told = factor.and_then(|factor| names.of_factor(factor, if self.single { 1e-5 } else { 1e-6 }));
            return told.map(|told| format!("`{name}` is {told}")).into_iter().collect();
        }
        let mut told = Vec::new();
        if let Some(factor) = pair.factor() {
            let named = names.of_factor(factor, 1e-6).unwrap_or_else(|| format!("{factor:.7} times what is expected"));
            told.push(format!("`{name}` is {named}, in every element"));
        } else if let Some(offset) = pair.offset() {
            told.push(format!("`{name}` is what is expected plus {offset:.7}, in every element"));
        } else if let Some((offset, count)) = pair.offset_of_some() {
            told.push(format!("{offset:.7} is added to {count} elements of `{name}`, the others are right"));
        } else if let Some([a, b]) = pair.exchanged() {
            told.push(format!("`{name}` is what is expected with axes {a} and {b} exchanged (transposed)"));
        } else if let Some((axis, order)) = pair.reordered() {
            told.push(format!("`{name}` holds what is expected along axis {axis} in the order {order:?}"));
        } else if pair.standardized() {
            told.push(format!("rows of `{name}` are the expected ones, normalised once more to mean 0 and variance 1"));
        } else if let Some(kind) = pair.by_rows() {
            told.push(format!("each row of `{name}` is the expected one with {kind} of its own"));
        }
        let other = self.equal_to_another(pair);
        told.extend(other.map(|other| format!("`{name}` holds what is expected of `{other}`")));
        told
    }

    /// Another golden tensor of the same shape that it equals.
    fn equal_to_another(&self, pair: &Pair<'_>) -> Option<&'a str> {
        let others = self.case.keys().filter(|key| key.starts_with("out.") && *key != self.first.name);
        let case = self.case;
        others.into_iter().find(|key| {
            let Some(golden) = case.golden(key) else { return false };
            let other = Pair { golden, ..*pair };
            golden.shape().len() > 1 && golden.shape() == pair.ours.shape() && other.equals(pair.ours.values())
        })
    }

    /// The region outside of which everything is right.
    fn where_it_departs(&self, pair: &Pair<'_>) -> Option<String> {
        let (departing, shape) = (pair.departing(), pair.golden.shape());
        let total = departing.iter().filter(|departs| **departs).count();
        let only = |inside: &dyn Fn(&[usize]) -> bool| {
            let index = |flat: usize| crate::compare::unravel(flat, shape);
            departing.iter().enumerate().all(|(flat, &departs)| !departs || inside(&index(flat)))
        };
        let is_item = self.case.is_item();
        let length = self.case.config.max_len;
        let of_batch = shape.first() == Some(&self.case.batch());
        let item = |row: usize, position: usize| is_item[row * length + position];
        let name = &self.first.name;
        let regions: Vec<(&str, bool)> = match shape {
            [_, _, l, keys] if of_batch && (l, keys) == (&length, &length) => vec![
                ("the keys that are later than their query", only(&|i| i[3] > i[2])),
                ("padded keys", only(&|i| !item(i[0], i[3]))),
                ("the rows of padded queries", only(&|i| !item(i[0], i[2]))),
                ("masked keys, padded or later than their query", only(&|i| i[3] > i[2] || !item(i[0], i[3]))),
            ],
            [_, l, _] if of_batch && l == &length => {
                vec![("padded positions", only(&|i| !item(i[0], i[1]))), ("position 0", only(&|i| i[1] == 0))]
            }
            [_, items] if of_batch && *items == self.case.config.n_items => {
                vec![("the padding item, column 0", only(&|i| i[1] == 0))]
            }
            [_, _] if name.contains("embed") => vec![("row 0, the padding's", only(&|i| i[0] == 0))],
            _ => Vec::new(),
        };
        let found = regions.into_iter().find(|(_, holds)| *holds)?.0;
        let whole = departing.len();
        let zero = departing.iter().zip(pair.ours.values()).all(|(&departs, &value)| !departs || value == 0.0);
        let zero = if zero { ", where it is 0" } else { "" };
        Some(format!("it departs only at {found} ({total} of {whole} elements){zero}"))
    }
}
