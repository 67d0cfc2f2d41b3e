//! Adam (Kingma & Ba, 2015): tch's own optimizer does not show its state, which resuming needs.
//!
//! On the CPU every rounding is that of `torch.optim.Adam` as RecBole makes it. On a GPU it is the same function as one
//! kernel, PyTorch's `fused`, which counts the steps on the device: a step that takes nothing from the host can be recorded
//! in a CUDA graph ([`crate::cuda`]), and is then the same to the bit.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use crate::fast::{AdamFactors, FastPath};
use crate::libtorch::{AdamStep, FusedAdamStep, adam, forget_gradients, fused_adam};
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
    steps: Steps,
}

/// Steps that each parameter has taken; one without a gradient takes none.
#[derive(Debug)]
enum Steps {
    Host(Vec<i64>),
    /// float32 `[parameters]`: exact to 2²⁴ steps, as in PyTorch.
    Device(Tensor),
}

#[derive(Debug)]
struct Slot {
    name: String,
    parameter: Tensor,
    /// First moment.
    exp_avg: Tensor,
    /// Second moment.
    exp_avg_sq: Tensor,
}

impl Adam {
    /// An optimizer at its start. `weight_decay` adds to the gradient (L2), as in `torch.optim.Adam`.
    pub fn new(parameters: Vec<(String, Tensor)>, learning_rate: f64, weight_decay: f64) -> Self {
        let steps = match parameters.first().map(|(_, parameter)| parameter.device()) {
            Some(device @ Device::Cuda(_)) => Steps::on(device, parameters.len()),
            _ => Steps::Host(vec![0; parameters.len()]),
        };
        let slots = parameters.into_iter().map(|(name, parameter)| {
            let (exp_avg, exp_avg_sq) = (parameter.zeros_like().detach(), parameter.zeros_like().detach());
            Slot { name, parameter, exp_avg, exp_avg_sq }
        });
        Self { learning_rate, weight_decay, slots: slots.collect(), steps }
    }

    /// Forgets the gradients of the last step.
    pub fn zero_grad(&mut self) {
        forget_gradients(self.slots.iter().map(|slot| &slot.parameter));
    }

    /// One step on the gradients that the last backward pass left.
    pub fn step(&mut self) {
        let kind = self.slots.first().map_or(Kind::Double, |slot| slot.parameter.kind());
        let has_gradient = |slot: &Slot| slot.parameter.grad().defined();
        match &mut self.steps {
            Steps::Host(counts) => {
                let moving = self.slots.iter().zip(counts).filter(|(slot, _)| has_gradient(slot));
                let steps = moving.map(|(slot, count)| {
                    let (bias_correction1, bias_correction2) = bias_corrections(count);
                    let moved = [&slot.parameter, &slot.exp_avg, &slot.exp_avg_sq];
                    let step_size = rounded_to(kind, self.learning_rate / bias_correction1);
                    AdamStep::new(moved, step_size, bias_correction2.sqrt())
                });
                let steps: Vec<AdamStep> = steps.collect();
                adam(&steps, [BETA1, BETA2], EPS, rounded_to(kind, self.weight_decay));
            }
            Steps::Device(counts) => {
                let counts = counts.unbind(0);
                let moving = self.slots.iter().zip(&counts).filter(|(slot, _)| has_gradient(slot));
                let steps = moving
                    .map(|(slot, count)| FusedAdamStep::new([&slot.parameter, &slot.exp_avg, &slot.exp_avg_sq, count]));
                let steps: Vec<FusedAdamStep> = steps.collect();
                fused_adam(&steps, self.learning_rate, [BETA1, BETA2], EPS, self.weight_decay);
            }
        }
    }

