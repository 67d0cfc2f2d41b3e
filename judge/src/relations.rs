//! How two tensors of one shape are related, if they are not equal: by a factor, an offset, an order of axes or of slices.

use crate::compare::largest;
use crate::{Tensor, Tolerance};

/// A tensor beside what it should be, and how closely they are held to each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub ours: &'a Tensor,
    pub golden: &'a Tensor,
    pub tolerance: Tolerance,
}

impl Pair<'_> {
    fn each(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.ours.values().iter().copied().zip(self.golden.values().iter().copied())
    }

    /// How closely a relation must give what was found: within tolerance, and a hundred times better than equality does.
    fn bound(&self) -> f64 {
        let error = self.each().map(|(ours, golden)| (ours - golden).abs()).fold(0.0, f64::max);
        let allowed = self.tolerance.bound(largest(self.golden.values()).max(largest(self.ours.values())));
        if error > 0.0 { allowed.min(error / 100.0) } else { allowed }
    }

    /// Which elements depart.
    pub fn departing(&self) -> Vec<bool> {
        let bound = self.tolerance.bound(largest(self.golden.values()));
        self.each().map(|(ours, golden)| !((ours - golden).abs() <= bound || ours == golden)).collect()
    }

    /// The factor that makes `golden` to `ours`.
    pub fn factor(&self) -> Option<f64> {
        let (factor, bound) = (factor_of(self.ours.values(), self.golden.values()), self.bound());
        let fits = factor.is_finite() && self.each().all(|(x, y)| (x - factor * y).abs() <= bound);
        (fits && (factor.abs() * largest(self.golden.values()) > bound)).then_some(factor)
    }

    /// The number that, added to every element of `golden`, makes `ours`.
    pub fn offset(&self) -> Option<f64> {
        let offset = self.each().map(|(x, y)| x - y).sum::<f64>() / self.ours.values().len() as f64;
        let bound = self.bound();
        self.each().all(|(x, y)| (x - y - offset).abs() <= bound).then_some(offset)
    }

    /// The one number that is added to some elements, the others being right; with how many they are.
    pub fn offset_of_some(&self) -> Option<(f64, usize)> {
        let bound = self.bound();
        let added: Vec<f64> = self.each().map(|(x, y)| x - y).filter(|d| d.abs() > bound || d.is_nan()).collect();
        let first = *added.first()?;
        (added.len() > 1 && added.iter().all(|d| (d - first).abs() <= 2.0 * bound)).then_some((first, added.len()))
    }

    /// Whether each row along the last axis has a factor, or an offset, of its own.
    pub fn by_rows(&self) -> Option<&'static str> {
        let width = *self.golden.shape().last()?;
        let rows = || self.ours.values().chunks(width.max(1)).zip(self.golden.values().chunks(width.max(1)));
        if width < 3 || rows().count() < 2 {
            return None;
        }
        let bound = self.bound();
        let scaled = |(ours, golden): (&[f64], &[f64])| {
            let factor = factor_of(ours, golden);
            factor.is_finite() && ours.iter().zip(golden).all(|(x, y)| (x - factor * y).abs() <= bound)
        };
        let moved = |(ours, golden): (&[f64], &[f64])| {
            let offset = ours.iter().zip(golden).map(|(x, y)| x - y).sum::<f64>() / width as f64;
            ours.iter().zip(golden).all(|(x, y)| (x - y - offset).abs() <= bound)
        };
        match () {
            () if rows().all(scaled) => Some("a factor"),
            () if rows().all(moved) => Some("an offset"),
            () => None,
        }
    }

    /// The two axes of one size that are exchanged.
    pub fn exchanged(&self) -> Option<[usize; 2]> {
        let shape = self.golden.shape();
        let axes = (0..shape.len()).flat_map(|a| (a + 1..shape.len()).map(move |b| [a, b]));
        axes.into_iter().filter(|&[a, b]| shape[a] == shape[b]).find(|&[a, b]| {
            let mut order: Vec<usize> = (0..shape.len()).collect();
            order.swap(a, b);
            self.equals(&permuted(self.ours, &order).1)
        })
    }

    /// The axis along which slices are in another order, and the place in `golden` of each of ours.
    pub fn reordered(&self) -> Option<(usize, Vec<usize>)> {
        (0..self.golden.shape().len()).find_map(|axis| {
            let [ours, golden] = [self.ours, self.golden].map(|tensor| slices(tensor, axis));
            let bound = self.bound();
            let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| (x - y).abs() <= bound);
            let mut free: Vec<usize> = (0..golden.len()).collect();
            let order: Option<Vec<usize>> = (ours.iter().enumerate())
                .map(|(i, slice)| {
                    // Of equal slices the one in its own place.
                    let own = free.iter().position(|&at| at == i && same(slice, &golden[at]));
                    let found = own.or_else(|| free.iter().position(|&at| same(slice, &golden[at])))?;
                    Some(free.remove(found))
                })
                .collect();
            order.filter(|order| order.len() > 1 && !order.is_sorted()).map(|order| (axis, order))
        })
    }

    /// Whether rows of `ours` are those of `golden`, brought to mean 0 and variance 1.
    pub fn standardized(&self) -> bool {
        let Some(&width) = self.golden.shape().last().filter(|&&width| width > 2) else { return false };
        let rows = self.golden.values().chunks(width).flat_map(|row| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            row.iter().map(move |v| (v - mean) / variance.sqrt())
        });
        // Whatever small number is added to the variance.
        let bound = self.bound().max(1e-4);
        rows.zip(self.ours.values()).all(|(expected, found)| (expected - found).abs() <= bound)
    }

    /// Whether values are within what is allowed.
    pub fn equals(&self, ours: &[f64]) -> bool {
        let bound = self.tolerance.bound(largest(self.golden.values()));
        ours.iter().zip(self.golden.values()).all(|(x, y)| (x - y).abs() <= bound)
    }
}

