//! The transport: libtorch's c10d, whose members find each other by a store and exchange bytes by gloo.
//!
//! Gloo waits for its peers asleep, so that ranks which share a busy machine leave it to each other. It knows no
//! authentication: whoever reaches its sockets can take part (docs/scale.md).

use std::ffi::{CString, c_char, c_int, c_void};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::ptr::{NonNull, null, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::launch::{Launch, Meeting};
use crate::libtorch::checked;
use crate::{Error, Result};

/// Where and how ranks meet, as `src/ranks.cpp` has it.
#[repr(C)]
struct CMeeting {
    file: *const c_char,
    host: *const c_char,
    interface: *const c_char,
    port: c_int,
    listener: c_int,
    rank: c_int,
    size: c_int,
    seconds: c_int,
}

unsafe extern "C" {
    fn dif_sr_ranks_join(meeting: *const CMeeting, group: *mut *mut c_void) -> *const c_char;
    fn dif_sr_ranks_leave(group: *mut c_void);
    fn dif_sr_ranks_gather(
        group: *mut c_void,
        own: *const c_void,
        n: i64,
        all: *mut c_void,
        size: i64,
    ) -> *const c_char;
    fn dif_sr_ranks_exchange(
        group: *mut c_void,
        own: *const c_void,
        sent: *const i64,
        all: *mut c_void,
        received: *const i64,
        size: i64,
    ) -> *const c_char;
    fn dif_sr_ranks_broadcast(group: *mut c_void, data: *mut c_void, n: i64) -> *const c_char;
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

/// A member's end of the group.
#[derive(Debug)]
pub struct Group {
    /// Held during an exchange: all members must take part in the same ones in the same order.
    handle: Mutex<Handle>,
    rank: usize,
    size: usize,
    /// Bytes that this member has sent to others.
    sent: AtomicU64,
}

/// The C++ object, which is ours.
#[derive(Debug)]
struct Handle(NonNull<c_void>);

// SAFETY: a process group belongs to no thread; its owner calls one function at a time.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: `dif_sr_ranks_join` made it, and nobody else has it.
        unsafe { dif_sr_ranks_leave(self.0.as_ptr()) }
    }
}

impl Group {
    /// Waits until all ranks have come.
    ///
    /// # Errors
    /// The place of the meeting is taken or cannot be reached; a rank that does not come in time.
    pub fn join(launch: &Launch) -> Result<Self> {
        let text =
            |text: &str| CString::new(text).map_err(|_| Error::new(format!("expected a name, found `{text:?}`")));
        let path = |path: &Path| text(&path.to_string_lossy());
        let interface = launch.interface.as_deref().map(text).transpose()?;
        let (mut file, mut host, mut port, mut listener) = (None, None, 0, -1);
        match &launch.meeting {
            Meeting::File(place) => file = Some(path(place)?),
            Meeting::Address { host: name, port: number, serves } => {
                (host, port) = (Some(text(name)?), c_int::from(*number));
                if *serves {
                    // The store would listen on every interface; it takes over a socket that listens on this one.
                    let socket = TcpListener::bind((name.as_str(), *number)).map_err(|e| cannot_listen(launch, &e))?;
                    listener = socket.into_raw_fd();
                }
            }
        }
        let pointer = |text: &Option<CString>| text.as_ref().map_or(null(), |text| text.as_ptr());
        let meeting = CMeeting {
            file: pointer(&file),
            host: pointer(&host),
            interface: pointer(&interface),
            port,
            listener,
            rank: launch.rank as c_int,
            size: launch.size as c_int,
            seconds: c_int::try_from(launch.timeout.as_secs().max(1)).unwrap_or(c_int::MAX),
        };
        let mut group = null_mut();
        // SAFETY: the strings outlive the call, which sets `group` to an object that is ours, or returns a message.
        unsafe { checked(dif_sr_ranks_join(&meeting, &mut group)) }.map_err(|e| nobody_came(launch, &e))?;
        let handle = NonNull::new(group).ok_or_else(|| Error::new("libtorch made no group of ranks"))?;
        let Launch { rank, size, .. } = *launch;
        Ok(Self { handle: Mutex::new(Handle(handle)), rank, size, sent: AtomicU64::new(0) })
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
        let bytes = size_of_val(own);
        self.count(bytes * (self.size - 1));
        self.call(|group| {
            let (own, all) = (own.as_ptr().cast(), all.as_mut_ptr().cast());
            // SAFETY: `own` has so many bytes and `all` as many for each member, and both outlive the call, which waits.
            unsafe { checked(dif_sr_ranks_gather(group, own, bytes as i64, all, self.size as i64)) }
        })?;
        Ok(all)
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
        let bytes = |counts: &[usize]| counts.iter().map(|n| (n * size_of::<T>()) as i64).collect::<Vec<i64>>();
        let (sent, received) = (bytes(sent), bytes(received));
        self.count(size_of_val(own) - sent[self.rank] as usize);
        self.call(|group| {
            let (own, all) = (own.as_ptr().cast(), all.as_mut_ptr().cast());
            let (sent, received) = (sent.as_ptr(), received.as_ptr());
            // SAFETY: `own` and `all` have as many bytes as `sent` and `received` add up to, these have a number for
            // every member, and all outlive the call, which waits.
            unsafe { checked(dif_sr_ranks_exchange(group, own, sent, all, received, self.size as i64)) }
        })?;
        Ok(all)
    }

    /// Makes `data` what it is at rank 0.
    ///
    /// # Errors
    /// As [`Group::gather`].
    pub fn broadcast<T: Plain>(&self, data: &mut [T]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let bytes = size_of_val(data);
        self.call(|group| {
            // SAFETY: `data` has so many bytes and outlives the call, which waits.
            unsafe { checked(dif_sr_ranks_broadcast(group, data.as_mut_ptr().cast(), bytes as i64)) }
        })
    }

    /// Bytes that this rank has sent to others by [`Group::gather`] and [`Group::exchange`].
    pub fn bytes_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn call(&self, function: impl FnOnce(*mut c_void) -> Result<()>) -> Result<()> {
        let handle = self.handle.lock().unwrap_or_else(|broken| broken.into_inner());
        function(handle.0.as_ptr()).map_err(|e| {
            Error::new(format!("another rank has ended or does not answer ({e})"))
                .hint("look for its own message; then give every rank the command again, with --resume once the run has begun")
        })
    }
}

fn cannot_listen(launch: &Launch, e: &std::io::Error) -> Error {
    Error::new(format!("rank 0 cannot listen at {}: {e}", launch.meeting))
        .hint("choose another MASTER_PORT or MASTER_ADDR")
}

fn nobody_came(launch: &Launch, e: &Error) -> Error {
    let Launch { rank, size, timeout, meeting, .. } = launch;
    Error::new(format!(
        "rank {rank} waited {} s at {meeting} for the {size} ranks of this run, and not all came ({e})",
        timeout.as_secs()
    ))
    .hint("start every rank with the same addresses, or wait longer with --ranks_timeout=SECONDS")
}
