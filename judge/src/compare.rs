//! The one way in which this project compares tensors.

use std::fmt;

use serde::Serialize;

use crate::{Dtype, Tensor};

/// |ours − golden| may reach `rtol · max|golden tensor| + atol`.
///
/// Relative to the tensor's largest value, not elementwise: rounding errors grow with depth and with the size of what was
/// summed, for which an element near zero makes no allowance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// Relative to the golden tensor's largest absolute value.
    pub rtol: f64,
    /// Absolute.
    pub atol: f64,
}

impl Tolerance {
    /// Seven to eight orders above float64's rounding, far below any difference of formula.
    pub const FLOAT64: Self = Self { rtol: 1e-9, atol: 1e-12 };
    /// Float32 rounding through all layers and five optimizer steps.
    pub const FLOAT32: Self = Self { rtol: 2e-4, atol: 1e-6 };
    /// For what is handed over and not computed.
    pub const EXACT: Self = Self { rtol: 0.0, atol: 0.0 };

    /// The tolerance for a comparison in which the less precise side is of this type.
    pub fn of(dtype: Dtype) -> Self {
        if dtype == Dtype::Float64 { Self::FLOAT64 } else { Self::FLOAT32 }
    }

    /// What is allowed for a tensor whose largest absolute value is this.
    pub fn bound(self, largest: f64) -> f64 {
        self.rtol * largest + self.atol
    }
}

/// How far one tensor lies from its golden.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The tensor's key.
    pub name: String,
    /// The largest error, or what makes an error meaningless.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The shapes differ; nothing was compared.
    Shapes {
        /// The shape that was found.
        ours: Vec<usize>,
        /// The shape that was expected.
        golden: Vec<usize>,
    },
    /// The element with the largest error.
    Compared {
        /// |ours − golden|.
        error: f64,
        /// What is allowed.
        bound: f64,
        /// Where.
        index: Vec<usize>,
        /// What was found there.
        ours: f64,
        /// What was expected there.
        golden: f64,
    },
}

impl Comparison {
    /// Whether the error is within the bound. NaN is not, unless the golden is NaN in the same place.
    pub fn holds(&self) -> bool {
        matches!(self.outcome, Outcome::Compared { error, bound, .. } if error <= bound)
    }

    /// The error and what is allowed; both infinite where the shapes differ.
    pub fn error_and_bound(&self) -> (f64, f64) {
        match self.outcome {
            Outcome::Compared { error, bound, .. } => (error, bound),
            Outcome::Shapes { .. } => (f64::INFINITY, f64::INFINITY),
        }
    }

    /// Error over bound: 1 is the limit; infinite where shapes differ or a value is not a number.
    pub fn ratio(&self) -> f64 {
        match self.outcome {
            // Integers must be equal: their bound is 0 too.
            Outcome::Compared { error: 0.0, .. } => 0.0,
            Outcome::Compared { error, bound, .. } if !error.is_nan() => error / bound,
            _ => f64::INFINITY,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Shapes { ours, golden } => {
                write!(f, "`{}`: expected shape {golden:?}, found {ours:?}", self.name)
            }
            Outcome::Compared { error, bound, index, ours, golden } => write!(
                f,
                "`{}` at {index:?}: expected {golden:.9e}, found {ours:.9e}, error {error:.2e}, allowed {bound:.2e}",
                self.name
            ),
        }
    }
}

/// Compares shape first, then values; the result names the element with the largest error.
///
/// ```
/// use judge::{Tensor, Tolerance, compare};
///
/// let golden = Tensor::new(&[2, 2], &[1.0, 2.0, 3.0, 4.0])?;
/// let ours = Tensor::new(&[2, 2], &[1.0, 2.0, 3.5, 4.1])?;
/// let found = compare("x", &ours, &golden, Tolerance { rtol: 0.1, atol: 0.0 });
/// assert!(!found.holds());
/// assert!(found.to_string().starts_with("`x` at [1, 0]: expected 3.0"));
/// # Ok::<(), judge::Error>(())
/// ```
pub fn compare(name: &str, ours: &Tensor, golden: &Tensor, tolerance: Tolerance) -> Comparison {
    let name = name.to_owned();
    if ours.shape() != golden.shape() {
        let (ours, golden) = (ours.shape().into(), golden.shape().into());
        return Comparison { name, outcome: Outcome::Shapes { ours, golden } };
    }
    let bound = tolerance.bound(largest(golden.values()));
    let pairs = ours.values().iter().zip(golden.values()).enumerate();
    // Equal infinities and paired NaNs are no error; a lone NaN counts as the largest.
    let errors = pairs.map(|(at, (&x, &y))| (at, if x == y || x.is_nan() && y.is_nan() { 0.0 } else { (x - y).abs() }));
    let Some((at, error)) = errors.reduce(|most, next| if larger(next.1, most.1) { next } else { most }) else {
        let outcome = Outcome::Compared { error: 0.0, bound: 0.0, index: vec![], ours: 0.0, golden: 0.0 };
        return Comparison { name, outcome };
    };
    let (index, ours, golden) = (unravel(at, golden.shape()), ours.values()[at], golden.values()[at]);
    Comparison { name, outcome: Outcome::Compared { error, bound, index, ours, golden } }
}

fn larger(next: f64, most: f64) -> bool {
    !most.is_nan() && (next.is_nan() || next > most)
}

/// The largest finite absolute value.
pub(crate) fn largest(values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max)
}

/// The index of a flat position.
pub(crate) fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape.iter().rev().map(|&n| (flat % n, flat /= n).0).collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Tensor {
        Tensor::new(&[values.len()], values).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn the_error_is_told_in_relation_to_what_is_allowed() {
        let found = compare("x", &of(&[1.0, 3.5]), &of(&[1.0, 4.0]), Tolerance { rtol: 0.1, atol: 0.0 });
        assert_eq!(found.ratio(), 0.5 / 0.4);
    }

    #[test]
    fn shapes_are_compared_before_values() {
        let found = compare("x", &of(&[1.0]), &of(&[1.0, 1.0]), Tolerance::FLOAT64);
        assert_eq!(found.to_string(), "`x`: expected shape [2], found [1]");
        assert!(!found.holds() && found.ratio().is_infinite());
    }

    #[test]
    fn a_lone_nan_never_holds_and_equal_infinities_do() {
        let infinite = of(&[f64::INFINITY, 1.0]);
        assert!(compare("x", &infinite, &infinite, Tolerance::EXACT).holds());
        let wide = Tolerance { rtol: 1.0, atol: 1.0 };
        assert!(!compare("x", &of(&[f64::NAN, 1.0]), &of(&[1.0, 1.0]), wide).holds());
        assert!(!compare("x", &of(&[9.0, f64::NAN]), &of(&[1.0, 1.0]), wide).holds());
        assert!(compare("x", &of(&[f64::NAN]), &of(&[f64::NAN]), wide).holds());
    }
}
