//! Records libtorch's folder as the run-time search path, so that binaries, tests and benches start with nothing
//! exported by hand (cargo's `[env]` cannot set `LD_LIBRARY_PATH`).

fn main() {
    // Set by torch-sys, which has already resolved LIBTORCH or LIBTORCH_USE_PYTORCH.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-env=DIF_SR_COMMIT=x");
}
