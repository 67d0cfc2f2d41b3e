//! Records libtorch's folder as the run-time search path, so that binaries, tests, benches and doctests start with
//! nothing exported by hand (cargo's `[env]` cannot set `LD_LIBRARY_PATH`).
//!
//! A missing libtorch cannot be reported here: torch-sys, whose C++ needs it, is built first and fails first, with
//! `torch/torch.h: No such file or directory`. The cure is `./setup` (docs/setup.md).

fn main() {
    // The path comes from torch-sys, and cargo runs this again whenever torch-sys was built anew.
    println!("cargo:rerun-if-changed=build.rs");
    // Set by torch-sys, which has already resolved LIBTORCH or LIBTORCH_USE_PYTORCH.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-env=DIF_SR_COMMIT=x");
}
