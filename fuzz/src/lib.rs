//! What the targets share: an allocator that counts, and the bound that docs/reliability.md states.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of memory for each byte of input, as in `tests/memory.rs`, which measures libtorch's memory too.
const MULTIPLE: usize = 256;
/// What reading anything takes, whatever its size.
const CONSTANT: usize = 4 << 20;

/// Runs `read` on an input of `size` bytes.
///
/// # Panics
/// It took more memory than the bound.
pub fn within_bound(size: usize, read: impl FnOnce()) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    read();
    let taken = PEAK.load(Relaxed).saturating_sub(before);
    assert!(taken <= MULTIPLE * size + CONSTANT, "{size} bytes of input took {taken} bytes of memory");
}

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}
