//! Records libtorch's folder as the run-time search path, so that binaries, tests, benches and doctests start with
//! nothing exported by hand (cargo's `[env]` cannot set `LD_LIBRARY_PATH`), and the commit that is built. Compiles the
//! C++ files, against libtorch's headers.
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

/// What tch lacks of libtorch (src/libtorch.rs, src/ranks/group.rs, src/fast/cuda/rows.rs).
///
/// Cargo runs this program at every change of the sources, for the commit; libtorch's headers take seconds to compile, so
/// that the library of the last time is kept while what it was made from is the same.
fn compile_cpp(lib: &Path) {
    const SOURCES: [&str; 3] = ["src/libtorch.cpp", "src/ranks.cpp", "src/fast/cuda/rows.cpp"];
    const HEADERS: [&str; 3] = ["src/caught.h", "src/fast/cuda/rows.h", GLOO];
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let text = |file: &&str| fs::read_to_string(file).unwrap_or_default();
    let texts: String = SOURCES.iter().chain(&HEADERS).map(text).collect();
    let made_from = format!("{}\n{texts}", lib.display());
    let stamp = out.join("libtorch.stamp");
    if fs::read_to_string(&stamp).is_ok_and(|last| last == made_from) {
        println!("cargo:rustc-link-search=native={}", out.display());
        println!("cargo:rustc-link-lib=static=dif_sr_libtorch");
        println!("cargo:rustc-link-lib=stdc++");
        return;
    }
    stand_in_for_gloo(&out);
    // As torch-sys finds them: beside the libraries unless they are named. Libtorch 2.11 has the new C++ ABI everywhere,
    // which is the compilers' default.
    let root = std::env::var("LIBTORCH_INCLUDE").map_or_else(|_| lib.join(".."), Into::into);
    let include = root.join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .includes([&out, &include, &include.join("torch/csrc/api/include")])
        .files(SOURCES)
        .compile("dif_sr_libtorch");
    fs::write(stamp, made_from).expect("cargo's folder is writable");
}

/// What libtorch's headers need of gloo.
const GLOO: &str = "src/ranks/gloo.h";

/// Puts it where libtorch's headers look for gloo's, which are not in libtorch.
fn stand_in_for_gloo(out: &Path) {
    let root = out.join("gloo");
    for folder in ["common", "rendezvous", "transport"] {
        fs::create_dir_all(root.join(folder)).expect("cargo's folder is writable");
    }
    fs::copy(GLOO, root.join("declarations.h")).expect("cargo's folder is writable");
    for name in ["algorithm.h", "common/error.h", "context.h", "rendezvous/store.h", "transport/device.h"] {
        fs::write(root.join(name), "#include <gloo/declarations.h>\n").expect("cargo's folder is writable");
    }
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
