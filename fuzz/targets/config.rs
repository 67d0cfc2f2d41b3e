//! The configuration: any text as YAML, as the configuration of a golden case, and as `--key=value` lines.
#![no_main]

use std::path::Path;

use dif_sr::Result;
use dif_sr::config::{ModelConfig, RunConfig};
use dif_sr_fuzz::{hold_good_seeds, within_bound};
use libfuzzer_sys::fuzz_target;

fn good(bytes: &[u8]) -> Result<RunConfig> {
    RunConfig::from_yaml(&String::from_utf8_lossy(bytes), Path::new("seed"))
}

fuzz_target!(init: hold_good_seeds("configs", good), |text: &str| {
    let path = Path::new("fuzzed.yaml");
    within_bound(text.len(), || {
        if let Ok(config) = RunConfig::from_yaml(text, path) {
            let read = RunConfig::from_yaml(&config.to_yaml(), path).expect("what was written can be read");
            assert_eq!(read, config);
        }
    });
    within_bound(text.len(), || drop(ModelConfig::parse_case(text, path)));
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let overrides: Vec<_> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    within_bound(text.len(), || drop(RunConfig::load(&[], &overrides)));
});
