//! A run's folder and its files: made, appended to, and locked.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Makes the folder `name` in `parent`; runs that start in the same second get `-2`, `-3`, … behind it.
pub fn new_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).map_err(|e| cannot_make(parent, e))?;
    let mut number = 1;
    loop {
        let path = parent.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
        // Whoever makes it owns it.
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(cannot_make(&path, e)),
        }
    }
}

pub fn cannot_make(path: &Path, e: std::io::Error) -> Error {
    Error::io(path, "make the run folder", e).hint("choose another place with --out or checkpoint_dir")
}

/// What to do about a file that is not as the run needs it to go on.
pub const AS_LEFT: &str = "put the file back as the run left it";

/// Opens a file to append to it, and makes one that is not there only if `make` is set.
pub fn append(path: &Path, make: bool) -> Result<File> {
    OpenOptions::new().create(make).append(true).open(path).map_err(|e| {
        let hint = match e.kind() {
            ErrorKind::NotFound => AS_LEFT,
            _ => "check the folder's permissions and the free space",
        };
        Error::io(path, "open the file", e).hint(hint)
    })
}

/// Appends a line in one call, so that a full disk is the only thing that can leave a part of it.
pub fn append_line(file: &mut File, line: &str) -> std::io::Result<()> {
    file.write_all(format!("{line}\n").as_bytes())
}

/// Takes away what a full disk left of a last line in a file that no checkpoint measures.
pub fn end_with_a_line(path: &Path, file: &File) -> Result<()> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, "read the file", e))?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(whole as u64).map_err(|e| Error::io(path, "cut the file", e))
}

/// Sees to it that no other process begins to work in the run folder as long as the file is held; changes nothing in it.
///
/// # Errors
/// A process that is at work in it.
pub fn watch(folder: &Path) -> Result<Option<File>> {
    // Without a lock file, in a copy say, nobody is at work.
    let Ok(file) = File::open(folder.join(LOCK)) else { return Ok(None) };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Err(Error::new("expected a run at rest, found another process at work in it")
            .at(folder)
            .hint("wait for its end, or interrupt it")),
        _ => Ok(Some(file)),
    }
}

/// Locked in a run folder as long as a process is at work in it.
pub const LOCK: &str = "lock";

/// The folder's lock file, locked: the operating system lets go of it when the process ends.
pub fn lock(folder: &Path) -> Result<File> {
    try_lock(&folder.join(LOCK))?.ok_or_else(|| {
        Error::new("expected a run folder to itself, found another process at work in it")
            .at(folder)
            .hint("wait for its end, or choose another folder")
    })
}

/// A file that is made if it is not there, locked until it is dropped; `None` while another process holds it.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = append(path, true)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(Error::io(path, "lock the file", e).hint("use a file system with locks")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let names: Vec<String> = (0..3)
            .map(|_| new_folder(&parent.path().join("runs"), "toy-1").unwrap_or_else(|e| panic!("{e}")))
            .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["toy-1", "toy-1-2", "toy-1-3"]);
    }
}
