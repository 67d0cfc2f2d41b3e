//! The golden case reader: the configuration, a zero byte, and the tensors.
#![no_main]

use std::path::Path;

use dif_sr::Result;
use dif_sr::golden::Case;
use dif_sr_fuzz::{hold_good_seeds, within_bound};
use libfuzzer_sys::fuzz_target;

/// `None` where the input is no text, a zero byte and a rest.
fn read(bytes: &[u8]) -> Option<Result<Case>> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let config = std::str::from_utf8(&bytes[..end]).ok()?;
    Some(Case::parse(Path::new("fuzzed"), config, &bytes[end + 1..]))
}

fuzz_target!(
    init: hold_good_seeds("fuzz/corpus/golden", |bytes| read(bytes).expect("a seed has both parts")),
    |bytes: &[u8]| within_bound(bytes.len(), || drop(read(bytes)))
);