/// The factor that brings `golden` nearest to `ours`.
fn factor_of(ours: &[f64], golden: &[f64]) -> f64 {
    let sums = ours.iter().zip(golden).fold((0.0, 0.0), |(a, b), (x, y)| (a + x * y, b + y * y));
    sums.0 / sums.1
}

/// The order of axes in which a tensor of another shape holds what is expected.
pub(crate) fn axes_in_order(ours: &Tensor, golden: &Tensor) -> Option<Vec<usize>> {
    let tolerance = if golden.values().len() == ours.values().len() { Tolerance::FLOAT32 } else { return None };
    let pair = Pair { ours, golden, tolerance };
    orders(ours.shape().len()).into_iter().find(|order| {
        let (shape, values) = permuted(ours, order);
        shape == golden.shape() && pair.equals(&values)
    })
}

/// Every order of so many axes; none of more than four.
fn orders(axes: usize) -> Vec<Vec<usize>> {
    if axes > 4 {
        return Vec::new();
    }
    let mut all = vec![Vec::new()];
    for _ in 0..axes {
        let longer = all.iter().flat_map(|order: &Vec<usize>| {
            let next = (0..axes).filter(|axis| !order.contains(axis)).collect::<Vec<_>>();
            next.into_iter().map(|axis| [order.clone(), vec![axis]].concat()).collect::<Vec<_>>()
        });
        all = longer.collect();
    }
    all
}

/// A tensor's shape and elements with its axes in another order.
fn permuted(tensor: &Tensor, order: &[usize]) -> (Vec<usize>, Vec<f64>) {
    let strides = strides(tensor.shape());
    let shape: Vec<usize> = order.iter().map(|&axis| tensor.shape()[axis]).collect();
    let values = (0..tensor.values().len()).map(|flat| {
        let index = crate::compare::unravel(flat, &shape);
        let at: usize = index.iter().zip(order).map(|(i, &axis)| i * strides[axis]).sum();
        tensor.values()[at]
    });
    (shape.clone(), values.collect())
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

/// A tensor's slices along an axis.
fn slices(tensor: &Tensor, axis: usize) -> Vec<Vec<f64>> {
    let (size, stride) = (tensor.shape()[axis], strides(tensor.shape())[axis]);
    let of = |i: usize| tensor.values().chunks(stride).skip(i).step_by(size).flatten().copied().collect();
    (0..size).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], of: impl Fn(usize) -> f64) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(of).collect();
        Tensor::new(shape, &values).unwrap_or_else(|e| panic!("{e}"))
    }

    fn golden() -> Tensor {
        tensor(&[2, 3, 3], |i| (i as f64 * 1.7).sin())
    }

    fn pair<'a>(ours: &'a Tensor, golden: &'a Tensor) -> Pair<'a> {
        Pair { ours, golden, tolerance: Tolerance::FLOAT64 }
    }

    #[test]
    fn a_tensor_of_another_layout_is_recognised() {
        let golden = tensor(&[2, 3, 4], |i| (i as f64).sin());
        let (shape, values) = permuted(&golden, &[2, 0, 1]);
        let ours = Tensor::new(&shape, &values).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(axes_in_order(&ours, &golden), Some(vec![1, 2, 0]));
        assert_eq!(axes_in_order(&tensor(&[4, 2, 3], |i| i as f64), &golden), None);
    }

    #[test]
    fn rows_with_a_factor_or_an_offset_of_their_own_are_found() {
        let golden = golden();
        let by_row = |of: fn(f64, f64) -> f64| {
            golden.with(golden.values().iter().enumerate().map(|(i, &v)| of(v, (i / 3 + 2) as f64)).collect())
        };
        assert_eq!(pair(&by_row(|v, row| v * row), &golden).by_rows(), Some("a factor"));
        assert_eq!(pair(&by_row(|v, row| v + row), &golden).by_rows(), Some("an offset"));
        assert_eq!(pair(&by_row(|v, row| v.powi(2) + row), &golden).by_rows(), None);
    }
}
