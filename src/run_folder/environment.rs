//! Where a run took place: what a reader needs to repeat it or to explain a difference.

use std::fs;

use serde::Serialize;
use tch::Device;

use crate::Result;
use crate::config::RunConfig;
use crate::device::device;
use crate::libtorch::libtorch_version;

/// `environment.json`.
#[derive(Debug, Serialize)]
pub struct Environment {
    dif_sr: &'static str,
    /// The commit of this build; `-dirty` with changes beside it.
    commit: &'static str,
    tch: &'static str,
    libtorch: String,
    /// The version of CUDA where a GPU computes.
    cuda: Option<String>,
    /// What computes: `cpu`, or `cuda:` and the number of the device.
    device: String,
    cpu: String,
    /// The widest vectors that libtorch uses here; its rounding depends on them.
    vectors: &'static str,
    gpus: Vec<String>,
    threads: i32,
    seed: i64,
    started: String,
}

impl Environment {
    /// The environment of a run that begins, or goes on, now.
    ///
    /// # Errors
    /// As [`device`].
    pub fn here(config: &RunConfig) -> Result<Self> {
        let device = device(&config.run)?;
        Ok(Self {
            dif_sr: env!("CARGO_PKG_VERSION"),
            commit: env!("DIF_SR_COMMIT"),
            tch: "0.24.0",
            libtorch: libtorch_version(),
            cuda: device.is_cuda().then(cuda_version),
            device: match device {
                Device::Cuda(index) => format!("cuda:{index}"),
                _ => "cpu".to_owned(),
            },
            cpu: field(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), "model name"),
            vectors: vectors(),
            gpus: gpus(),
            threads: tch::get_num_threads(),
            seed: config.run.seed,
            started: jiff::ZonedDateTime::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        })
    }
}

/// From libtorch's number, such as 13000.
fn cuda_version() -> String {
    let version = tch::utils::version_cudart();
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "none"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> &'static str {
    std::env::consts::ARCH
}

/// The driver's list of NVIDIA cards, in no need of a tool.
fn gpus() -> Vec<String> {
    let cards = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let read = cards.filter_map(|card| fs::read_to_string(card.path().join("information")).ok());
    read.map(|text| field(&text, "Model")).collect()
}

/// The value of the first `key : value` line.
fn field(text: &str, key: &str) -> String {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let mut found = values.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned());
    found.next().unwrap_or_else(|| "unknown".to_owned())
}
