//! The checkpoint reader: any bytes as they are, and with a seal that is right for them.
#![no_main]

use std::path::Path;

use dif_sr::tensors::TensorFile;
use dif_sr::train::Checkpoint;
use dif_sr_fuzz::{hold_good_seeds, sealed, within_bound};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: hold_good_seeds("fuzz/corpus/checkpoint", |bytes| Checkpoint::parse(Path::new("seed"), bytes)),
    |bytes: &[u8]| {
        let path = Path::new("fuzzed.safetensors");
        within_bound(bytes.len(), || drop(TensorFile::parse(path, bytes)));
        within_bound(bytes.len(), || drop(Checkpoint::parse(path, bytes)));
        if let Some(sealed) = sealed(bytes) {
            within_bound(bytes.len(), || drop(Checkpoint::parse(path, &sealed)));
        }
    }
);
