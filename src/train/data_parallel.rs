//! The reference path over ranks: each takes a part of a batch's rows through the whole model, and their gradients are
//! summed.
//!
//! ```text
//! loss = Σᵣ Bᵣ/B · lossᵣ        lossᵣ of the Bᵣ rows of rank r, B = Σᵣ Bᵣ
//! ```
//!
//! Every loss is a mean over rows (an attribute's over rows and vocabulary), so that one weight serves all of them. Sums
//! are taken in the order of a [`Tree`]. Gradients travel through the host, also those of a GPU.
//!
//! DIFFERENCE: a rank draws the masks of its own rows, from a generator that the run's seed, the rank and the step start.
//! So nothing of it is saved, and a run that goes on with as many ranks draws what it would have drawn.

use tch::{Device, Kind, Tensor, no_grad};

use super::Adam;
use crate::data::Batch;
use crate::libtorch::{generator_state, generators, on_device, set_generator_state};
use crate::model::Losses;
use crate::ranks::{Ranks, Team, Tree};
use crate::{Result, splitmix};

/// How the ranks of a run share out a step.
#[derive(Debug)]
pub(super) struct DataParallel {
    /// One member a rank.
    team: Team,
    tree: Tree,
    seed: u64,
    device: Device,
    /// Steps taken, once the optimizer has said how many: a GPU counts them, and the host waits for its answer.
    steps: Option<u64>,
}

impl DataParallel {
    /// Of the ranks of a run with this seed.
    pub fn new(ranks: &Ranks, seed: u64, device: Device) -> Self {
        let team = Team::new(ranks.clone(), 1);
        Self { tree: Tree::new(team.ranges(team.all(), 1)), team, seed, device, steps: None }
    }

    /// The losses of a batch, which all ranks have, as `compute` finds those of some of its rows; leaves the gradients of
    /// the whole batch. `adam` has taken as many steps at every rank, and takes one after each call.
    ///
    /// # Errors
    /// A lost rank.
    pub fn losses(&mut self, batch: &Batch, adam: &Adam, compute: impl FnOnce(&Batch) -> Losses) -> Result<Losses> {
        let n = batch.pos_items.size()[0] as usize;
        let own = self.team.even(n)[self.team.rank()].clone();
        // A rank without rows computes the first with no weight: its gradients are zeros, of the same parameters.
        let weight = own.len() as f64 / n as f64;
        let rows = if own.is_empty() { 0..1 } else { own };
        let step = *self.steps.get_or_insert_with(|| adam.steps());
        self.steps = Some(step + 1);
        let losses = self.with_own_masks(step, || {
            let losses = compute(&batch.rows(rows));
            (&losses.total * weight).backward();
            losses.detach()
        })?;
        let gradients: Vec<Tensor> =
            adam.parameters().map(|(_, parameter)| parameter.grad()).filter(Tensor::defined).collect();
        // The losses are read behind the gradients, which are then on the host too.
        let own = on_host(&gradients);
        let losses = losses.values();
        self.sum_gradients(gradients, &Vec::try_from(own)?)?;
        let values = [&[losses.total, losses.item], &losses.attributes[..]].concat();
        let own: Vec<f64> = values.into_iter().map(|loss| loss * weight).collect();
        let all = self.team.gather(own.clone(), &self.team.ranges(own.len() * self.team.ranks(), own.len()))?;
        let sum = |loss: usize| all.iter().skip(loss).step_by(own.len()).sum::<f64>();
        Ok(Losses { total: sum(0), item: sum(1), attributes: (2..own.len()).map(sum).collect() }.tensors())
    }

    /// Computes with the generator of this rank and step, and leaves libtorch's generators as they were: the shuffles'.
    fn with_own_masks<T>(&self, step: u64, compute: impl FnOnce() -> T) -> Result<T> {
        let read = |(_, device)| Ok((device, generator_state(device)?));
        let states = generators(self.device).map(read).collect::<Result<Vec<(Device, Tensor)>>>()?;
        let mixed = |seed: u64, number: u64| splitmix::mix(seed.wrapping_add(splitmix::GAMMA).wrapping_add(number));
        tch::manual_seed(mixed(mixed(mixed(self.seed, 0), self.team.rank() as u64), step) as i64);
        let computed = compute();
        states.iter().try_for_each(|(device, state)| set_generator_state(*device, state))?;
        Ok(computed)
    }

    /// Makes every gradient the sum of all ranks', of which `own` are this one's.
    fn sum_gradients(&self, mut gradients: Vec<Tensor>, own: &[f32]) -> Result<()> {
        let sum = on_device(Tensor::from_slice(&self.team.sum(&self.tree, &[own])?), self.device);
        let sizes: Vec<i64> = gradients.iter().map(|gradient| gradient.numel() as i64).collect();
        no_grad(|| {
            let sums = sum.split_with_sizes(&sizes, 0);
            gradients.iter_mut().zip(sums).for_each(|(gradient, sum)| gradient.copy_(&sum.view_as(gradient)));
        });
        Ok(())
    }
}

/// All gradients one after the other. A GPU may still be copying them, as long as nobody has waited for it.
fn on_host(gradients: &[Tensor]) -> Tensor {
    let flat: Vec<Tensor> = gradients.iter().map(|gradient| gradient.flatten(0, -1)).collect();
    let without_waiting = true;
    Tensor::cat(&flat, 0).to_device_(Device::Cpu, Kind::Float, without_waiting, false)
}
