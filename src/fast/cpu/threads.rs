//! The threads of the fast path, and what each has to itself.

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::batch::attribute::Attribute;
use super::batch::micro_batch::ClassIndex;
use super::encoder::{Activations, Scratch};
use super::params::grads::Grads;
use super::rank::float32::Products;
use crate::{Error, Result};

/// What a thread has to itself.
#[derive(Debug)]
pub struct Worker {
    pub classes: ClassIndex,
    pub scratch: Scratch,
    /// Its part of the gradient.
    pub grads: Grads,
    /// The micro-batch of an evaluation.
    pub activations: Activations,
    /// The scores of an evaluation.
    pub products: Products,
}

impl Worker {
    /// `len`: the length of the flat gradient.
    pub fn new(attributes: &[Attribute], len: usize) -> Self {
        Self {
            classes: ClassIndex::new(attributes),
            scratch: Scratch::default(),
            grads: Grads { flat: vec![0.0; len], ..Grads::default() },
            activations: Activations::default(),
            products: Products::default(),
        }
    }
}

/// Threads in each of which libtorch computes alone: its own threads would only be in the way.
///
/// # Errors
/// The system starts no more threads.
pub fn pool(threads: usize) -> Result<ThreadPool> {
    let own = tch::get_num_threads();
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .start_handler(|_| {
            // Libtorch sets a thread up when it is first asked, and would otherwise undo the line below, with the number
            // that another pool may have left for the process.
            tch::get_num_threads();
            tch::set_num_threads(1);
        })
        .build()
        .map_err(|e| Error::new(format!("could not start {threads} threads ({e})")).hint("set `threads` lower"))?;
    // The number is also the process's default.
    pool.broadcast(|_| ());
    tch::set_num_threads(own);
    Ok(pool)
}
