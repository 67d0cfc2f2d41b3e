//! How fast the machine is while a run lasts: the unit in which the times of different machines and days compare.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::device::wait_for;

/// Rows and columns of the product: large enough to be bound by arithmetic, done in milliseconds.
const SIDE: i64 = 512;
/// Numbers copied, 32 MB: more than the caches of most processors hold.
const NUMBERS: i64 = 1 << 23;
/// Measurements of each, so that a disturbed one does not count.
const REPEATS: usize = 9;

/// Seconds of a fixed matrix product and of a fixed memory copy, measured several times: a line of `calibration.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Of float32 `[512, 512]` by `[512, 512]`.
    pub product_seconds: Vec<f64>,
    /// Of 2²³ float32 numbers.
    pub copy_seconds: Vec<f64>,
}

impl Calibration {
    pub(super) const FILE: &str = "calibration.jsonl";

    /// Measures on `device`, with libtorch's threads as they are. Draws no random number.
    pub fn measure(device: Device) -> Self {
        let a = Tensor::full([SIDE, SIDE], 0.5, (Kind::Float, device));
        let from = Tensor::full([NUMBERS], 0.5, (Kind::Float, device));
        let mut to = from.zeros_like();
        Self {
            product_seconds: seconds(device, || drop(a.matmul(&a))),
            copy_seconds: seconds(device, || to.copy_(&from)),
        }
    }
}

/// Seconds of each repetition, after one that warms up.
fn seconds(device: Device, mut work: impl FnMut()) -> Vec<f64> {
    let mut timed = || {
        let start = Instant::now();
        work();
        wait_for(device);
        start.elapsed().as_secs_f64()
    };
    timed();
    (0..REPEATS).map(|_| timed()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_takes_time() {
        let calibration = Calibration::measure(Device::Cpu);
        assert!(calibration.product_seconds.iter().chain(&calibration.copy_seconds).all(|&s| s > 0.0));
    }
}
