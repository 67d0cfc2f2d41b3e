//! The reader of training states: any bytes as they are, and with a seal that is right for them, restored to a training of
//! DIF-SR on the data beside the seeds.
#![no_main]

use std::cell::RefCell;
use std::path::Path;
use std::sync::LazyLock;

use dif_sr::Result;
use dif_sr::config::RunConfig;
use dif_sr::train::{Prepared, Training};
use dif_sr_fuzz::{hold_good_seeds, sealed, within_bound};
use libfuzzer_sys::fuzz_target;
use tch::{Device, Kind, Tensor};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/training");

/// What the seeds were trained with.
static CONFIG: LazyLock<RunConfig> = LazyLock::new(|| {
    let overrides = [("data_path".to_owned(), FOLDER.to_owned())];
    RunConfig::load(&[Path::new(FOLDER).join("tiny.yaml")], &overrides).unwrap_or_else(|e| panic!("{e}"))
});

thread_local! {
    static PREPARED: &'static Prepared =
        Box::leak(Box::new(Prepared::new(&CONFIG).unwrap_or_else(|e| panic!("{e}"))));
    static TRAINING: RefCell<Training<'static>> = RefCell::new(begun());
}

/// A training at its start.
fn begun() -> Training<'static> {
    let Prepared { model, splits, .. } = PREPARED.with(|prepared| *prepared);
    Training::new(&CONFIG, model, splits).unwrap_or_else(|e| panic!("{e}"))
}

/// Restores a training and draws what its generator would draw first; then it begins again. What is refused halfway leaves
/// numbers behind, which no check reads.
fn restore(bytes: &[u8]) -> Result<()> {
    let fingerprint = PREPARED.with(|prepared| prepared.fingerprint.as_str());
    TRAINING.with_borrow_mut(|training| {
        training.restore(Path::new("fuzzed.safetensors"), bytes, fingerprint)?;
        // More than a state holds.
        let _ = Tensor::rand([1300], (Kind::Float, Device::Cpu));
        *training = begun();
        Ok(())
    })
}

fuzz_target!(
    init: hold_good_seeds("fuzz/corpus/training", restore),
    |bytes: &[u8]| {
        within_bound(bytes.len(), || drop(restore(bytes)));
        if let Some(sealed) = sealed(bytes) {
            within_bound(bytes.len(), || drop(restore(&sealed)));
        }
    }
);
