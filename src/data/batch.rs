//! Batches of rows as tensors.

use std::ops::Range;

use tch::{Device, Tensor};

use super::rows::Rows;
use crate::libtorch::on_device;
use crate::{Error, Result, splitmix};

/// Rows in the order in which batches are taken.
#[derive(Debug)]
pub struct OrderedRows {
    rows: Rows,
    /// `[n]`.
    order: Vec<u32>,
    /// Where batches go.
    device: Device,
}

/// B rows; `i64` tensors.
#[derive(Debug)]
pub struct Batch {
    /// `[B]`, on the CPU, where the samplers are.
    pub user: Tensor,
    /// `[B, L]`, right-padded with 0.
    pub item_seq: Tensor,
    /// `[B]`, 1 to L.
    pub item_seq_len: Tensor,
    /// `[B]`: the targets.
    pub pos_items: Tensor,
    /// `[B]`: items that the users did not choose; for BPR only.
    pub neg_items: Option<Tensor>,
}

impl OrderedRows {
    /// The rows in their own order, for batches on `device`.
    pub fn new(rows: &Rows, device: Device) -> Self {
        Self { rows: rows.clone(), order: (0..rows.n() as u32).collect(), device }
    }

    /// The number of rows.
    pub fn n(&self) -> i64 {
        self.order.len() as i64
    }

    /// L, the positions of a row.
    pub fn l(&self) -> i64 {
        self.rows.l() as i64
    }

    /// The row that stands at each place, `[n]`.
    pub fn order(&self) -> Tensor {
        Tensor::from_slice(&self.order.iter().map(|&row| row.into()).collect::<Vec<i64>>())
    }

    /// Reorders the rows: row i becomes the row that was at `permutation[i]`. As in the reference, the order stays, so
    /// that the permutations of several epochs compound.
    ///
    /// # Shapes
    /// `permutation`: `[n]`, a permutation of 0..n, on the CPU.
    pub fn permute(&mut self, permutation: &Tensor) {
        let mut places = vec![0_i64; self.order.len()];
        permutation.copy_data(&mut places, self.order.len());
        self.order = places.iter().map(|&place| self.order[place as usize]).collect();
    }

    /// All rows as one batch.
    pub fn all(&self) -> Batch {
        self.of(&self.order)
    }

    /// How many batches of `size` rows, 1 or more, there are; the last is what is left.
    pub fn n_batches(&self, size: usize) -> usize {
        self.order.len().div_ceil(size)
    }

    /// The batch with this index, from 0, of those of `size` rows; made when it is asked for.
    pub fn batch(&self, index: usize, size: usize) -> Batch {
        let start = index * size;
        self.of(&self.order[start..self.order.len().min(start + size)])
    }

    /// All rows in order, `size` at a time.
    pub fn batches(&self, size: usize) -> impl ExactSizeIterator<Item = Batch> {
        (0..self.n_batches(size)).map(move |index| self.batch(index, size))
    }

    fn of(&self, rows: &[u32]) -> Batch {
        let column = |value: &dyn Fn(usize) -> i64| {
            Tensor::from_slice(&rows.iter().map(|&row| value(row as usize)).collect::<Vec<i64>>())
        };
        let histories: Vec<i64> = rows.iter().flat_map(|&row| self.rows.padded(row as usize)).collect();
        let shape = [rows.len() as i64, self.rows.l() as i64];
        Batch {
            user: column(&|row| self.rows.user(row)),
            item_seq: on_device(Tensor::from_slice(&histories).view(shape), self.device),
            item_seq_len: on_device(column(&|row| self.rows.history(row).len() as i64), self.device),
            pos_items: on_device(column(&|row| self.rows.target(row)), self.device),
            neg_items: None,
        }
    }
}

impl Batch {
    /// The columns that a model computes with: all but `user`, which only ranks and samplers ask for.
    pub fn columns(&self) -> Vec<&Tensor> {
        [&self.item_seq, &self.item_seq_len, &self.pos_items].into_iter().chain(&self.neg_items).collect()
    }

