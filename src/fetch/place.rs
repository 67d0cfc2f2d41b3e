//! Where a data set is made and where it goes: unfinished work lies in `<data set>.part`, under a lock, and becomes the data set in one
//! step. What is there is never overwritten.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::record::{self, RECORD, Record};
use super::sources::Source;
use crate::tensors::{rename, replace_json};
use crate::{Error, Result};

/// The record of the data set that is in its place, its files being as the record says; `None` if nothing is there.
///
/// # Errors
/// Something else is there, or files that have changed or are missing.
pub fn look(folder: &Path, source: &Source) -> Result<Option<Record>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(folder, "read the folder", e).hint("choose another place with --to")),
    };
    if entries.count() == 0 {
        return Ok(None);
    }
    let path = folder.join(RECORD);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(Error::new(format!("expected nothing, or a data set with its {RECORD}, found other files"))
                .at(folder)
                .hint("nothing is overwritten: choose another place with --to, or move the folder away"));
        }
        Err(e) => return Err(Error::io(&path, "read the file", e)),
    };
    let record = Record::parse(&path, &text)?;
    if record.dataset != source.dataset {
        let problem = format!("expected `{}` as `dataset`, found `{}`", source.dataset, record.dataset);
        return Err(Error::new(problem).at(&path).hint("move the folder away"));
    }
    for name in source.files() {
        let Some(expected) = record.files.iter().find(|file| file.name == name).map(|file| &*file.sha256) else {
            let problem = format!("expected the SHA-256 of {name} under `files`, found none");
            return Err(Error::new(problem).at(&path).hint("put the file back as it was written"));
        };
        let file = folder.join(name);
        let (_, found) = record::digest(&file).map_err(|e| e.hint("move the data set away to fetch it anew"))?;
        if found != expected {
            let problem = format!("expected SHA-256 {expected}, as its {RECORD} says, found {found}");
            return Err(Error::new(problem)
                .at(&file)
                .hint("nothing is overwritten: move the data set away to fetch it anew"));
        }
    }
    Ok(Some(record))
}

/// The folder of a data set's unfinished work in `to`.
pub fn part(to: &Path, source: &Source) -> PathBuf {
    to.join(format!("{}.part", source.dataset))
}

/// The folder of unfinished work, held by this process alone.
#[derive(Debug)]
pub struct Place {
    part: PathBuf,
    /// The data set as it will be, without its record as long as it is not complete.
    made: PathBuf,
    /// Held until the place is dropped or the process ends, however it ends.
    _lock: File,
}

impl Place {
    /// Makes or finds the folder of unfinished work in `to`.
    ///
    /// # Errors
    /// Another process is at work in it; the folder cannot be made.
    pub fn open(to: &Path, source: &Source) -> Result<Self> {
        let part = part(to, source);
        let cannot_make = |e| Error::io(&part, "make the folder", e).hint("choose another place with --to");
        let path = part.join("lock");
        loop {
            fs::create_dir_all(&part).map_err(cannot_make)?;
            let file = match OpenOptions::new().create(true).append(true).open(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                opened => opened.map_err(cannot_make)?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new("expected the folder to itself, found another process at work in it")
                        .at(&part)
                        .hint("wait for its end, or choose another place with --to"));
                }
                Err(TryLockError::Error(e)) => {
                    return Err(Error::io(&path, "lock the file", e).hint("use a file system with locks"));
                }
            }
            // Whoever had the lock before may have finished, and removed the folder.
            let same =
                |there: fs::Metadata| file.metadata().is_ok_and(|m| (m.dev(), m.ino()) == (there.dev(), there.ino()));
            if fs::metadata(&path).is_ok_and(same) {
                return Ok(Self { made: part.join(source.dataset), part, _lock: file });
            }
        }
    }

    /// Where an archive lies once it is complete.
    pub fn archive(&self, name: &str) -> PathBuf {
        self.part.join(name)
    }

    /// Where an archive lies that is not.
    pub fn partial(&self, name: &str) -> PathBuf {
        self.part.join(format!("{name}.part"))
    }

    /// What is known of an archive.
    pub fn state(&self, name: &str) -> PathBuf {
        self.part.join(format!("{name}.json"))
    }

    /// Removes an archive, whole or not. What cannot be removed is found to be wrong again.
    pub fn forget(&self, name: &str) {
        for path in [self.archive(name), self.partial(name), self.state(name)] {
            let _ = fs::remove_file(path);
        }
    }

    /// Where a file of the data set is made.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        fs::create_dir_all(&self.made).map_err(|e| Error::io(&self.made, "make the folder", e))?;
        Ok(self.made.join(name))
    }

    /// Puts the data set into its place, and removes the rest.
    ///
    /// # Errors
    /// Files cannot be moved.
    pub fn finish(self, folder: &Path, record: &Record) -> Result<()> {
        replace_json(&self.made.join(RECORD), record)?;
        rename(&self.made, folder).map_err(|e| Error::io(folder, "move the data set into its place", e))?;
        self.remove()
    }

    /// Removes the folder of unfinished work.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.part).map_err(|e| Error::io(&self.part, "remove the folder", e))
    }
}
