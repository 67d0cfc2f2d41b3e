//! The atomic-file parser: any bytes, with tabs or commas between the fields.
#![no_main]

use std::path::Path;

use dif_sr::data::atomic::{Format, parse};
use dif_sr_fuzz::within_bound;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for field_separator in [b'\t', b','] {
        let format = Format { field_separator, seq_separator: " " };
        within_bound(bytes.len(), || drop(parse(Path::new("fuzzed.inter"), bytes.to_vec(), format, None)));
    }
});