    /// One step on the gradients of the fast path, in one pass over memory.
    ///
    /// # Panics
    /// With a fast path of another model, or parameters on a GPU.
    pub fn step_fast(&mut self, fast: &FastPath) {
        let (learning_rate, weight_decay) = (self.learning_rate, self.weight_decay);
        let Steps::Host(counts) = &mut self.steps else { panic!("the fast path's parameters are on the CPU") };
        let training = self.slots.iter_mut().zip(counts).filter(|(slot, _)| fast.trains(&slot.name));
        let updates = training.map(|(slot, count)| {
            let (bias_correction1, bias_correction2) = bias_corrections(count);
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

    /// Steps taken: as many as the parameter with the most has taken. On a GPU this waits for it.
    pub fn steps(&self) -> u64 {
        self.steps.counts().into_iter().max().unwrap_or_default() as u64
    }

    /// All that a step changes: parameters, moments, and on a GPU the numbers of steps.
    pub fn tensors(&self) -> Vec<Tensor> {
        let slots = self.slots.iter().flat_map(|slot| [&slot.parameter, &slot.exp_avg, &slot.exp_avg_sq]);
        let counts = match &self.steps {
            Steps::Host(_) => None,
            Steps::Device(counts) => Some(counts),
        };
        slots.chain(counts).map(Tensor::shallow_clone).collect()
    }

    /// The parameters with their names, in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.parameter))
    }

    /// The state besides the parameters: `adam.step`, `[parameters]`, and the moments of each parameter by its name.
    pub fn named_state(&self) -> Vec<(String, Tensor)> {
        let steps = self.steps.counts();
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
        self.steps.set(steps);
        Ok(())
    }
}

/// A factor rounded to the parameters' kind. Libtorch refuses a finite one beyond float32 and takes infinity, so that the
/// training ends with its message of divergence, which names the parameters.
fn rounded_to(kind: Kind, factor: f64) -> f64 {
    if kind == Kind::Float { f64::from(factor as f32) } else { factor }
}

impl Slot {
    fn moments(&self) -> [(String, &Tensor); 2] {
        let name = |moment: &str| format!("adam.{moment}.{}", self.name);
        [(name("exp_avg"), &self.exp_avg), (name("exp_avg_sq"), &self.exp_avg_sq)]
    }
}

/// Counts a step; gives PyTorch's `bias_correction1` = 1 − β₁ᵗ and `bias_correction2` = 1 − β₂ᵗ of step t.
fn bias_corrections(count: &mut i64) -> (f64, f64) {
    *count += 1;
    (1.0 - BETA1.powf(*count as f64), 1.0 - BETA2.powf(*count as f64))
}

impl Steps {
    /// None yet, counted on the device.
    fn on(device: Device, parameters: usize) -> Self {
        Self::Device(Tensor::zeros([parameters as i64], (Kind::Float, device)))
    }

    fn counts(&self) -> Vec<i64> {
        match self {
            Self::Host(counts) => counts.clone(),
            Self::Device(counts) => {
                Vec::try_from(counts.to_device(Device::Cpu).to_kind(Kind::Int64)).expect("one dimension of int64")
            }
        }
    }

    /// In place, for graphs that count there.
    fn set(&mut self, steps: Vec<i64>) {
        match self {
            Self::Host(counts) => *counts = steps,
            Self::Device(counts) => counts.copy_(&Tensor::from_slice(&steps)),
        }
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

    /// What a GPU runs, on the CPU: the same function, within a few roundings of a float32, and the same counts of steps. A
    /// parameter that had no gradient once is a step behind.
    #[test]
    fn steps_that_are_counted_on_the_device_are_those_that_the_host_counts() {
        let trained = |on_device: bool| {
            let parameters = [[0.5_f32, -0.25, 2.0], [1.0, -3.0, 0.125]].map(|p| Tensor::from_slice(&p));
            let named = parameters.iter().map(|p| ("p".to_owned(), p.set_requires_grad(true))).collect();
            let mut adam = Adam::new(named, 0.01, 0.1);
            if on_device {
                adam.steps = Steps::on(Device::Cpu, 2);
            }
            for step in 0..4 {
                adam.zero_grad();
                let of = if step == 1 { &parameters[..1] } else { &parameters };
                let loss: Tensor = of.iter().map(|p| (p * p * f64::from(step + 1)).sum(Kind::Float)).sum();
                loss.backward();
                adam.step();
            }
            assert_eq!(adam.steps(), 4);
            let state = adam.named_state().into_iter().map(|(_, tensor)| tensor);
            let all = parameters.iter().map(Tensor::detach).chain(state);
            all.map(|t| Vec::<f64>::try_from(t.to_kind(Kind::Double)).unwrap()).collect::<Vec<_>>()
        };
        let [host, device] = [trained(false), trained(true)];
        assert_eq!(device[2], [4.0, 3.0], "the counts of steps");
        for (host, device) in host.iter().flatten().zip(device.iter().flatten()) {
            assert!((host - device).abs() <= 1e-6 * host.abs(), "{host} {device}");
        }
    }
}