    /// A batch of what [`Batch::columns`] gave, without users.
    ///
    /// # Panics
    /// Fewer than three columns.
    pub fn of_columns(columns: &[Tensor]) -> Self {
        let column = |i: usize| columns[i].shallow_clone();
        Self {
            user: Tensor::new(),
            item_seq: column(0),
            item_seq_len: column(1),
            pos_items: column(2),
            neg_items: columns.get(3).map(Tensor::shallow_clone),
        }
    }

    /// The batch on `device`, users apart.
    pub fn to_device(&self, device: Device) -> Self {
        self.map(|column| column.to_device(device))
    }

    /// The batch with other columns, users apart.
    fn map(&self, f: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            user: self.user.shallow_clone(),
            item_seq: f(&self.item_seq),
            item_seq_len: f(&self.item_seq_len),
            pos_items: f(&self.pos_items),
            neg_items: self.neg_items.as_ref().map(f),
        }
    }

    /// Some of its rows.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let part = |column: &Tensor| column.narrow(0, rows.start as i64, rows.len() as i64);
        Self { user: part(&self.user), ..self.map(part) }
    }

    /// The batch with a negative item for each positive one.
    ///
    /// # Errors
    /// As [`NegativeSampler::sample`].
    pub fn with_negatives(self, sampler: &mut NegativeSampler) -> Result<Self> {
        let users = Vec::<i64>::try_from(&self.user)?;
        let negatives = Tensor::from_slice(&sampler.sample(&users)?);
        Ok(Self { neg_items: Some(on_device(negatives, self.pos_items.device())), ..self })
    }
}

/// Draws, for a user, one of the items that are not in the user's training rows, all with the same probability.
///
/// The items of validation and test can be drawn: leaving them out would tell the model which they are.
///
/// DIFFERENCE: the reference draws from NumPy's generator, and under `repeatable: True` avoids the positive item only.
/// Here it is SplitMix64, whose whole state is one number, and what the user is known to like is never a negative.
#[derive(Debug)]
pub struct NegativeSampler {
    /// By user id: the distinct items of the training rows, ascending.
    chosen: Vec<Vec<i64>>,
    n_items: i64,
    state: u64,
}

impl NegativeSampler {
    /// A sampler for the users of `train` among the items 1 to `n_items` − 1, started at `seed`.
    pub fn new(train: &Rows, n_items: usize, seed: u64) -> Self {
        let n_users = (0..train.n()).map(|row| train.user(row) as usize + 1).max().unwrap_or(0);
        let mut chosen: Vec<Vec<i64>> = vec![Vec::new(); n_users];
        for row in 0..train.n() {
            let history = train.history(row).iter().map(|&item| item.into());
            chosen[train.user(row) as usize].extend(history.chain([train.target(row)]));
        }
        for items in &mut chosen {
            items.sort_unstable();
            items.dedup();
        }
        Self { chosen, n_items: n_items as i64, state: seed }
    }

    /// One item for each of `users`. Users without training rows have chosen nothing.
    ///
    /// # Errors
    /// A user has chosen every item.
    pub fn sample(&mut self, users: &[i64]) -> Result<Vec<i64>> {
        users.iter().map(|&user| self.sample_one(user)).collect()
    }

    fn sample_one(&mut self, user: i64) -> Result<i64> {
        let n = self.n_items - 1 - self.chosen.get(user as usize).map_or(0, Vec::len) as i64;
        if n <= 0 {
            return Err(Error::new(format!(
                "expected an item that user {user} has not chosen, found all {} items in the user's training rows",
                self.n_items - 1
            ))
            .hint("use `loss_type: CE`, which needs no negative items, or remove the user"));
        }
        // The high half of a 64 by 64 bit product: uniform below n but for a bias of n / 2^64.
        let nth = ((u128::from(splitmix::next(&mut self.state)) * n as u128) >> 64) as i64;
        // chosen[i] - i counts, from 1, the free items up to chosen[i]: as many chosen items precede the nth free one
        // (from 0) as have that count at most nth + 1.
        let chosen = self.chosen.get(user as usize).map_or(&[] as &[i64], Vec::as_slice);
        let (mut before, mut end) = (0, chosen.len());
        while before < end {
            let middle = (before + end) / 2;
            if chosen[middle] - middle as i64 <= nth + 1 { before = middle + 1 } else { end = middle }
        }
        Ok(nth + 1 + before as i64)
    }

