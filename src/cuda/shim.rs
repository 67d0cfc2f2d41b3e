//! Libtorch's CUDA graphs and streams (`shim.cpp`), in a library that the program carries and loads where there is a libtorch
//! for GPUs.

use std::ffi::{c_char, c_int};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::device::told;
use crate::libtorch::checked;
use crate::{Error, Result};

/// The library; empty where libtorch's headers are those of one for CPUs.
static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dif_sr_cuda.so"));

/// A stream or a graph of the C++ side.
#[repr(C)]
struct Opaque {
    _private: [u8; 0],
}

type Message = *const c_char;

/// Declares the functions of the shim, and finds them in the library.
macro_rules! functions {
    ($($name:ident: ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Shim {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Shim {
            /// # Safety
            /// The library is that of `shim.cpp`, and is never closed.
            unsafe fn of(library: &Library) -> std::result::Result<Self, libloading::Error> {
                // SAFETY: the caller's promise; the signatures are those of `shim.cpp`.
                unsafe { Ok(Self { $($name: *library.get(concat!("dif_sr_cuda_", stringify!($name)).as_bytes())?,)* }) }
            }
        }
    };
}

functions! {
    stream_new: (c_int, *mut *mut Opaque) -> Message;
    stream_enter: (*mut Opaque) -> Message;
    stream_leave: (*mut Opaque) -> Message;
    stream_free: (*mut Opaque);
    capture_begin: (c_int, *mut *mut Opaque) -> Message;
    capture_end: (*mut Opaque, *mut usize) -> Message;
    capture_abandon: (*mut Opaque);
    replay: (*mut Opaque) -> Message;
    graph_free: (*mut Opaque);
}

/// The shim, loaded once.
fn shim() -> Result<&'static Shim> {
    static SHIM: OnceLock<std::result::Result<Shim, String>> = OnceLock::new();
    SHIM.get_or_init(load).as_ref().map_err(Error::new)
}

fn load() -> std::result::Result<Shim, String> {
    if LIBRARY.is_empty() {
        return Err("this program was built with the headers of a libtorch for CPUs".to_owned());
    }
    let wrong = |e: &dyn std::fmt::Display| format!("libtorch for CUDA is not the one that was built with: {e}");
    // In memory, so that one file is the whole program.
    let file = rustix::fs::memfd_create("dif_sr_cuda.so", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| wrong(&e))?;
    let mut file = std::fs::File::from(file);
    file.write_all(LIBRARY).map_err(|e| wrong(&e))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: opening runs the initialisers of C++ alone, and the library is never closed.
    unsafe {
        let library = Library::open(Some(path), RTLD_NOW | RTLD_LOCAL).map_err(|e| wrong(&told(&e)))?;
        let shim = Shim::of(&library).map_err(|e| wrong(&told(&e)))?;
        std::mem::forget(library);
        Ok(shim)
    }
}

/// A stream beside the device's default one.
#[derive(Debug)]
pub(super) struct Stream(*mut Opaque);

impl Stream {
    /// A stream of the GPU with this index.
    pub(super) fn new(device: usize) -> Result<Self> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: the function sets `stream`, which is ours from then on, or returns a message.
        unsafe { checked((shim()?.stream_new)(device as c_int, &mut stream))? };
        Ok(Self(stream))
    }

    /// Has libtorch compute on this stream for as long as the guard lives. What was asked before is done then, and what is
    /// asked meanwhile is done when it ends.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        // SAFETY: the stream lives.
        unsafe { checked((shim()?.stream_enter)(self.0))? };
        Ok(Entered(self))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Ok(shim) = shim() {
            // SAFETY: it is not used again.
            unsafe { (shim.stream_free)(self.0) }
        }
    }
}

/// A stream that is current.
pub(super) struct Entered<'a>(&'a Stream);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Ok(shim) = shim() {
            // SAFETY: the stream lives. An error of the device is told again by the next operation.
            unsafe { _ = (shim.stream_leave)(self.0.0) }
        }
    }
}

/// Operations of a device that can be asked for again as one.
#[derive(Debug)]
pub(super) struct Graph {
    graph: *mut Opaque,
    operations: usize,
}

impl Graph {
    /// Records what `record` asks of the current stream, which is not the default one; nothing is computed. An error leaves
    /// the stream, the generator and the memory as they were.
    pub(super) fn capture<T>(device: usize, record: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        /// Abandons a capture that did not end.
        struct Capturing(&'static Shim, *mut Opaque);
        impl Drop for Capturing {
            fn drop(&mut self) {
                // SAFETY: the capture is under way or failed to end, and the graph is not used again.
                unsafe { (self.0.capture_abandon)(self.1) }
            }
        }

        let shim = shim()?;
        let (mut graph, mut operations) = (std::ptr::null_mut(), 0);
        // SAFETY: the function sets `graph`, which is ours from then on, or returns a message.
        unsafe { checked((shim.capture_begin)(device as c_int, &mut graph))? };
        let capturing = Capturing(shim, graph);
        let recorded = record()?;
        // SAFETY: the graph lives and is being captured.
        unsafe { checked((shim.capture_end)(graph, &mut operations))? };
        std::mem::forget(capturing);
        Ok((Self { graph, operations }, recorded))
    }

    /// Asks for all of it on the current stream.
    pub(super) fn replay(&self) -> Result<()> {
        // SAFETY: the graph lives.
        unsafe { checked((shim()?.replay)(self.graph)) }
    }

    /// How many operations it has.
    pub(super) fn operations(&self) -> usize {
        self.operations
    }
}

impl Drop for Graph {
    /// No replay may be under way.
    fn drop(&mut self) {
        if let Ok(shim) = shim() {
            // SAFETY: it is not used again.
            unsafe { (shim.graph_free)(self.graph) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `./setup` brings the headers of the libtorch for CUDA, whichever libraries it brings.
    #[test]
    fn the_program_carries_the_shim_and_says_where_it_cannot_be_used() {
        assert!(LIBRARY.starts_with(b"\x7fELF"), "src/cuda/shim.cpp did not compile");
        // No test of this binary loads libtorch's CUDA half, whose functions are then missing.
        let error = Stream::new(0).expect_err("there is no libtorch_cuda.so in this process").to_string();
        assert!(error.starts_with("libtorch for CUDA is not the one that was built with: "), "{error}");
    }
}
