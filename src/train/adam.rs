//! Adam (Kingma & Ba, 2015): tch's own optimizer does not show its state, which resuming needs.

use std::path::Path;

use tch::{Kind, Tensor};

use crate::fast::{AdamFactors, FastPath};
use crate::libtorch::{AdamStep, adam, forget_gradients};
use crate::tensors::TensorFile;
use crate::{Error, Result};

/// β₁, β₂ and ε of PyTorch's `torch.optim.Adam`, which RecBole leaves as they are.
const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// The optimizer with its state, one entry per parameter.
#[derive(Debug)]
pub struct Adam {
    learning_rate: f64,
    weight_decay: f64,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    /// Steps taken; a parameter without a gradient takes none.
    step: i64,
    /// First moment.
    exp_avg: Tensor,
    /// Second moment.
    exp_avg_sq: Tensor,
}

impl Adam {
    /// An optimizer at its start. `weight_decay` adds to the gradient (L2), as in `torch.optim.Adam`.
    pub fn new(parameters: Vec<(String, Tensor)>, learning_rate: f64, weight_decay: f64) -> Self {
        let slots = parameters.into_iter().map(|(name, parameter)| {
            let (exp_avg, exp_avg_sq) = (parameter.zeros_like().detach(), parameter.zeros_like().detach());
            Slot { name, parameter, step: 0, exp_avg, exp_avg_sq }
        });
        Self { learning_rate, weight_decay, slots: slots.collect() }
    }

    /// Forgets the gradients of the last step.
    pub fn zero_grad(&mut self) {
        forget_gradients(self.slots.iter().map(|slot| &slot.parameter));
    }

    /// One step on the gradients that the last backward pass left. Every rounding of float32 is PyTorch's.
    pub fn step(&mut self) {
        let kind = self.slots.first().map_or(Kind::Double, |slot| slot.parameter.kind());
        let moving = self.slots.iter_mut().filter(|slot| slot.parameter.grad().defined());
        let steps = moving.map(|slot| {
            slot.step += 1;
            let (bias_correction1, bias_correction2) = slot.bias_corrections();
            let moved = [&slot.parameter, &slot.exp_avg, &slot.exp_avg_sq];
            let step_size = held_by(kind, self.learning_rate / bias_correction1);
            AdamStep::new(moved, step_size, bias_correction2.sqrt())
        });
        let steps: Vec<AdamStep> = steps.collect();
        adam(&steps, [BETA1, BETA2], EPS, held_by(kind, self.weight_decay));
    }

    /// One step on the gradients of the fast path, in one pass over memory.
    ///
    /// # Panics
    /// With a fast path of another model.
    pub fn step_fast(&mut self, fast: &FastPath) {
        let (learning_rate, weight_decay) = (self.learning_rate, self.weight_decay);
        let updates = self.slots.iter_mut().filter(|slot| fast.trains(&slot.name)).map(|slot| {
            slot.step += 1;
            let (bias_correction1, bias_correction2) = slot.bias_corrections();
            let factors = AdamFactors {
                one_minus_beta1: (1.0 - BETA1) as f32,
                beta2: BETA2 as f32,
                one_minus_beta2: (1.0 - BETA2) as f32,
                step_size: (learning_rate / bias_correction1) as f32,
                sqrt_bias_correction2: bias_correction2.sqrt() as f32,
                eps: EPS as f32,
                weight_decay: weight_decay as f32,
            };
            (factors, &slot.name, [&mut slot.parameter, &mut slot.exp_avg, &mut slot.exp_avg_sq])
        });
        fast.adam(updates);
    }

    /// Steps taken: as many as the parameter with the most has taken.
    pub fn steps(&self) -> u64 {
        self.slots.iter().map(|slot| slot.step).max().unwrap_or_default() as u64
    }

