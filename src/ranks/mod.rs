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
//! | `group` | exchanges of numbers, over a transport: `gloo`, libtorch's c10d, or `mpi` |
//! | [`tree`] | the order of sums |
//! | [`team`] | who of all threads has what, and sums over them |
//! | [`agreement`] | what ranks must agree on, and stopping together |
//!
//! docs/scale.md says how to start ranks.

pub mod agreement;
mod gloo;
mod group;
pub mod launch;
mod mpi;
pub mod team;
pub mod tree;

use std::sync::Arc;
use std::time::Duration;

pub use self::agreement::{Fact, StopTogether};
use self::gloo::Gloo;
use self::group::Group;
pub use self::group::Plain;
use self::launch::{Environment, expect_mpirun};
pub use self::launch::{Launch, Launcher, local_rank, refuse_launched};
use self::mpi::Mpi;
pub use self::team::Team;
pub use self::tree::Tree;
use crate::Result;

/// The ranks of a run, as one of them sees them.
#[derive(Debug, Clone)]
pub struct Ranks {
    rank: usize,
    size: usize,
    /// `None` of one process alone.
    group: Option<Arc<Group>>,
}

impl Ranks {
    /// A run in one process.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, group: None }
    }

    /// Waits until all ranks of a launch have come.
    ///
    /// # Errors
    /// The place of the meeting is taken or cannot be reached; a rank that does not come in time.
    pub fn join(launch: &Launch) -> Result<Self> {
        let Launch { rank, size, .. } = *launch;
        let group = if size > 1 { Some(Arc::new(Group::new(Gloo::join(launch)?, rank, size))) } else { None };
        Ok(Self { rank, size, group })
    }

    /// Joins the ranks of an MPI job, as its launcher has numbered them. A rank waits for another as long as `timeout` in
    /// every exchange.
    ///
    /// # Errors
    /// No MPI library, or another one than the launcher's; no launcher.
    pub fn join_mpi(timeout: Duration, of: Environment) -> Result<Self> {
        let (mpi, rank, size) = Mpi::join(timeout, of)?;
        if size == 1 {
            Group::new(mpi, rank, size).leave()?;
            return expect_mpirun(of).map(|()| Self::alone());
        }
        Ok(Self { rank, size, group: Some(Arc::new(Group::new(mpi, rank, size))) })
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
        self.group.is_none()
    }

    /// Bytes that this rank has sent to others so far.
    pub fn bytes_sent(&self) -> u64 {
        self.group.as_ref().map_or(0, |group| group.bytes_sent())
    }

    /// Every rank's `own`, all of one length, in the order of the ranks.
    ///
    /// # Errors
    /// A rank that has ended, or does not answer in time; likewise below.
    pub fn gather<T: Plain>(&self, own: &[T]) -> Result<Vec<T>> {
        match &self.group {
            None => Ok(own.to_vec()),
            Some(group) => group.gather(own),
        }
    }

    /// What every rank has for this one, in their order; `sent` and `received` are the numbers of elements by rank.
    ///
    /// # Errors
    /// As above.
    pub fn exchange<T: Plain>(&self, own: &[T], sent: &[usize], received: &[usize]) -> Result<Vec<T>> {
        match &self.group {
            None => Ok(own.to_vec()),
            Some(group) => group.exchange(own, sent, received),
        }
    }

    /// Makes `data` what it is at rank 0.
    ///
    /// # Errors
    /// As above.
    pub fn broadcast<T: Plain>(&self, data: &mut [T]) -> Result<()> {
        self.group.as_ref().map_or(Ok(()), |group| group.broadcast(data))
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
        self.group.as_ref().map_or(Ok(()), |group| group.leave())
    }

    /// Waits until all ranks have come this far.
    ///
    /// # Errors
    /// As above.
    pub fn wait(&self) -> Result<()> {
        self.any(false).map(drop)
    }
}
