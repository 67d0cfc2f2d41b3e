//! MPI, by the library that is there at run time: Open MPI, MPICH and its kin, or one with the standard ABI of MPI 5. They
//! differ in a few constants.
//!
//! MPI itself waits without end and without sleep, so that collectives are begun here, and asked for between naps. A rank
//! that dies is the launcher's matter, which ends the others.

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::launch::Environment;
use super::transport::Transport;
use crate::{Error, Result};

/// Names the library where there are several.
const LIBRARY: &str = "DIF_SR_MPI_LIBRARY";
/// Between two questions whether an exchange is over.
const NAP: Duration = Duration::from_micros(50);
/// Bytes of a message, which MPI counts in an `int`.
const MOST: usize = 1 << 30;

/// Of a communicator, a type or a request: a pointer, or an `int` in its lower half.
type Handle = usize;

/// The ranks of an MPI job.
#[derive(Debug)]
pub struct Mpi {
    /// Never closed.
    library: &'static Library,
    /// All ranks.
    world: Handle,
    byte: Handle,
    timeout: Duration,
}

/// Calls a function of the library with values of its own types.
macro_rules! call {
    ($mpi:expr, $name:literal $(, $value:expr => $kind:ty)*) => {{
        // SAFETY: MPI's own signature. What the values point to outlives the call, and buffers outlive their request.
        let code = unsafe {
            let name = concat!($name, "\0").as_bytes();
            let function = $mpi.library.get::<unsafe extern "C" fn($($kind),*) -> c_int>(name);
            function.map_err(|e| Error::new(format!("the MPI library has no {}: {e}", $name)))?($($value),*)
        };
        if code == 0 { Ok(()) } else { Err(Error::new(format!("{} returned {code}", $name))) }
    }};
}

impl Mpi {
    /// Joins the job of this process's launcher, which says which rank of how many this is.
    ///
    /// # Errors
    /// No MPI library, or another one than the launcher's.
    pub fn join(timeout: Duration, of: Environment) -> Result<(Self, usize, usize)> {
        let names = match (of(LIBRARY), of("OMPI_COMM_WORLD_SIZE")) {
            (Some(name), _) => vec![name],
            (None, Some(_)) => vec!["libmpi.so.40".to_owned()],
            (None, None) => {
                ["mpich.so.12", "mpi.so.12", "mpi_abi.so.0", "mpi_abi.so.1"].map(|n| format!("lib{n}")).to_vec()
            }
        };
        // SAFETY: opening runs the library's own initialisers alone.
        let open = |name: &String| unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }.ok();
        let library = names.iter().find_map(open).ok_or_else(|| {
            Error::new(format!("expected the MPI library of a launcher, found none of {}", names.join(", ")))
                .hint(format!("start the ranks by mpirun, with its library's path in {LIBRARY} (docs/scale.md)"))
        })?;
        let library: &'static Library = Box::leak(Box::new(library));
        let [mut rank, mut size, mut major, mut minor] = [0 as c_int; 4];
        // MPICH's constants, which are its own ABI's.
        let mut mpi = Self { library, world: 0x4400_0000, byte: 0x4c00_010d, timeout };
        let mut serialized = 2;
        // SAFETY: the addresses alone are used.
        let address = |name: &[u8]| unsafe { library.get::<*mut c_void>(name) }.ok().map(|s| s.into_raw() as Handle);
        if let Some((world, byte)) = address(b"ompi_mpi_comm_world\0").zip(address(b"ompi_mpi_byte\0")) {
            (mpi.world, mpi.byte) = (world, byte);
        } else if address(b"MPI_Abi_get_version\0").is_some() {
            call!(mpi, "MPI_Abi_get_version", &mut major => *mut c_int, &mut minor => *mut c_int)?;
            if major > 0 {
                (mpi.world, mpi.byte, serialized) = (0x101, 0x247, 2048);
            }
        }
        let (none, level) = (null_mut::<c_void>(), &mut major);
        call!(mpi, "MPI_Init_thread", none => *mut c_void, none => *mut c_void, serialized => c_int, level => *mut c_int)?;
        if major < serialized {
            return Err(Error::new("expected an MPI library with MPI_THREAD_SERIALIZED, found one without"));
        }
        call!(mpi, "MPI_Comm_rank", mpi.world => Handle, &mut rank => *mut c_int)?;
        call!(mpi, "MPI_Comm_size", mpi.world => Handle, &mut size => *mut c_int)?;
        match of("OMPI_COMM_WORLD_SIZE").or_else(|| of("PMI_SIZE")).filter(|launched| *launched != size.to_string()) {
            None => Ok((mpi, rank as usize, size as usize)),
            Some(launched) => Err(Error::new(format!("expected the {launched} ranks of the launcher, found {size}"))
                .hint(format!("name the library of the same MPI as mpirun in {LIBRARY}"))),
        }
    }

    /// Waits for the end of what was begun.
    fn finish(&self, mut request: Handle) -> Result<()> {
        let (begin, mut done, mut status) = (Instant::now(), 0, [0_u64; 32]);
        loop {
            let status = status.as_mut_ptr();
            call!(self, "MPI_Test", &mut request => *mut Handle, &mut done => *mut c_int, status => *mut u64)?;
            match done {
                0 if begin.elapsed() > self.timeout => {
                    return Err(Error::new(format!("waited {} s", self.timeout.as_secs())));
                }
                0 => std::thread::sleep(NAP),
                _ => return Ok(()),
            }
        }
    }
}

