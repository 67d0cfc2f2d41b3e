//! How far work is, and whether it shall stop.

use std::sync::atomic::{AtomicBool, Ordering};

use super::lines::Lines;
use crate::{Error, Result};

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event<'a> {
    /// A line for the log.
    Note(String),
    /// So many bytes of a stage are done, of so many if that is known.
    Bytes {
        /// What is done, in a word.
        stage: &'a str,
        /// Bytes done.
        done: u64,
        /// All bytes.
        of: Option<u64>,
    },
}

/// Where work may be told to stop, and tells how far it is.
pub(super) struct Watch<'a> {
    pub stop: &'a AtomicBool,
    pub report: &'a mut dyn FnMut(&Event),
}

impl Watch<'_> {
    pub fn note(&mut self, text: impl Into<String>) {
        (self.report)(&Event::Note(text.into()));
    }

    /// # Errors
    /// An interruption, if work was told to stop.
    pub fn bytes(&mut self, stage: &str, done: u64, of: Option<u64>) -> Result<()> {
        (self.report)(&Event::Bytes { stage, done, of });
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::interruption("interrupted; run the same command again to go on"));
        }
        Ok(())
    }

    pub fn lines(&mut self, lines: &Lines, done: u64) -> Result<()> {
        let (read, size) = lines.position();
        if done.is_multiple_of(1024) { self.bytes("Convert", read, Some(size)) } else { Ok(()) }
    }
}
