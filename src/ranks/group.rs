//! A group of ranks, whichever transport moves their bytes.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

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
fn bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: no byte of a `Plain` is padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Numbers as bytes to fill in.
fn bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is a value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// What has arrived. Where a transport has given up, others may still write: the memory is theirs to the end of the process.
fn received_in<T>(all: Vec<T>, done: Result<()>) -> Result<Vec<T>> {
    match done {
        Ok(()) => Ok(all),
        Err(error) => {
            std::mem::forget(all);
            Err(error)
        }
    }
}

/// A member's end of the group.
#[derive(Debug)]
pub struct Group {
    /// Held during a call.
    transport: Mutex<Box<dyn Transport>>,
    rank: usize,
    size: usize,
    /// Bytes that this member has sent to others.
    sent: AtomicU64,
}

impl Group {
    /// Of `size` members, of which this is the one numbered `rank`.
    pub fn new(transport: impl Transport + 'static, rank: usize, size: usize) -> Self {
        Self { transport: Mutex::new(Box::new(transport)), rank, size, sent: AtomicU64::new(0) }
    }

    /// Every rank's `own`, all of one length, in the order of the ranks.
    ///
    /// # Errors
    /// A rank that has ended, or does not answer in time; likewise below.
    pub fn gather<T: Plain>(&self, own: &[T]) -> Result<Vec<T>> {
        let mut all = vec![T::default(); own.len() * self.size];
        if own.is_empty() {
            return Ok(all);
        }
        self.count(size_of_val(own) * (self.size - 1));
        let done = self.call(|transport| transport.gather(bytes(own), bytes_mut(&mut all)));
        received_in(all, done)
    }

    /// What every rank has for this one, in the order of the ranks: `own` is what this rank has for each, `sent` and
    /// `received` are the numbers of elements by rank.
    ///
    /// # Errors
    /// As [`Group::gather`].
    ///
    /// # Panics
    /// `sent` does not add up to the length of `own`.
    pub fn exchange<T: Plain>(&self, own: &[T], sent: &[usize], received: &[usize]) -> Result<Vec<T>> {
        assert!(sent.len() == self.size && received.len() == self.size, "a number for every rank");
        assert_eq!(sent.iter().sum::<usize>(), own.len(), "what is sent is what there is");
        let mut all = vec![T::default(); received.iter().sum()];
        let [sent, received] = [sent, received].map(|n| n.iter().map(|n| n * size_of::<T>()).collect::<Vec<_>>());
        self.count(size_of_val(own) - sent[self.rank]);
        let done = self.call(|transport| transport.exchange(bytes(own), &sent, bytes_mut(&mut all), &received));
        received_in(all, done)
    }

    /// Makes `data` what it is at rank 0.
    ///
    /// # Errors
    /// As [`Group::gather`].
    pub fn broadcast<T: Plain>(&self, data: &mut [T]) -> Result<()> {
        if data.is_empty() { Ok(()) } else { self.call(|transport| transport.broadcast(bytes_mut(data))) }
    }

    /// The end of all exchanges, once every rank has come to it.
    ///
    /// # Errors
    /// As [`Group::gather`].
    pub fn leave(&self) -> Result<()> {
        self.call(|transport| transport.leave())
    }

    /// Bytes that this rank has sent to others by [`Group::gather`] and [`Group::exchange`].
    pub fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn call(&self, function: impl FnOnce(&mut dyn Transport) -> Result<()>) -> Result<()> {
        let mut transport = self.transport.lock().unwrap_or_else(|broken| broken.into_inner());
        function(&mut **transport).map_err(|e| {
            Error::new(format!("another rank has ended or does not answer ({e})"))
                .hint("look for its own message; then give every rank the command again, with --resume once the run has begun")
        })
    }
}
