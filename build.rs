//! Records libtorch's folder as the run-time search path, so that binaries, tests, benches and doctests start with
//! nothing exported by hand (cargo's `[env]` cannot set `LD_LIBRARY_PATH`), and the commit that is built. Compiles the one
//! C++ file there is, against libtorch's headers.
//!
//! A missing libtorch cannot be reported here: torch-sys, whose C++ needs it, is built first and fails first, with
//! `torch/torch.h: No such file or directory`. The cure is `./setup` (docs/setup.md).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    // Set by torch-sys, which has already resolved LIBTORCH or LIBTORCH_USE_PYTORCH. Cargo runs this again whenever
    // torch-sys was built anew.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
        compile_cpp(Path::new(&lib));
    }
    println!("cargo:rustc-env=DIF_SR_COMMIT={}", commit());
    for path in ["build.rs", "Cargo.toml", "src"] {
        println!("cargo:rerun-if-changed={path}");
    }
    // Git appends to this file at every commit. It may be missing; cargo would then run this at every build.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
}

/// What tch lacks of libtorch (src/libtorch.rs).
///
/// Cargo runs this program at every change of the sources, for the commit; libtorch's headers take seconds to compile, so
/// that the library of the last time is kept while what it was made from is the same.
fn compile_cpp(lib: &Path) {
    const SOURCE: &str = "src/libtorch.cpp";
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let made_from = format!("{}\n{}", lib.display(), fs::read_to_string(SOURCE).unwrap_or_default());
    let stamp = out.join("libtorch.stamp");
    if fs::read_to_string(&stamp).is_ok_and(|last| last == made_from) {
        println!("cargo:rustc-link-search=native={}", out.display());
        println!("cargo:rustc-link-lib=static=dif_sr_libtorch");
        println!("cargo:rustc-link-lib=stdc++");
        return;
    }
    // As torch-sys finds them: beside the libraries unless they are named. Libtorch 2.11 has the new C++ ABI everywhere,
    // which is the compilers' default.
    let root = std::env::var("LIBTORCH_INCLUDE").map_or_else(|_| lib.join(".."), Into::into);
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(root.join("include"))
        .file(SOURCE)
        .compile("dif_sr_libtorch");
    fs::write(stamp, made_from).expect("cargo's folder is writable");
}

/// The commit, with `-dirty` if tracked files differ from it; `unknown` outside of a git checkout.
fn commit() -> String {
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty());
    if clean { commit } else { format!("{commit}-dirty") }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
