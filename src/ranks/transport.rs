//! What moves numbers between ranks.

use std::fmt::Debug;

use crate::Result;

/// What moves bytes. All members make the same calls in the same order, and each call waits for its end.
pub trait Transport: Debug + Send {
    /// Every member's `own`, all of one length that is not 0, in their order.
    fn gather(&mut self, own: &[u8], all: &mut [u8]) -> Result<()>;
    /// What every member has for this one: `own` is what this one has for each, `sent` and `received` count bytes by
    /// member.
    fn exchange(&mut self, own: &[u8], sent: &[usize], all: &mut [u8], received: &[usize]) -> Result<()>;
    /// Makes `data` what it is at the first member.
    fn broadcast(&mut self, data: &mut [u8]) -> Result<()>;
    /// The end of all calls, once every member has come to it.
    fn leave(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Numbers that travel as the bytes that they are.
///
/// # Safety
/// Every pattern of bits is a value, and no byte is padding.
pub unsafe trait Plain: Copy + Default + Send + 'static {}
// SAFETY: numbers are.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for i64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}

/// Numbers as bytes.
pub fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: no byte of a `Plain` is padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Numbers as bytes to fill in.
pub fn bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is a value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// What has arrived. Where a transport has given up, others may still write: the memory is theirs to the end of the process.
pub fn received_in<T>(all: Vec<T>, done: Result<()>) -> Result<Vec<T>> {
    match done {
        Ok(()) => Ok(all),
        Err(error) => {
            std::mem::forget(all);
            Err(error)
        }
    }
}