impl Transport for Mpi {
    fn gather(&mut self, own: &[u8], all: &mut [u8]) -> Result<()> {
        let (n, mut request) = (counted(&[own.len()])?[0], 0);
        let (own, all) = (own.as_ptr(), all.as_mut_ptr());
        call!(self, "MPI_Iallgather", own => *const u8, n => c_int, self.byte => Handle, all => *mut u8, n => c_int,
            self.byte => Handle, self.world => Handle, &mut request => *mut Handle)?;
        self.finish(request)
    }

    fn exchange(&mut self, own: &[u8], sent: &[usize], all: &mut [u8], received: &[usize]) -> Result<()> {
        let starts = |counts: &[usize]| {
            let starts = counts.iter().scan(0, |end, n| {
                *end += n;
                Some(*end - n)
            });
            counted(&starts.collect::<Vec<_>>())
        };
        let (from, to, n_sent, n_received) = (starts(sent)?, starts(received)?, counted(sent)?, counted(received)?);
        let (from, to, n_sent, n_received) = (from.as_ptr(), to.as_ptr(), n_sent.as_ptr(), n_received.as_ptr());
        let (own, all, mut request) = (own.as_ptr(), all.as_mut_ptr(), 0);
        call!(self, "MPI_Ialltoallv", own => *const u8, n_sent => *const c_int, from => *const c_int, self.byte => Handle,
            all => *mut u8, n_received => *const c_int, to => *const c_int, self.byte => Handle, self.world => Handle,
            &mut request => *mut Handle)?;
        self.finish(request)
    }

    fn broadcast(&mut self, data: &mut [u8]) -> Result<()> {
        data.chunks_mut(MOST).try_for_each(|part| {
            let (n, mut copy, mut request) = (part.len() as c_int, ManuallyDrop::new(part.to_vec()), 0);
            call!(self, "MPI_Ibcast", copy.as_mut_ptr() => *mut u8, n => c_int, self.byte => Handle, 0 => c_int,
                self.world => Handle, &mut request => *mut Handle)?;
            // Without an end others may still write: the copy is then theirs.
            self.finish(request)?;
            part.copy_from_slice(&ManuallyDrop::into_inner(copy));
            Ok(())
        })
    }

    fn leave(&mut self) -> Result<()> {
        call!(self, "MPI_Finalize")
    }
}

/// Numbers and places of bytes as MPI counts them.
fn counted(numbers: &[usize]) -> Result<Vec<c_int>> {
    let count = |&n: &usize| {
        c_int::try_from(n).map_err(|_| {
            Error::new(format!("MPI takes less than 2 GiB at once, and this needs {n} bytes: use --ranks=env"))
        })
    };
    numbers.iter().map(count).collect()
}
