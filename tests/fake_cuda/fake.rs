//! The fake device: whether it is there, and what it saw.

use std::ffi::{CStr, c_char, c_int, c_long};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::os::unix::Library;
use once_cell::sync::Lazy;

use crate::common::{left_out, required};

/// The functions that `device.cpp` has for this program.
pub struct Fake {
    watch: unsafe extern "C" fn(),
    operations: unsafe extern "C" fn() -> usize,
    operation: unsafe extern "C" fn(usize) -> *const c_char,
    waited: unsafe extern "C" fn() -> c_long,
    waits: unsafe extern "C" fn() -> *const c_char,
    replays: unsafe extern "C" fn() -> c_long,
    refused: unsafe extern "C" fn() -> *const c_char,
    refuse_captures: unsafe extern "C" fn(c_int),
}

/// `None` where the test was not started by `tests/fake_cuda.sh`.
static FAKE: Lazy<Option<Mutex<Fake>>> = Lazy::new(|| {
    let this = Library::this();
    // SAFETY: the signatures are those of `device.cpp`, which is preloaded and never unloaded.
    let fake = unsafe {
        this.get::<unsafe extern "C" fn()>(b"fake_cuda_watch").ok().map(|watch| Fake {
            watch: *watch,
            operations: *this.get(b"fake_cuda_operations").expect("a function of device.cpp"),
            operation: *this.get(b"fake_cuda_operation").expect("a function of device.cpp"),
            waited: *this.get(b"fake_cuda_waited").expect("a function of device.cpp"),
            waits: *this.get(b"fake_cuda_waits").expect("a function of device.cpp"),
            replays: *this.get(b"fake_cuda_replays").expect("a function of device.cpp"),
            refused: *this.get(b"fake_cuda_refused").expect("a function of device.cpp"),
            refuse_captures: *this.get(b"fake_cuda_refuse_captures").expect("a function of device.cpp"),
        })
    };
    if fake.is_none() {
        assert!(!required("DIF_SR_FAKE_CUDA"), "there is no fake device: start these tests by tests/fake_cuda.sh");
        left_out("no fake device (tests/fake_cuda.sh)");
        return None;
    }
    assert!(
        std::env::var_os("CUBLAS_WORKSPACE_CONFIG").is_some(),
        "tests/fake_cuda.sh sets it: there are threads already"
    );
    // SAFETY: with this variable set, nothing is written to the environment.
    unsafe { dif_sr::device::load_cuda() };
    assert!(tch::Cuda::is_available(), "libtorch_cuda.so was not loaded, or does not take the fake device for one");
    fake.map(Mutex::new)
});

/// The fake device for one test: there is one, with one generator.
pub fn device() -> Option<MutexGuard<'static, Fake>> {
    FAKE.as_ref().map(|fake| fake.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What the fake device was asked for.
pub struct Seen {
    /// Times that the host waited for it, and a line for each: for what, and who asked.
    pub waited: usize,
    pub waits: String,
    /// Graphs that were replayed.
    pub replays: usize,
    /// Kernels, products, copies and graphs, by name.
    pub operations: Vec<String>,
    /// What failed because a stream was being captured.
    pub refused: String,
}

impl Fake {
    /// What the device was asked for while `work` ran.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> (T, Seen) {
        // SAFETY: see `FAKE`.
        unsafe { (self.watch)() };
        let done = work();
        (done, self.seen())
    }

    /// Forgets what was seen.
    pub fn watch(&self) {
        // SAFETY: see `FAKE`.
        unsafe { (self.watch)() }
    }

    /// What the device was asked for since.
    pub fn seen(&self) -> Seen {
        // SAFETY: see `FAKE`; the texts are read before anything else is asked of the device.
        unsafe {
            let text = |text: *const c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
            let n = (self.operations)();
            Seen {
                waited: (self.waited)() as usize,
                waits: text((self.waits)()),
                replays: (self.replays)() as usize,
                operations: (0..n).map(|i| text((self.operation)(i))).collect(),
                refused: text((self.refused)()),
            }
        }
    }

    /// Has every capture fail from now on, or none.
    pub fn refuse_captures(&self, refuse: bool) {
        // SAFETY: see `FAKE`.
        unsafe { (self.refuse_captures)(refuse.into()) }
    }
}
