//! The golden case reader: the configuration, a zero byte, and the tensors.
#![no_main]

use std::path::Path;

use dif_sr::golden::Case;
use dif_sr_fuzz::within_bound;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(end) = bytes.iter().position(|&byte| byte == 0) else { return };
    let Ok(config) = std::str::from_utf8(&bytes[..end]) else { return };
    within_bound(bytes.len(), || drop(Case::parse(Path::new("fuzzed"), config, &bytes[end + 1..])));
});
