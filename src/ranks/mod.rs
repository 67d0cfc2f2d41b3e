//! Several processes that train one model: the ranks of a run.
//!
//! R ranks of T threads are one process of R · T threads, to the bit: what a thread does follows from its number in the
//! [`Team`], and sums have one order ([`Tree`]), whichever processes the summands are in. A library's allreduce has an
//! order of its own for more than two ranks, hence sums are made of two collectives that only move bytes: `exchange`
//! (alltoall), a sum in order, `gather` (allgather).
//!
//! | | |
//! | --- | --- |
//! | [`launch`] | which rank a process is, as `torchrun`, `srun` or variables say |
//! | `transport` | what moves numbers: `gloo`, libtorch's c10d, or `mpi` |
//! | [`tree`] | the order of sums |
//! | [`team`] | who of all threads has what, and sums over them |
//! | [`agreement`] | what ranks must agree on |
//!
//! docs/scale.md says how to start ranks.

pub mod agreement;
mod gloo;
pub mod launch;
mod mpi;
pub mod team;
mod transport;
pub mod tree;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::gloo::Gloo;
use self::launch::{Environment, expect_mpirun};
pub use self::launch::{Launch, Launcher, local_rank, refuse_launched};
use self::mpi::Mpi;
pub use self::team::Team;
pub use self::transport::Plain;
use self::transport::{Transport, bytes, bytes_mut, received_in};
pub use self::tree::Tree;
use crate::{Error, Result};

/// The ranks of a run, as one of them sees them.
#[derive(Debug, Clone)]
pub struct Ranks {
    rank: usize,
    size: usize,
    /// `None` of one process alone.
    link: Option<Arc<Link>>,
}

/// A rank's way to the others.
#[derive(Debug)]
struct Link {
    /// Held during a call.
    transport: Mutex<Box<dyn Transport>>,
    /// Bytes that this rank has sent to others.
    sent: AtomicU64,
}

impl Link {
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

impl Ranks {
    /// A run in one process.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, link: None }
    }

    fn linked(transport: impl Transport + 'static, rank: usize, size: usize) -> Self {
        let link = Link { transport: Mutex::new(Box::new(transport)), sent: AtomicU64::new(0) };
        Self { rank, size, link: Some(Arc::new(link)) }
    }

    /// Waits until all ranks of a launch have come.
    ///
    /// # Errors
    /// The place of the meeting is taken or cannot be reached; a rank that does not come in time.
    pub fn join(launch: &Launch) -> Result<Self> {
        let Launch { rank, size, .. } = *launch;
        if size > 1 { Ok(Self::linked(Gloo::join(launch)?, rank, size)) } else { Ok(Self::alone()) }
    }

    /// Joins the ranks of an MPI job, as its launcher has numbered them. A rank waits for another as long as `timeout` in
    /// every exchange.
    ///
    /// # Errors
    /// No MPI library, or another one than the launcher's; no launcher.
    pub fn join_mpi(timeout: Duration, of: Environment) -> Result<Self> {
        let (mpi, rank, size) = Mpi::join(timeout, of)?;
        let ranks = Self::linked(mpi, rank, size);
        if size > 1 {
            return Ok(ranks);
        }
        ranks.leave()?;
        expect_mpirun(of).map(|()| Self::alone())
    }

    /// Which one this process is, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is rank 0, which owns the run folder.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Whether the run is in one process.
    pub fn is_alone(&self) -> bool {
        self.link.is_none()
    }

    /// Bytes that this rank has sent to others by [`Ranks::gather`] and [`Ranks::exchange`].
    pub fn bytes_sent(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.sent.load(Ordering::Relaxed))
    }

    /// Every rank's `own`, all of one length, in the order of the ranks.
    ///
    /// # Errors
    /// A rank that has ended, or does not answer in time; likewise below.
    pub fn gather<T: Plain>(&self, own: &[T]) -> Result<Vec<T>> {
        let Some(link) = &self.link else { return Ok(own.to_vec()) };
        let mut all = vec![T::default(); own.len() * self.size];
        if own.is_empty() {
            return Ok(all);
        }
        link.count(size_of_val(own) * (self.size - 1));
        let done = link.call(|transport| transport.gather(bytes(own), bytes_mut(&mut all)));
        received_in(all, done)
    }

    /// What every rank has for this one, in their order: `own` is what this rank has for each, `sent` and `received` are the
    /// numbers of elements by rank.
    ///
    /// # Errors
    /// As above.
    ///
    /// # Panics
    /// `sent` does not add up to the length of `own`.
    pub fn exchange<T: Plain>(&self, own: &[T], sent: &[usize], received: &[usize]) -> Result<Vec<T>> {
        let Some(link) = &self.link else { return Ok(own.to_vec()) };
        assert!(sent.len() == self.size && received.len() == self.size, "a number for every rank");
        assert_eq!(sent.iter().sum::<usize>(), own.len(), "what is sent is what there is");
        let mut all = vec![T::default(); received.iter().sum()];
        let [sent, received] = [sent, received].map(|n| n.iter().map(|n| n * size_of::<T>()).collect::<Vec<_>>());
        link.count(size_of_val(own) - sent[self.rank]);
        let done = link.call(|transport| transport.exchange(bytes(own), &sent, bytes_mut(&mut all), &received));
        received_in(all, done)
    }

    /// Makes `data` what it is at rank 0.
    ///
    /// # Errors
    /// As above.
    pub fn broadcast<T: Plain>(&self, data: &mut [T]) -> Result<()> {
        let link = self.link.as_ref().filter(|_| !data.is_empty());
        link.map_or(Ok(()), |link| link.call(|transport| transport.broadcast(bytes_mut(data))))
    }

    /// What rank 0 gives, of any length; the others' is ignored.
    ///
    /// # Errors
    /// As above.
    pub fn from_first(&self, own: Vec<u8>) -> Result<Vec<u8>> {
        if self.is_alone() {
            return Ok(own);
        }
        let mut length = [own.len() as u64];
        self.broadcast(&mut length)?;
        let mut bytes = if self.is_first() { own } else { vec![0; length[0] as usize] };
        self.broadcast(&mut bytes)?;
        Ok(bytes)
    }

    /// The end of all exchanges, which every rank has come to: a launcher of MPI takes it for a crash if one ends without.
    ///
    /// # Errors
    /// As above.
    pub fn leave(&self) -> Result<()> {
        self.link.as_ref().map_or(Ok(()), |link| link.call(|transport| transport.leave()))
    }

    /// Waits until all ranks have come this far.
    ///
    /// # Errors
    /// As above.
    pub fn wait(&self) -> Result<()> {
        self.any(false).map(drop)
    }
}