    /// The generator's state: a sampler to which it is given goes on where this one is.
    pub fn state(&self) -> u64 {
        self.state
    }

    /// Goes on where the sampler with this state was.
    pub fn set_state(&mut self, state: u64) {
        self.state = state;
    }

    /// A user for whom there is no item to draw.
    pub fn without_negatives(&self) -> Option<i64> {
        let all = self.n_items as usize - 1;
        self.chosen.iter().position(|items| items.len() >= all).map(|user| user as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One user with three training rows over items 2, 4 and 5; L = 2.
    fn rows() -> Rows {
        Rows::new(2, [(1, vec![2], 4), (1, vec![2, 4], 5), (1, vec![4, 5], 2)])
    }

    #[test]
    fn batches_cover_all_rows_in_order_and_the_last_is_shorter() {
        let tensors = OrderedRows::new(&rows(), Device::Cpu);
        let batches: Vec<_> = tensors.batches(2).collect();
        assert_eq!(batches.iter().map(|batch| batch.item_seq.size()).collect::<Vec<_>>(), [[2, 2], [1, 2]]);
        assert_eq!(Vec::<i64>::try_from(&batches[0].pos_items).unwrap(), [4, 5]);
        assert_eq!(Vec::<i64>::try_from(&batches[1].pos_items).unwrap(), [2]);
    }

    #[test]
    fn permutations_compound() {
        let mut tensors = OrderedRows::new(&rows(), Device::Cpu);
        let permutation = Tensor::from_slice(&[1i64, 2, 0]);
        tensors.permute(&permutation);
        assert_eq!(Vec::<i64>::try_from(&tensors.all().pos_items).unwrap(), [5, 2, 4]);
        tensors.permute(&permutation);
        assert_eq!(Vec::<i64>::try_from(&tensors.all().pos_items).unwrap(), [2, 4, 5]);
        assert_eq!(Vec::<i64>::try_from(&tensors.all().item_seq_len).unwrap(), [2, 1, 2]);
        assert_eq!(Vec::<i64>::try_from(tensors.all().item_seq.view([-1])).unwrap(), [4, 5, 2, 0, 2, 4]);
    }

    #[test]
    fn negatives_are_uniform_among_the_items_that_the_user_has_not_chosen() {
        let mut sampler = NegativeSampler::new(&rows(), 8, 212);
        let mut counts = [0; 8];
        for item in sampler.sample(&vec![1; 40_000]).unwrap() {
            counts[item as usize] += 1;
        }
        assert_eq!([0, 2, 4, 5].map(|item| counts[item]), [0; 4]);
        // Four standard deviations of a binomial with n = 40,000 and p = 1/4 are 346.
        assert!([1, 3, 6, 7].iter().all(|&item| (counts[item] - 10_000i32).abs() < 346), "seed 212: {counts:?}");
    }

    #[test]
    fn a_sampler_given_the_state_of_another_goes_on_where_that_one_is() {
        let mut sampler = NegativeSampler::new(&rows(), 100, 3);
        sampler.sample(&[1; 5]).unwrap();
        let mut resumed = NegativeSampler::new(&rows(), 100, 3);
        resumed.set_state(sampler.state());
        assert_eq!(sampler.sample(&[1; 50]).unwrap(), resumed.sample(&[1; 50]).unwrap());
    }

    #[test]
    fn a_user_who_has_chosen_every_item_is_an_error() {
        let rows = Rows::new(1, [(1, [1], 2)]);
        assert_eq!(NegativeSampler::new(&rows, 4, 0).without_negatives(), None);
        assert_eq!(NegativeSampler::new(&rows, 3, 0).without_negatives(), Some(1));
        let error = NegativeSampler::new(&rows, 3, 0).sample(&[1]).unwrap_err();
        assert!(error.to_string().contains("user 1 has not chosen, found all 2 items"), "{error}");
    }

    #[test]
    fn a_batch_with_negatives_has_one_for_each_positive() {
        let tensors = OrderedRows::new(&rows(), Device::Cpu);
        let mut sampler = NegativeSampler::new(&rows(), 8, 0);
        let batch = tensors.batches(3).next().unwrap().with_negatives(&mut sampler).unwrap();
        assert_eq!(batch.neg_items.unwrap().size(), [3]);
    }
}
