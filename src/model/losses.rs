//! The losses of a batch.
//!
//! ```text
//! total = item + Σ λᵢ · attributeᵢ      (equation 13)
//! ```

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// The losses of a batch as tensors `[]`, or, as `Losses<f64>`, as numbers, and then of an epoch too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Losses<T = Tensor> {
    /// item + Σ λᵢ · attributeᵢ (equation 13).
    pub total: T,
    /// The loss of the items (equation 11, or BPR).
    pub item: T,
    /// One per attribute, in the order of `selected_features`; empty without a predictor.
    pub attributes: Vec<T>,
}

impl Losses {
    /// Without their history.
    pub fn detach(&self) -> Self {
        let attributes = self.attributes.iter().map(Tensor::detach).collect();
        Self { total: self.total.detach(), item: self.item.detach(), attributes }
    }

    /// As one tensor `[2 + attributes]`, float64 where one of them is.
    pub fn stacked(&self) -> Tensor {
        let all = [&self.total, &self.item].into_iter().chain(&self.attributes).map(Tensor::detach);
        Tensor::stack(&all.collect::<Vec<_>>(), 0)
    }

    /// Of what [`Losses::stacked`] made.
    ///
    /// # Panics
    /// Fewer than two.
    pub fn unstacked(stacked: &Tensor) -> Self {
        let mut all = stacked.unbind(0).into_iter();
        let mut next = || all.next().expect("the losses in total and of the items");
        Self { total: next(), item: next(), attributes: all.collect() }
    }

    /// The numbers; on a GPU this waits for them.
    pub fn values(&self) -> Losses<f64> {
        Self::values_of(std::slice::from_ref(self)).remove(0)
    }

    /// The numbers of several batches, read at once.
    pub fn values_of(batches: &[Self]) -> Vec<Losses<f64>> {
        let all: Vec<Tensor> = batches.iter().map(|losses| losses.stacked().to_kind(Kind::Double)).collect();
        let values = Vec::<f64>::try_from(Tensor::cat(&all, 0)).expect("one dimension of float64");
        let each = values.chunks_exact(values.len() / batches.len().max(1));
        each.map(|of| Losses { total: of[0], item: of[1], attributes: of[2..].to_vec() }).collect()
    }
}

impl Losses<f64> {
    /// As tensors `[]` on the CPU.
    pub fn tensors(self) -> Losses {
        let attributes = self.attributes.into_iter().map(Tensor::from).collect();
        Losses { total: self.total.into(), item: self.item.into(), attributes }
    }

    /// Adds the losses of another batch.
    pub fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.item += other.item;
        self.attributes.resize(other.attributes.len(), 0.0);
        self.attributes.iter_mut().zip(&other.attributes).for_each(|(sum, loss)| *sum += loss);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_batches_are_summed_each_on_its_own() {
        let batch = Losses { total: 7.0, item: 3.0, attributes: vec![0.5, 0.25] };
        let mut sum = Losses::default();
        sum.add(&batch);
        sum.add(&batch);
        assert_eq!(sum, Losses { total: 14.0, item: 6.0, attributes: vec![1.0, 0.5] });
    }
}
