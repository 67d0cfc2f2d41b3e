//! The one way in which this project compares tensors.

use std::fmt;

use serde::Serialize;
use tch::{Kind, Tensor};

/// |ours − golden| may reach `rtol · max|golden tensor| + atol`.
///
/// Relative to the tensor's largest value, not elementwise: rounding errors grow with depth and with the size of what was
/// summed, for which an element near zero makes no allowance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance {
    /// The share of the golden tensor's largest value.
    pub rtol: f64,
    /// What is allowed beside it.
    pub atol: f64,
}

impl Tolerance {
    /// Seven to eight orders above float64's rounding, far below any difference of formula.
    pub const FLOAT64: Self = Self { rtol: 1e-9, atol: 1e-12 };
    /// Float32 rounding through all layers and five optimizer steps.
    pub const FLOAT32: Self = Self { rtol: 2e-4, atol: 1e-6 };

    /// For what is handed over and not computed.
    pub const EXACT: Self = Self { rtol: 0.0, atol: 0.0 };

    /// The tolerance for a comparison in which the less precise side is of this kind.
    pub fn of(kind: Kind) -> Self {
        if kind == Kind::Double { Self::FLOAT64 } else { Self::FLOAT32 }
    }

    fn bound(self, golden: &Tensor) -> f64 {
        let finite = golden.abs().nan_to_num(0.0, 0.0, 0.0);
        self.rtol * finite.max().double_value(&[]) + self.atol
    }
}

/// How far one tensor lies from its golden.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The tensor's name.
    pub name: String,
    #[serde(flatten)]
    /// The largest error, or what makes an error meaningless.
    pub outcome: Outcome,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Shapes { ours: Vec<i64>, golden: Vec<i64> },
    Compared { error: f64, bound: f64, index: Vec<i64>, ours: f64, golden: f64 },
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
pub fn compare(name: &str, ours: &Tensor, golden: &Tensor, tolerance: Tolerance) -> Comparison {
    let name = name.to_owned();
    if ours.size() != golden.size() {
        return Comparison { name, outcome: Outcome::Shapes { ours: ours.size(), golden: golden.size() } };
    }
    if golden.numel() == 0 {
        let outcome = Outcome::Compared { error: 0.0, bound: 0.0, index: vec![], ours: 0.0, golden: 0.0 };
        return Comparison { name, outcome };
    }
    let flat = |t: &Tensor| t.detach().to_device(tch::Device::Cpu).to_kind(Kind::Double).flatten(0, -1);
    let (ours, theirs) = (flat(ours), flat(golden));
    // Equal infinities and paired NaNs are no error; a lone NaN counts as the largest.
    let same = ours.eq_tensor(&theirs).logical_or(&ours.isnan().logical_and(&theirs.isnan()));
    let errors = (&ours - &theirs).abs().where_scalarother(&same.logical_not(), 0.0);
    let at = errors.argmax(None, false).int64_value(&[]);
    let outcome = Outcome::Compared {
        error: errors.double_value(&[at]),
        bound: tolerance.bound(&theirs),
        index: unravel(at, &golden.size()),
        ours: ours.double_value(&[at]),
        golden: theirs.double_value(&[at]),
    };
    Comparison { name, outcome }
}

/// The index of a flat position.
fn unravel(mut flat: i64, shape: &[i64]) -> Vec<i64> {
    let mut index: Vec<i64> = shape.iter().rev().map(|&n| (flat % n, flat /= n).0).collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_error_is_named_with_its_index() {
        let golden = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]).view([2, 2]);
        let ours = Tensor::from_slice(&[1.0, 2.0, 3.5, 4.1]).view([2, 2]);
        let found = compare("x", &ours, &golden, Tolerance { rtol: 0.1, atol: 0.0 });
        assert!(!found.holds());
        assert_eq!(found.ratio(), 0.5 / 0.4);
        assert!(found.to_string().starts_with("`x` at [1, 0]: expected 3.0"), "{found}");
    }

    #[test]
    fn shapes_are_compared_before_values() {
        let found = compare("x", &Tensor::from_slice(&[1.0]), &Tensor::from_slice(&[1.0, 1.0]), Tolerance::FLOAT64);
        assert_eq!(found.to_string(), "`x`: expected shape [2], found [1]");
        assert!(!found.holds() && found.ratio().is_infinite());
    }

    #[test]
    fn a_lone_nan_never_holds_and_equal_infinities_do() {
        let infinite = Tensor::from_slice(&[f64::INFINITY, 1.0]);
        assert!(compare("x", &infinite, &infinite, Tolerance { rtol: 0.0, atol: 0.0 }).holds());
        let nan = Tensor::from_slice(&[f64::NAN, 1.0]);
        assert!(!compare("x", &nan, &Tensor::from_slice(&[1.0, 1.0]), Tolerance { rtol: 1.0, atol: 1.0 }).holds());
    }
}
