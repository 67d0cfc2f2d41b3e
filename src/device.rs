//! Which device a run computes on.

use std::sync::OnceLock;

use tch::{Cuda, Device};

use crate::config::RunOptions;
pub use crate::libtorch::{generator_state, set_generator_state};
use crate::{Error, Result};

/// Loads libtorch's CUDA half where it is installed, so that one binary serves machines with and without a GPU.
///
/// Linkers drop `libtorch_cuda.so`, of which no symbol is called by name, and CUDA would seem absent. Call once, before
/// the first use of libtorch. Loads nothing where the library is not in the run-time search path. Sets
/// `CUBLAS_WORKSPACE_CONFIG` if it is not set.
///
/// # Safety
/// The process has one thread yet, since the environment is written.
pub unsafe fn load_cuda() {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // Without a workspace of fixed size cuBLAS may split a product's sums otherwise in every run.
    if std::env::var_os("CUBLAS_WORKSPACE_CONFIG").is_none() {
        // SAFETY: the caller's promise.
        unsafe { std::env::set_var("CUBLAS_WORKSPACE_CONFIG", ":4096:8") };
    }
    // SAFETY: opening runs libtorch's own initialisers alone, and the library is never closed.
    match unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => std::mem::forget(library),
        Err(e) => _ = NOT_LOADED.set(told(&e)),
    }
}

/// The loader's own words, of which the error itself says nothing.
pub(crate) fn told(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| source.to_string())
}

/// Why libtorch's CUDA half could not be loaded.
static NOT_LOADED: OnceLock<String> = OnceLock::new();

/// Why a libtorch for CUDA that is installed cannot be used: a library of NVIDIA's that it lacks, say.
pub fn cuda_fault() -> Option<&'static str> {
    NOT_LOADED.get().map(String::as_str).filter(|fault| !is_absent(fault))
}

/// Whether it is the library itself that is not there, and not one that it needs.
fn is_absent(fault: &str) -> bool {
    fault.starts_with("libtorch_cuda.so: cannot open")
}

/// Starts the program again with `OMP_WAIT_POLICY=passive`, so that libtorch's threads sleep where they wait for each
/// other. By default they spin for a while, and take from the thread that they wait for the core that it needs as soon
/// as anything else runs beside it: an epoch then takes five to ten times as long.
///
/// OpenMP reads the variable when a program is loaded, so that it cannot be set later. Does nothing where it or
/// `GOMP_SPINCOUNT` is set, and where the system does not start the program.
pub fn wait_passively() {
    use std::os::unix::process::CommandExt;
    let decided = [WAIT_POLICY, "GOMP_SPINCOUNT"].into_iter().any(|name| std::env::var_os(name).is_some());
    let Ok(program) = std::env::current_exe() else { return };
    let mut arguments = std::env::args_os();
    if let (false, Some(name)) = (decided, arguments.next()) {
        // The same process, its files and its place in the terminal. It comes back where it fails; the work then takes
        // longer beside others, which is no reason to end it.
        let _ = std::process::Command::new(program).arg0(name).args(arguments).env(WAIT_POLICY, "passive").exec();
    }
}

/// How OpenMP's threads wait.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// The device that `use_gpu` and `gpu_id` name.
///
/// Left at its default, `use_gpu` means a GPU if there is one; `True` demands it.
///
/// # Errors
/// As [`gpu`].
pub fn device(options: &RunOptions) -> Result<Device> {
    if options.use_gpu == Some(false) || (options.use_gpu.is_none() && !Cuda::is_available()) {
        return Ok(Device::Cpu);
    }
    gpu(options.gpu_id)
}

/// The GPU of a rank, the `local`-th from 0 of its host: each of them has the next one from `gpu_id` on, and where there are
/// more ranks than GPUs, they share them.
pub fn gpu_of_rank(options: &RunOptions, local: usize) -> usize {
    match usize::try_from(Cuda::device_count()) {
        Ok(found @ 1..) if local > 0 => (options.gpu_id + local) % found,
        _ => options.gpu_id,
    }
}

/// The GPU with this index.
///
/// # Errors
/// No such GPU.
pub fn gpu(index: usize) -> Result<Device> {
    let found = Cuda::device_count();
    if !Cuda::is_available() || found == 0 {
        let fault = cuda_fault().map_or(String::new(), |fault| format!(" ({fault})"));
        return Err(Error::new(format!("a GPU is asked for, but libtorch finds no CUDA device{fault}")).hint(
            "compute on the CPU (`use_gpu: False`, `verify` without `--gpu`), or see that `nvidia-smi` works and that libtorch \
             is one for CUDA: `./setup --cuda`, or a PyTorch with CUDA",
        ));
    }
    if i64::try_from(index).is_ok_and(|index| index < found) {
        return Ok(Device::Cuda(index));
    }
    Err(Error::new(format!("gpu_id is {index}, but libtorch finds {found} CUDA devices"))
        .hint(format!("use an id from 0 to {}", found - 1)))
}

/// Waits until all that was asked of `device` is done; the CPU is never behind.
pub fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}

#[cfg(test)]
mod tests {
    use libloading::os::unix::Library;

    use super::*;

    #[test]
    fn the_loader_names_what_is_missing() {
        // SAFETY: nothing of this name can be opened.
        let fault = told(&unsafe { Library::new("libtorch_cuda.so.none") }.expect_err("no such library"));
        assert!(fault.starts_with("libtorch_cuda.so.none: cannot open"), "{fault}");
        assert!(is_absent(&fault.replace(".none", "")) && !is_absent(&fault));
    }
}
