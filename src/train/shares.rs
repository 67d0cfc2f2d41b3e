//! The rows of the item embedding that other ranks have, for the files that rank 0 writes and reads.
//!
//! Rank 0 alone knows when it writes or reads a file. The others serve it meanwhile: wherever it may do so, they do as it
//! orders, until it is done. Rows travel part by part, so that no rank has the whole table.

use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::{Kind, Tensor, no_grad};

use super::Stepper;
use crate::fast::Fast;
use crate::model::names;
use crate::ranks::Ranks;
use crate::tensors::{OnDisk, Stored, Take, TensorFile};
use crate::{Error, Result};

/// The item embedding and its moments, of which each rank has its own rows.
#[derive(Debug)]
pub(super) struct Shares {
    ranks: Ranks,
    /// The rows of each rank.
    owners: Vec<Range<usize>>,
    /// H.
    width: usize,
    /// This rank's rows by their names in files.
    tensors: Vec<(String, Tensor)>,
    /// Whether an order was left half done, so that nobody knows what comes next.
    broken: AtomicBool,
}

/// Floats of a part, 4 MiB.
const PART: usize = 1 << 20;
/// Rank 0 orders nothing more. Other orders are 1 + twice the index of a tensor, and 1 more where rows go to their owners.
const DONE: u64 = 0;

impl Shares {
    /// Those of a training; `None` where every rank has all rows.
    pub fn new(stepper: &Stepper, ranks: &Ranks) -> Option<Self> {
        let Some(Fast::Cpu(fast)) = &stepper.fast else { return None };
        let owners = fast.shares()?;
        let name = names::weight(names::ITEM_EMBEDDING);
        let parameter = stepper.adam.parameters().find(|(other, _)| *other == name)?.1.shallow_clone();
        let width = parameter.size()[1] as usize;
        let moments = stepper.adam.named_state().into_iter().filter(|(other, _)| other.ends_with(&name));
        let tensors = std::iter::once((name.clone(), parameter)).chain(moments).collect();
        Some(Self { ranks: ranks.clone(), owners, width, tensors, broken: AtomicBool::new(false) })
    }

