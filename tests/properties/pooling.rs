//! How an item's tokens become one vector.

use dif_sr::config::{AttributeKind, Pooling};
use dif_sr::model::{FeatureSeqEmbLayer, ItemFeature};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::sample::*;

const ALL: [Pooling; 3] = [Pooling::Sum, Pooling::Mean, Pooling::Max];

/// A table, and the tokens of `[2, 3]` items with padding among them and repetitions.
#[derive(Debug)]
struct Bag {
    table: Tensor,
    /// `[2, 3, S]`.
    ids: Tensor,
}

prop_compose! {
    fn bags()(vocab in 2..6_i64, size in 1..5_i64, width in 1..6_i64, seed in any::<u64>()) -> Bag {
        let mut random = Random::new(seed);
        Bag { table: random.normal(&[vocab, size], 0.0, 1.0), ids: random.ids(&[2, 3, width], 0, vocab) }
    }
}

impl Bag {
    fn pool(&self, pooling: Pooling, ids: &Tensor) -> Tensor {
        let vocab = self.table.size()[0];
        let nothing = Tensor::zeros([1, 1], (Kind::Int64, Device::Cpu));
        let feature = ItemFeature { name: "tokens".to_owned(), kind: AttributeKind::TokenSeq, vocab, ids: nothing };
        let mut layer = FeatureSeqEmbLayer::new(&feature, self.table.size()[1], pooling, (Kind::Double, Device::Cpu));
        layer.table = self.table.shallow_clone();
        layer.forward(ids)
    }

    /// The vectors of every item's tokens, padding left out.
    fn vectors(&self) -> Vec<Vec<Vec<f64>>> {
        let rows: Vec<Vec<f64>> = (0..self.table.size()[0]).map(|token| values(&self.table.get(token))).collect();
        let width = self.ids.size()[2] as usize;
        let item = |tokens: &[i64]| tokens.iter().filter(|&&t| t != 0).map(|&t| rows[t as usize].clone()).collect();
        ids(&self.ids).chunks(width).map(item).collect()
    }

    /// `combine` on every column of every item's vectors, as `[2, 3, size]`.
    fn expected(&self, combine: impl Fn(&[f64]) -> f64) -> Tensor {
        let size = self.table.size()[1];
        let mut out = Vec::new();
        for vectors in self.vectors() {
            let column = |c: usize| vectors.iter().map(|v| v[c]).collect::<Vec<f64>>();
            out.extend((0..size as usize).map(|c| combine(&column(c))));
        }
        Tensor::from_slice(&out).view([2, 3, size])
    }
}

proptest! {
    #[test]
    fn sum_pooling_counts_every_repetition(bag in bags()) {
        equal("sum", &bag.pool(Pooling::Sum, &bag.ids), &bag.expected(|column| column.iter().sum()))?;
    }

    #[test]
    fn mean_pooling_divides_by_the_tokens_that_are_there(bag in bags()) {
        let mean = |column: &[f64]| column.iter().sum::<f64>() / (column.len() as f64).max(1.0);
        equal("mean", &bag.pool(Pooling::Mean, &bag.ids), &bag.expected(mean))?;
    }

    /// Known behaviour of the reference: an item without tokens stands near −1e9.
    #[test]
    fn max_pooling_takes_the_largest_of_each_column(bag in bags()) {
        let largest = |column: &[f64]| column.iter().copied().fold(-1e9, f64::max);
        let (ours, expected) = (bag.pool(Pooling::Max, &bag.ids), bag.expected(largest));
        // −1e9 plus the padding row's own value.
        let near = expected.eq(-1e9).to_kind(Kind::Double) * (bag.table.get(0).view([1, 1, -1]));
        equal("max", &ours, &(expected + near))?;
    }

    #[test]
    fn mean_pooling_does_not_notice_that_all_tokens_repeat_alike(bag in bags(), times in 1..5_i64) {
        let repeated = bag.ids.repeat([1, 1, times]);
        equal("mean", &bag.pool(Pooling::Mean, &repeated), &bag.pool(Pooling::Mean, &bag.ids))?;
    }

    #[test]
    fn the_order_of_tokens_is_irrelevant(
        bag in bags(), pooling in prop::sample::select(&ALL[..]), seed in any::<u64>(),
    ) {
        let width = bag.ids.size()[2];
        let order = Random::new(seed).normal(&[width], 0.0, 1.0).argsort(0, false);
        let shuffled = bag.ids.index_select(2, &order);
        equal("pooled", &bag.pool(pooling, &shuffled), &bag.pool(pooling, &bag.ids))?;
    }
}
