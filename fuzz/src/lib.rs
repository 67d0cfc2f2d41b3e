//! What the targets share: the check that a run can reach the inside of its reader, the seal of tensor files, an allocator
//! that counts, and the bound that docs/reliability.md states.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sha2::{Digest, Sha256};

/// Bytes of memory for each byte of input, as in `tests/memory.rs`, which measures libtorch's memory too.
const MULTIPLE: usize = 256;
/// What reading anything takes, whatever its size.
const CONSTANT: usize = 4 << 20;

/// Holds the files in `folder`, from the repository's root, to what they are there for as seeds: the reader accepts them, and
/// `-max_len`, where it is given, leaves them whole. Without such a seed a reader that begins with a checksum or a long
/// header is never entered, however many the executions.
///
/// # Panics
/// There is no such seed, one is refused, or one would be cut.
pub fn hold_good_seeds<T>(folder: &str, read: impl Fn(&[u8]) -> dif_sr::Result<T>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let max_len = std::env::args().filter_map(|argument| argument.strip_prefix("-max_len=")?.parse().ok()).next_back();
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).expect("the seeds are there") {
        let path = entry.expect("the folder can be read").path();
        if path.is_file() {
            let name = path.display();
            let bytes = fs::read(&path).expect("a seed can be read");
            read(&bytes).unwrap_or_else(|error| panic!("{name} is to be a seed that the reader accepts: {error}"));
            let whole = max_len.is_none_or(|max| max == 0 || bytes.len() <= max);
            assert!(whole, "-max_len={} cuts {name}, which has {} bytes", max_len.unwrap_or_default(), bytes.len());
            seeds += 1;
        }
    }
    assert!(seeds > 0, "expected seeds in {}, found none", folder.display());
}

/// The bytes with a seal that is right for them, which no chance would find; `None` if they have no place for one.
pub fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    const SEAL: &[u8] = br#"{"__metadata__":{"sha256":""#;
    let digits = 8 + SEAL.len()..8 + SEAL.len() + 64;
    if bytes.len() < digits.end || !bytes[8..].starts_with(SEAL) {
        return None;
    }
    let mut sealed = bytes.to_vec();
    sealed[digits.clone()].fill(b'0');
    let digest: String = Sha256::digest(&sealed).iter().map(|byte| format!("{byte:02x}")).collect();
    sealed[digits].copy_from_slice(digest.as_bytes());
    Some(sealed)
}

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