    /// Whether the tensor of this name is shared out.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|(own, _)| own == name)
    }

    /// The shape of the whole.
    fn shape(&self) -> [i64; 2] {
        [self.owners[self.owners.len() - 1].end as i64, self.width as i64]
    }

    /// Rank 0's: a whole tensor to be written, as [`Stored::tensor`] where it is not shared out. Of one that is shared out
    /// `check` looks at all bytes of a parameter.
    pub fn stored<'a>(
        shares: Option<&'a Self>,
        tensor: &'a (String, Tensor),
        check: &'a dyn Fn(&str, &[u8]) -> Result<()>,
    ) -> Stored<'a> {
        let name = &tensor.0;
        match shares.filter(|shares| shares.has(name)) {
            None => Stored::tensor(tensor),
            Some(shares) => Stored::new(name, Kind::Float, &shares.shape(), move |take| {
                let is_parameter = *name == shares.tensors[0].0;
                shares.collect(name, &mut |bytes| {
                    if is_parameter {
                        check(name, bytes)?;
                    }
                    take(bytes)
                })
            }),
        }
    }

    /// Opens a file at rank 0, which leaves there what is shared out.
    pub fn open(shares: Option<&Self>, path: &Path) -> Result<TensorFile> {
        TensorFile::open(path, |name| shares.is_some_and(|shares| shares.has(name)))
    }

    /// Checks that rank 0's file has what is shared out.
    pub fn check(&self, path: &Path, file: &TensorFile) -> Result<()> {
        let expected = (Kind::Float, self.shape().to_vec());
        for (name, _) in self.tensors.iter().filter(|_| self.ranks.is_first()) {
            let found = file.on_disk.get(name).map(|rows| (rows.kind, rows.shape.clone()));
            if found.as_ref() != Some(&expected) {
                let found = found.map_or("none".to_owned(), |found| format!("{found:?}"));
                return Err(Error::new(format!("expected {expected:?}, found {found}"))
                    .at(path)
                    .tensor(name)
                    .hint("the file belongs to another model"));
            }
        }
        Ok(())
    }

    /// Rank 0's: the bytes of all rows, in their order.
    fn collect(&self, name: &str, take: &mut Take) -> Result<()> {
        self.ordered(name, 1, |index, rank, part| {
            let values = self.bring(index, rank, part)?;
            take(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        })
    }

    /// Rank 0's: reads all rows and gives each rank its own.
    pub fn deal(&self, name: &str, from: &OnDisk) -> Result<()> {
        let unreadable = |e| Error::new(format!("cannot read the rows of {name}: {e}"));
        let mut bytes = from.bytes().map_err(unreadable)?;
        self.ordered(name, 2, |index, rank, part| {
            let mut values = vec![0; part.len() * size_of::<f32>()];
            bytes.read_exact(&mut values).map_err(unreadable)?;
            let values = values.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
            self.take(index, rank, part, values)
        })
    }

    /// Gives an order for a tensor and does the first rank's part of it.
    fn ordered(
        &self,
        name: &str,
        order: u64,
        mut each: impl FnMut(usize, usize, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let index = self.tensors.iter().position(|(own, _)| own == name).expect("a tensor that is shared out");
        self.broken.store(true, Ordering::Relaxed);
        self.ranks.broadcast(&mut [2 * index as u64 + order])?;
        self.parts().try_for_each(|(rank, part)| each(index, rank, part))?;
        self.broken.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The 2-norm of a whole tensor from that of this rank's rows; all ranks ask.
    pub fn norm(&self, own: f64) -> Result<f64> {
        Ok(self.ranks.gather(&[own])?.into_iter().map(|norm| norm * norm).sum::<f64>().sqrt())
    }

    /// Rank 0's: lets the others go on, however it went on itself. Where something was left half done they see it end.
    pub fn done<T>(shares: Option<&Self>, result: Result<T>) -> Result<T> {
        let Some(shares) = shares.filter(|shares| !shares.is_broken()) else { return result };
        let told = shares.ranks.broadcast(&mut [DONE]);
        let result = result?;
        told.map(|()| result)
    }

    /// Whether rank 0 can only end.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Does as rank 0 orders until it is done.
    ///
    /// # Errors
    /// A lost rank.
    pub fn serve(shares: Option<&Self>) -> Result<()> {
        let Some(shares) = shares else { return Ok(()) };
        loop {
            let mut order = [DONE];
            shares.ranks.broadcast(&mut order)?;
            let Some(order) = order[0].checked_sub(1) else { return Ok(()) };
            let (index, is_dealt) = ((order / 2) as usize, order % 2 == 1);
            for (rank, part) in shares.parts() {
                match is_dealt {
                    true => shares.take(index, rank, part, Vec::new())?,
                    false => _ = shares.bring(index, rank, part)?,
                }
            }
        }
    }

    /// The parts of all ranks' rows, one after the other: the rank, and which of its floats.
    fn parts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.owners.iter().enumerate().flat_map(|(rank, rows)| {
            let n = rows.len() * self.width;
            (0..n).step_by(PART).map(move |start| (rank, start..(start + PART).min(n)))
        })
    }

    /// Some floats of rank `from`'s rows, at rank 0; nothing elsewhere.
    fn bring(&self, index: usize, from: usize, part: Range<usize>) -> Result<Vec<f32>> {
        let own = match self.ranks.rank() == from {
            true => Vec::<f32>::try_from(self.of(index, &part).detach())?,
            false => Vec::new(),
        };
        self.send(own, from, 0, part.len())
    }

    /// Puts some floats that rank 0 has to rank `to`'s rows.
    fn take(&self, index: usize, to: usize, part: Range<usize>, values: Vec<f32>) -> Result<()> {
        let values = self.send(values, 0, to, part.len())?;
        if self.ranks.rank() == to {
            no_grad(|| self.of(index, &part).copy_(&Tensor::from_slice(&values)));
        }
        Ok(())
    }

    fn of(&self, index: usize, part: &Range<usize>) -> Tensor {
        self.tensors[index].1.view([-1]).narrow(0, part.start as i64, part.len() as i64)
    }

    /// `n` floats from a rank to another; all take part.
    fn send(&self, own: Vec<f32>, from: usize, to: usize, n: usize) -> Result<Vec<f32>> {
        if from == to {
            return Ok(own);
        }
        let count = |is_it: bool, other: usize| -> Vec<usize> {
            (0..self.ranks.size()).map(|rank| if is_it && rank == other { n } else { 0 }).collect()
        };
        let rank = self.ranks.rank();
        self.ranks.exchange(&own, &count(rank == from, to), &count(rank == to, from))
    }
}