    /// The parameters with their names, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.parameter))
    }

    /// The state besides the parameters: `adam.step`, `[parameters]`, and the moments of each parameter by its name.
    pub fn named_state(&self) -> Vec<(String, Tensor)> {
        let steps: Vec<i64> = self.slots.iter().map(|slot| slot.step).collect();
        let moments = self.slots.iter().flat_map(|slot| slot.moments().map(|(name, t)| (name, t.shallow_clone())));
        std::iter::once(("adam.step".to_owned(), Tensor::from_slice(&steps))).chain(moments).collect()
    }

    /// Takes the state that [`Adam::named_state`] named out of `file`, but for tensors that come from `elsewhere`.
    ///
    /// # Errors
    /// A tensor that is missing or of another kind or shape; nothing has then changed.
    pub fn load(&mut self, path: &Path, file: &mut TensorFile, elsewhere: impl Fn(&str) -> bool) -> Result<()> {
        let mut take = |name: &str, like: &Tensor| -> Result<Tensor> {
            let tensor = file.take(path, name)?;
            if (tensor.kind(), tensor.size()) != (like.kind(), like.size()) {
                let (expected, found) = ((like.kind(), like.size()), (tensor.kind(), tensor.size()));
                return Err(Error::new(format!("expected {expected:?}, found {found:?}"))
                    .at(path)
                    .tensor(name)
                    .hint("the file belongs to another model"));
            }
            Ok(tensor)
        };
        let steps = take("adam.step", &Tensor::zeros([self.slots.len() as i64], (Kind::Int64, tch::Device::Cpu)))?;
        let steps = Vec::<i64>::try_from(steps)?;
        if let Some(step) = steps.iter().find(|step| u32::try_from(**step).is_err()) {
            return Err(Error::new(format!("expected numbers of steps, found {step}"))
                .at(path)
                .tensor("adam.step")
                .hint("put the file back, or begin another run"));
        }
        let moments = self.slots.iter().flat_map(Slot::moments).filter(|(name, _)| !elsewhere(name));
        let moments = moments.map(|(name, own)| Ok((own.shallow_clone(), take(&name, own)?)));
        let moments = moments.collect::<Result<Vec<(Tensor, Tensor)>>>()?;
        moments.into_iter().for_each(|(mut own, saved)| own.copy_(&saved));
        self.slots.iter_mut().zip(steps).for_each(|(slot, step)| slot.step = step);
        Ok(())
    }
}

/// A factor as numbers of this kind hold it: libtorch refuses one that is too large, and takes an infinite one, whose
/// parameters the training then names.
fn held_by(kind: Kind, factor: f64) -> f64 {
    if kind == Kind::Float { f64::from(factor as f32) } else { factor }
}

impl Slot {
    fn moments(&self) -> [(String, &Tensor); 2] {
        let name = |moment: &str| format!("adam.{moment}.{}", self.name);
        [(name("exp_avg"), &self.exp_avg), (name("exp_avg_sq"), &self.exp_avg_sq)]
    }

    /// What the moments lack because they started at zero.
    fn bias_corrections(&self) -> (f64, f64) {
        (1.0 - BETA1.powf(self.step as f64), 1.0 - BETA2.powf(self.step as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from `torch.optim.Adam([p], lr=0.01, weight_decay=0.1)` of PyTorch 2.11, which gives the same with `foreach` and
    /// without. Were the decay added in two roundings, the second of the second moments would end in 935.
    #[test]
    #[allow(clippy::excessive_precision, reason = "nine digits name a float32 for certain")]
    fn three_steps_with_weight_decay_are_pytorchs_to_the_bit() {
        let start = [-0.486_780_763_f32, -0.603_821_576, -0.558_096_23, 0.667_524_278, -0.197_415_099, 1.942_783_47];
        let gradients = [
            [-1.401_702_05_f32, -0.762_557_149, 0.631_213_427, -0.899_135_172, -0.557_793_438, 0.690_718_77],
            [0.022_245_859_7, -0.066_622_525_5, 0.068_464_219_6, 0.057_400_163_3, -0.058_288_272_5, 0.076_794_154_9],
            [
                0.000_570_926_582,
                -0.011_893_745_5,
                -0.005_658_848_68,
                -0.008_326_536_98,
                0.009_014_486_34,
                0.002_115_711_34,
            ],
        ];
        let parameter = Tensor::from_slice(&start).set_requires_grad(true);
        let mut adam = Adam::new(vec![("p".to_owned(), parameter.shallow_clone())], 0.01, 0.1);
        for gradient in gradients {
            adam.zero_grad();
            parameter.dot(&Tensor::from_slice(&gradient)).backward();
            adam.step();
        }
        let values = |tensor: &Tensor| Vec::<f32>::try_from(tensor.detach()).unwrap();
        let expected = [-0.464_469_194_f32, -0.579_562_426, -0.579_512_06, 0.686_844_349, -0.173_796_535, 1.916_395_07];
        assert_eq!(values(&parameter), expected);
        let expected = [
            0.002_102_198_78_f32,
            0.000_696_707_051,
            0.000_334_551_791,
            0.000_710_720_895,
            0.000_338_887_941,
            0.000_892_364_827,
        ];
        assert_eq!(values(&adam.slots[0].exp_avg_sq), expected);
    }
}
