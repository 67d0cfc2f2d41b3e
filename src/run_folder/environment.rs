//! `environment.json`, where a run took place: what a reader needs to repeat it or to explain a difference.

use std::fs;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::Device;

use super::Origin;
use crate::Result;
use crate::config::RunConfig;
use crate::device::device;
use crate::libtorch::libtorch_version;

/// The file's content: where the run was begun, and where it went on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The version of this program.
    pub dif_sr: String,
    /// The commit of this build; `-dirty` with changes beside it.
    pub commit: String,
    /// The version of the binding to libtorch.
    pub tch: String,
    /// The version of libtorch.
    pub libtorch: String,
    /// The version of CUDA where a GPU computes.
    pub cuda: Option<String>,
    /// What computes: `cpu`, or `cuda:` and the number of the device. Runs of before there were GPUs did not note it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The processor's name, and its family and model: one name covers several generations.
    pub cpu: String,
    /// The widest vectors that libtorch uses here; its rounding depends on them.
    pub vectors: String,
    /// The names of the NVIDIA cards.
    pub gpus: Vec<String>,
    /// Threads of libtorch in each process.
    pub threads: i32,
    /// The processes that trained together; not noted of one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<usize>,
    /// The run's seed.
    pub seed: i64,
    /// The local time, with its offset.
    pub started: String,
    /// Where the run went on after interruptions, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<Environment>,
    /// Where the run began, if not at the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Origin>,
    /// What other versions of this program note.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// What stands for a name that the system does not tell.
const UNKNOWN: &str = "unknown";

impl Environment {
    pub(super) const FILE: &str = "environment.json";

    /// The environment of a run that begins, or goes on, now.
    ///
    /// # Errors
    /// As [`device`].
    pub fn here(config: &RunConfig) -> Result<Self> {
        let device = device(&config.run)?;
        Ok(Self {
            dif_sr: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("DIF_SR_COMMIT").to_owned(),
            tch: "0.24.0".to_owned(),
            libtorch: libtorch_version(),
            cuda: device.is_cuda().then(cuda_version),
            device: Some(match device {
                Device::Cuda(index) => format!("cuda:{index}"),
                _ => "cpu".to_owned(),
            }),
            cpu: cpu(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            vectors: vectors().to_owned(),
            gpus: gpus(),
            threads: tch::get_num_threads(),
            ranks: None,
            seed: config.run.seed,
            started: jiff::ZonedDateTime::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            resumed: Vec::new(),
            from: None,
            others: Map::new(),
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

/// From the text of `/proc/cpuinfo`, such as `AMD EPYC (family 25, model 17)`.
fn cpu(text: &str) -> String {
    let [name, family, model] = ["model name", "cpu family", "model"].map(|key| field(text, key));
    let [implementer, part] = ["CPU implementer", "CPU part"].map(|key| field(text, key));
    match (name, family.zip(model), implementer.zip(part)) {
        (Some(name), Some((family, model)), _) => format!("{name} (family {family}, model {model})"),
        (Some(name), None, _) => name,
        (None, _, Some((implementer, part))) => format!("ARM (implementer {implementer}, part {part})"),
        (None, ..) => UNKNOWN.to_owned(),
    }
}

/// The driver's list of NVIDIA cards, in no need of a tool.
fn gpus() -> Vec<String> {
    let cards = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let read = cards.filter_map(|card| fs::read_to_string(card.path().join("information")).ok());
    read.map(|text| field(&text, "Model").unwrap_or(UNKNOWN.to_owned())).collect()
}

/// The value of the first `key : value` line.
fn field(text: &str, key: &str) -> Option<String> {
    let mut values = text.lines().filter_map(|line| line.split_once(':'));
    values.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::cpu;

    #[test]
    fn generations_of_one_name_are_told_apart() {
        let text =
            "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\ncpu family\t: 26\n";
        assert_eq!(cpu(text), "AMD EPYC (family 25, model 17)");
        assert_eq!(cpu("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n"), "ARM (implementer 0x41, part 0xd40)");
        assert_eq!(cpu(""), "unknown");
    }
}
