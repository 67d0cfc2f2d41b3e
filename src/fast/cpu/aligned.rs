//! An allocator whose larger blocks begin where a cache line does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::Range;

/// Bytes of a block that is aligned. Larger ones grow where they are, which an alignment would undo.
const SIZES: Range<usize> = 4 << 10..64 << 20;
/// Bytes of a cache line.
const LINE: usize = 64;

/// The system's allocator, with blocks of 4 KiB to 64 MiB at whole cache lines. glibc's begin at any multiple of 16, large
/// ones 16 bytes behind a page's start, so that a row of 16 floats that a kernel loads or stores takes two lines. Zeroed
/// blocks of these sizes are cleared at once, and grow by a copy.
///
/// A program that trains by [`FastPath`](super::FastPath) gains by it (docs/performance.md):
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: dif_sr::fast::CacheAligned = dif_sr::fast::CacheAligned;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct CacheAligned;

/// The layout of a block as the system is asked for it.
fn aligned(layout: Layout) -> Layout {
    match SIZES.contains(&layout.size()) {
        true => layout.align_to(LINE).unwrap_or(layout),
        false => layout,
    }
}

// SAFETY: the system's allocator does all. It gets every block back with the layout that it was asked for, which follows
// from that of the block.
unsafe impl GlobalAlloc for CacheAligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(aligned(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(aligned(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, aligned(layout)) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the size is not 0, and does not overflow with the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if aligned(layout).align() == aligned(new).align() {
            // SAFETY: the caller's promise.
            return unsafe { System.realloc(block, aligned(layout), size) };
        }
        // SAFETY: as above; both blocks have as many bytes as are copied.
        unsafe {
            let to = self.alloc(new);
            if !to.is_null() {
                to.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            to
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_bytes_as_they_grow_and_shrink_and_larger_ones_begin_at_lines() {
        let byte = |at: usize| (at % 251) as u8;
        let sizes = [1, 100, 4095, 4096, 5000, 1 << 20, (64 << 20) - 1, 64 << 20, 65 << 20, 6000, 200, 10_000];
        let layout = |size: usize| Layout::from_size_align(size, 4).unwrap();
        // SAFETY: every block is used within its size, and freed with its layout.
        unsafe {
            let mut block = CacheAligned.alloc(layout(sizes[0]));
            for (i, &size) in sizes.iter().enumerate() {
                assert!(!SIZES.contains(&size) || (block as usize).is_multiple_of(LINE), "{size}");
                for at in 0..size {
                    block.add(at).write(byte(at));
                }
                let next = sizes.get(i + 1).copied().unwrap_or(1);
                block = CacheAligned.realloc(block, layout(size), next);
                assert!((0..size.min(next)).all(|at| block.add(at).read() == byte(at)), "{size} to {next}");
            }
            CacheAligned.dealloc(block, layout(1));
            let zeros = CacheAligned.alloc_zeroed(layout(5000));
            assert!((zeros as usize).is_multiple_of(LINE) && (0..5000).all(|at| zeros.add(at).read() == 0));
            CacheAligned.dealloc(zeros, layout(5000));
        }
    }
}
