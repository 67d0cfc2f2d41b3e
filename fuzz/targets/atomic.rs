//! The atomic-file parser: any bytes, with tabs or commas between the fields.
#![no_main]

use std::path::Path;

use dif_sr::data::atomic::{Format, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for field_separator in [b'\t', b','] {
        let _ = parse(Path::new("fuzzed.inter"), bytes.to_vec(), Format { field_separator, seq_separator: " " }, None);
    }
});
