//! The checkpoint reader: any bytes as they are, and with a seal that is right for them, which no chance would find.
#![no_main]

use std::path::Path;

use dif_sr::tensors::TensorFile;
use dif_sr::train::Checkpoint;
use dif_sr_fuzz::{hold_good_seeds, within_bound};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

const SEAL: &[u8] = br#"{"__metadata__":{"sha256":""#;

fuzz_target!(
    init: hold_good_seeds("checkpoint", "good_", |bytes| Checkpoint::parse(Path::new("seed"), bytes)),
    |bytes: &[u8]| {
        let path = Path::new("fuzzed.safetensors");
        within_bound(bytes.len(), || drop(TensorFile::parse(path, bytes)));
        within_bound(bytes.len(), || drop(Checkpoint::parse(path, bytes)));
        let digits = 8 + SEAL.len()..8 + SEAL.len() + 64;
        if bytes.len() >= digits.end && bytes[8..].starts_with(SEAL) {
            let mut sealed = bytes.to_vec();
            sealed[digits.clone()].fill(b'0');
            let digest: String = Sha256::digest(&sealed).iter().map(|byte| format!("{byte:02x}")).collect();
            sealed[digits].copy_from_slice(digest.as_bytes());
            within_bound(bytes.len(), || drop(Checkpoint::parse(path, &sealed)));
        }
    }
);
