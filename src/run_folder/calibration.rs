//! How fast the machine is while a run lasts: the unit in which the times of different machines and days compare.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::device::wait_for;

/// Rows and columns of the product: about 40 ms on two threads. Other work on the host stops threads now and then, and the
/// others wait, which a product of 512, done within 2 ms, feels more than an epoch does: on a shared host the epochs of three
/// runs took 7,780 to 9,728 of its calibrations, and those of four runs 531 to 545 of these.
const SIDE: i64 = 1536;
/// Numbers copied, 32 MB: more than the caches of most processors hold.
const NUMBERS: i64 = 1 << 23;
/// How often they are copied.
const COPIES: usize = 9;

/// Seconds of a fixed matrix product and of fixed memory copies: a line of `calibration.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Of float32 `[1536, 1536]` by `[1536, 1536]`.
    pub product_seconds: Vec<f64>,
    /// Of 2²³ float32 numbers, for each time.
    pub copy_seconds: Vec<f64>,
}

impl Calibration {
    pub(super) const FILE: &str = "calibration.jsonl";

    /// Measures on `device`, with libtorch's threads as they are. Draws no random number.
    pub fn measure(device: Device) -> Self {
        let a = Tensor::full([SIDE, SIDE], 0.5, (Kind::Float, device));
        let from = Tensor::full([NUMBERS], 0.5, (Kind::Float, device));
        let mut to = from.zeros_like();
        if device.is_cuda() {
            // The first product of a process prepares cuBLAS.
            drop(a.matmul(&a));
        }
        Self {
            product_seconds: vec![seconds(device, || drop(a.matmul(&a)))],
            copy_seconds: (0..COPIES).map(|_| seconds(device, || to.copy_(&from))).collect(),
        }
    }

    /// The seconds of all of it, the unit of times; `None` of former versions', which took nine products of 512.
    pub fn seconds(&self) -> Option<f64> {
        (self.product_seconds.len() == 1).then(|| self.product_seconds.iter().chain(&self.copy_seconds).sum())
    }
}

fn seconds(device: Device, work: impl FnOnce()) -> f64 {
    wait_for(device);
    let start = Instant::now();
    work();
    wait_for(device);
    start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_takes_time() {
        let calibration = Calibration::measure(Device::Cpu);
        assert!(calibration.product_seconds.iter().chain(&calibration.copy_seconds).all(|&s| s > 0.0));
        assert!(calibration.seconds() > Some(calibration.product_seconds[0]));
        let former = Calibration { product_seconds: vec![0.001; 9], ..calibration };
        assert_eq!(former.seconds(), None);
    }
}
