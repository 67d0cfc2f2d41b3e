//! What this processor can do.

use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

use crate::libtorch::matrix_unit;

/// AVX2 with fused multiplication and addition.
pub static AVX2: LazyLock<bool> = LazyLock::new(|| is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"));

/// AVX-512 with products of bfloat16 (BF16) and of int16 (VNNI).
pub static AVX512: LazyLock<bool> = LazyLock::new(|| {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
});

/// That, and a matrix unit for bfloat16 (AMX) which the system lets this process use.
pub static AMX: LazyLock<bool> = LazyLock::new(|| {
    // Function 7, EDX bit 22.
    let amx_bf16 = || __cpuid_count(7, 0).edx >> 22 & 1 == 1;
    *AVX512 && amx_bf16() && matrix_unit()
});

/// Whether a kernel test can run here. Where it cannot, this says so, and fails if the environment variable `name` is
/// `required`.
#[cfg(test)]
pub fn can_run(name: &str, feature: &LazyLock<bool>) -> bool {
    use std::io::Write;

    if !**feature {
        let required = std::env::var(name).is_ok_and(|value| value == "required");
        assert!(
            !required,
            "{name} is `required`, and this processor lacks the instructions: test on one that has them"
        );
        // Past the test harness, which shows what is printed for failures only.
        let word = format!("left out: this processor lacks the instructions ({name}=required makes that a failure)\n");
        std::io::stderr().write_all(word.as_bytes()).expect("standard error is open");
    }
    **feature
}
