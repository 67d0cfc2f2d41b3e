//! The executor: a graph for each shape of a step's inputs, the step's own inputs, and the undoing of what recording needs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::{Cuda, Device, Tensor, no_grad};

use super::shim::{Graph, Stream};
use crate::libtorch::{copy_without_waiting, generator_state, set_generator_state};
use crate::{Error, Result};

/// Steps that are taken and undone before one is recorded: in the first, libtorch and cuBLAS choose kernels and allocate
/// workspaces, which a recording cannot.
const WARM_UPS: usize = 3;

/// Runs steps as graphs, one for each shape of their inputs. Graphs stay until the executor goes: memory that a graph computes
/// in, cuBLAS's workspace too, is not to be given to another meanwhile.
#[derive(Debug)]
pub struct Executor {
    device: usize,
    // Before the stream, which they were recorded on.
    recorded: Vec<Recorded>,
    stream: Stream,
}

#[derive(Debug)]
struct Recorded {
    graph: Graph,
    /// What the graph reads.
    inputs: Vec<Tensor>,
    /// What it writes.
    losses: Tensor,
}

impl Executor {
    /// An executor of steps on this GPU, without a graph yet.
    ///
    /// # Errors
    /// A device that is no GPU; a libtorch that is not the one for CUDA that this program was built with.
    pub fn new(device: Device) -> Result<Self> {
        let Device::Cuda(device) = device else {
            return Err(
                Error::new(format!("expected a GPU for CUDA graphs, found {device:?}")).hint("use `use_gpu: True`")
            );
        };
        Ok(Self { device, recorded: Vec::new(), stream: Stream::new(device)? })
    }

    /// Takes one step: copies `inputs` to where the graph of their shapes reads, replays it, and gives a copy of the losses,
    /// which are on their way when this returns. For the first inputs of their shapes `step` is recorded, by calling it
    /// four times, of which nothing stays; every step that counts is a replay, the first one too.
    ///
    /// `step` computes losses from the inputs that it is given and changes tensors of `state` alone, in place, all of it by
    /// operations on the device:
    ///
    /// - It reads no value on the host (`double_value`, `nonzero`, selection by a mask), and copies nothing from there.
    /// - What changes from step to step is in `inputs` or in `state`. Numbers of the host stay as they were recorded, and so do
    ///   libtorch's flags, autocasting and which parameters have gradients.
    /// - Every other tensor that it reads stays where it is for as long as the executor lives.
    /// - It keeps no tensor from one call to the next. Gradients are made in it: it begins by forgetting those of the last step.
    /// - What it draws, it draws from libtorch's generator of the device, which goes on as in steps without a graph.
    ///
    /// # Shapes
    /// `inputs`: any, on any device; pinned ones and those on the device are copied without waiting. The losses: `[n]`.
    ///
    /// # Errors
    /// The step cannot be recorded: `state` and the generator are then as before, and steps without a graph go on from there.
    /// The graph cannot be run.
    pub fn run(
        &mut self,
        inputs: &[&Tensor],
        state: &[Tensor],
        step: &mut dyn FnMut(&[Tensor]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let place = match self.recorded.iter().position(|recorded| recorded.takes(inputs)) {
            Some(place) => place,
            None => {
                let recorded = self.record(inputs, state, step);
                if recorded.is_err() {
                    // They advance a state of the generator that is no longer its own.
                    Cuda::synchronize(self.device as i64);
                    self.recorded.clear();
                }
                self.recorded.push(recorded?);
                self.recorded.len() - 1
            }
        };
        let Recorded { graph, inputs: own, losses } = &mut self.recorded[place];
        own.iter_mut().zip(inputs).try_for_each(|(own, input)| copy_without_waiting(own, input))?;
        graph.replay()?;
        // The next replay writes the same memory.
        Ok(losses.copy())
    }

    /// The number of operations in each graph, in the order in which they were recorded.
    pub fn operations(&self) -> Vec<usize> {
        self.recorded.iter().map(|recorded| recorded.graph.operations()).collect()
    }

    /// Records a step, and leaves no trace of having taken it.
    fn record(
        &self,
        inputs: &[&Tensor],
        state: &[Tensor],
        step: &mut dyn FnMut(&[Tensor]) -> Result<Tensor>,
    ) -> Result<Recorded> {
        let device = Device::Cuda(self.device);
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.to_device(device).copy()).collect();
        let before: Vec<Tensor> = state.iter().map(|tensor| tensor.detach().copy()).collect();
        let generator = generator_state(device)?;
        // Graphs cannot be recorded on the default stream; what they need is chosen for each stream.
        let entered = self.stream.enter()?;
        let warm = (0..WARM_UPS).try_for_each(|_| caught(|| step(&inputs)).map(drop));
        no_grad(|| state.iter().zip(&before).for_each(|(tensor, before)| tensor.shallow_clone().copy_(before)));
        set_generator_state(device, &generator)?;
        warm?;
        let (graph, losses) = Graph::capture(self.device, || caught(|| step(&inputs)))?;
        drop(entered);
        Ok(Recorded { graph, inputs, losses: losses.detach() })
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        Cuda::synchronize(self.device as i64);
    }
}

impl Recorded {
    fn takes(&self, inputs: &[&Tensor]) -> bool {
        let is_alike = |(own, input): (&Tensor, &&Tensor)| (own.kind(), own.size()) == (input.kind(), input.size());
        self.inputs.len() == inputs.len() && self.inputs.iter().zip(inputs).all(is_alike)
    }
}

/// Computes; libtorch's errors, with which tch panics, are errors.
fn caught(compute: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|panic| Err(Error::of_panic(panic.as_ref())))
}
