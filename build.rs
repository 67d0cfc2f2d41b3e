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
        // Another libtorch at the same place.
        println!("cargo:rerun-if-changed={lib}/libtorch_cpu.so");
        compile_cpp(Path::new(&lib));
        compile_shim(Path::new(&lib));
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

/// What tch lacks of libtorch (src/libtorch.rs, src/ranks/gloo.rs).
fn compile_cpp(lib: &Path) {
    const SOURCES: [&str; 2] = ["src/libtorch.cpp", "src/ranks.cpp"];
    let (out, stamp) = (out(), out().join("libtorch.stamp"));
    let files = [&SOURCES[..], &["src/caught.h", GLOO]].concat();
    if !made_already(&stamp, lib, &files) {
        stand_in_for_gloo(&out);
        cpp(lib, &out).files(SOURCES).cargo_metadata(false).compile("dif_sr_libtorch");
        made(&stamp, lib, &files);
    }
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=dif_sr_libtorch");
    println!("cargo:rustc-link-lib=stdc++");
}

/// Libtorch's CUDA graphs (src/cuda/shim.rs), a library of its own: what it calls is in a libtorch for GPUs alone. Left empty
/// where libtorch's headers are those of one for CPUs, which say nothing of CUDA.
fn compile_shim(lib: &Path) {
    const SOURCES: [&str; 3] = ["src/cuda/shim.cpp", "src/cuda/runtime.h", "src/caught.h"];
    let (out, stamp) = (out(), out().join("shim.stamp"));
    let shim = out.join("dif_sr_cuda.so");
    if shim.exists() && made_already(&stamp, lib, &SOURCES) {
        return;
    }
    fs::write(&shim, []).expect("cargo's folder is writable");
    if is_for_gpus(lib) {
        let stand_ins = out.join("cuda");
        fs::create_dir_all(&stand_ins).expect("cargo's folder is writable");
        fs::copy(SOURCES[1], stand_ins.join("runtime.h")).expect("cargo's folder is writable");
        for name in ["cuda.h", "cuda_runtime.h", "cuda_runtime_api.h"] {
            fs::write(stand_ins.join(name), "#include <runtime.h>\n").expect("cargo's folder is writable");
        }
        let mut command = cpp(lib, &stand_ins).debug(false).get_compiler().to_command();
        let done = command.args(["-shared", "-fPIC", SOURCES[0], "-o"]).arg(&shim).status();
        if !done.is_ok_and(|status| status.success()) {
            fs::write(&shim, []).expect("cargo's folder is writable");
            println!("cargo:warning=src/cuda/shim.cpp did not compile: on a GPU, steps are taken without CUDA graphs");
            return;
        }
    }
    made(&stamp, lib, &SOURCES);
}

fn out() -> PathBuf {
    PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"))
}

/// As torch-sys finds it: beside the libraries unless it is named.
fn include(lib: &Path) -> PathBuf {
    std::env::var("LIBTORCH_INCLUDE").map_or_else(|_| lib.join(".."), PathBuf::from).join("include")
}

/// Whether libtorch's headers are those of one for GPUs.
fn is_for_gpus(lib: &Path) -> bool {
    include(lib).join("c10/cuda/impl/cuda_cmake_macros.h").exists()
}

/// A compiler of C++ against libtorch's headers and those in `own`. Libtorch 2.11 has the new C++ ABI everywhere, which is
/// the compilers' default.
fn cpp(lib: &Path, own: &Path) -> cc::Build {
    let include = include(lib);
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").warnings(false).includes([own, &include, &include.join("torch/csrc/api/include")]);
    build
}

/// Whether what `stamp` is of was made from the same files. Cargo runs this program at every change of the sources, for the
/// commit; libtorch's headers take seconds to compile.
fn made_already(stamp: &Path, lib: &Path, files: &[&str]) -> bool {
    fs::read_to_string(stamp).is_ok_and(|last| last == made_from(lib, files))
}

fn made(stamp: &Path, lib: &Path, files: &[&str]) {
    fs::write(stamp, made_from(lib, files)).expect("cargo's folder is writable");
}

fn made_from(lib: &Path, files: &[&str]) -> String {
    let texts: String = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
    format!("{} {}\n{texts}", lib.display(), is_for_gpus(lib))
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
