//! Libtorch's c10d with gloo: ranks find each other by a store, and exchange bytes over TCP.
//!
//! Gloo waits for its peers asleep, so that ranks which share a busy machine leave it to each other. It knows no
//! authentication: whoever reaches its sockets can take part (docs/scale.md).

use std::ffi::{CString, c_char, c_int, c_void};
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::ptr::{NonNull, null, null_mut};
use std::time::{Duration, Instant};

use super::launch::{Launch, Meeting};
use super::transport::Transport;
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

/// The C++ object, which is ours.
#[derive(Debug)]
pub struct Gloo(NonNull<c_void>);

// SAFETY: a process group belongs to no thread; its owner calls one function at a time.
unsafe impl Send for Gloo {}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: `dif_sr_ranks_join` made it, and nobody else has it.
        unsafe { dif_sr_ranks_leave(self.0.as_ptr()) }
    }
}

impl Gloo {
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
        let (mut group, begin) = (null_mut(), Instant::now());
        // SAFETY: the strings outlive the call, which sets `group` to an object that is ours, or returns a message.
        unsafe { checked(dif_sr_ranks_join(&meeting, &mut group)) }
            .map_err(|e| nobody_came(launch, begin.elapsed(), &e))?;
        let handle = NonNull::new(group).ok_or_else(|| Error::new("libtorch made no group of ranks"))?;
        Ok(Self(handle))
    }
}

impl Transport for Gloo {
    fn gather(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
        let (n, size) = (own.len() as i64, (all.len() / own.len()) as i64);
        // SAFETY: `own` has n bytes and `all` as many for each member, and both outlive the call, which waits.
        unsafe { checked(dif_sr_ranks_gather(self.0.as_ptr(), own.as_ptr().cast(), n, all.as_mut_ptr().cast(), size)) }
    }

    fn exchange(&mut self, own: &[u8], sent: &[usize], all: &mut [u8], received: &[usize]) -> Result<()> {
        let [sent, received] = [sent, received].map(|counts| counts.iter().map(|&n| n as i64).collect::<Vec<_>>());
        let (own, all) = (own.as_ptr().cast(), all.as_mut_ptr().cast());
        let (from, to, size) = (sent.as_ptr(), received.as_ptr(), sent.len() as i64);
        // SAFETY: `own` and `all` have as many bytes as `sent` and `received` add up to, these have a number for every
        // member, and all outlive the call, which waits.
        unsafe { checked(dif_sr_ranks_exchange(self.0.as_ptr(), own, from, all, to, size)) }
    }

    fn broadcast(&mut self, data: &mut [u8]) -> Result<()> {
        // SAFETY: `data` has so many bytes and outlives the call, which waits.
        unsafe { checked(dif_sr_ranks_broadcast(self.0.as_ptr(), data.as_mut_ptr().cast(), data.len() as i64)) }
    }
}

fn cannot_listen(launch: &Launch, e: &std::io::Error) -> Error {
    Error::new(format!("rank 0 cannot listen at {}: {e}", launch.meeting))
        .hint("choose another MASTER_PORT or MASTER_ADDR")
}

fn nobody_came(launch: &Launch, waited: Duration, e: &Error) -> Error {
    let Launch { rank, size, timeout, meeting, .. } = launch;
    if waited < *timeout {
        return Error::new(format!("rank {rank} cannot meet the {size} ranks of this run at {meeting} ({e})"))
            .hint("give every rank the same addresses, and an interface in GLOO_SOCKET_IFNAME that its host has");
    }
    Error::new(format!(
        "rank {rank} waited {} s at {meeting} for the {size} ranks of this run, and not all came ({e})",
        timeout.as_secs()
    ))
    .hint(
        "start every rank with the same addresses, set GLOO_SOCKET_IFNAME where they are on several hosts, or wait longer \
         with --ranks_timeout=SECONDS",
    )
}
