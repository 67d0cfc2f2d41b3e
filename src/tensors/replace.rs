//! Files that are complete or as they were before at every moment.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Result};

/// Replaces a file's content: written beside it, flushed to the disk, then renamed over it. A link stays one, and what is no
/// file, a pipe or a terminal, is written into.
///
/// # Errors
/// The disk is full or the folder read-only; the file is as it was before.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    if is_no_file(path) {
        return fs::write(path, content).map_err(|e| Error::unwritable(path, e));
    }
    replace_by(path, |file| file.write_all(content).map_err(|e| Error::unwritable(path, e)))
}

/// The same with a value as indented JSON and a line end.
///
/// # Errors
/// As [`replace`].
pub fn replace_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("files hold nothing that JSON cannot");
    replace(path, format!("{text}\n").as_bytes())
}

/// The same with a content that `write` writes into the new file; it tells its own errors.
pub(super) fn replace_by<T>(path: &Path, write: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
    let (path, part) = with_part(path);
    let path = path.as_path();
    let unwritable = |e| Error::unwritable(path, e);
    let written = || {
        let mut file = File::create(&part).map_err(unwritable)?;
        let written = write(&mut file)?;
        file.sync_all().and_then(|()| rename(&part, path)).map_err(unwritable)?;
        Ok(written)
    };
    // Best effort: what could not be written is not worth keeping, and the first error is the one to tell.
    written().inspect_err(|_| _ = fs::remove_file(&part))
}

/// Replaces a file by a copy of another.
///
/// # Errors
/// As [`replace`]; the other cannot be read.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(from).map_err(|e| Error::io(from, "read the file", e))?;
    replace_by(to, |file| std::io::copy(&mut source, file).map(drop).map_err(|e| Error::unwritable(to, e)))
}

/// A pipe or a terminal, say.
pub(super) fn is_no_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|to| !to.is_file() && !to.is_dir())
}

/// Where a file really is, links followed, and what is written beside it first.
fn with_part(path: &Path) -> (PathBuf, PathBuf) {
    let mut path = path.to_owned();
    // Also a link to what is not there yet. No path has more links, or the system refuses it.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else { break };
        path = path.with_file_name("").join(to);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    (path, part)
}

/// Makes the folder of a file that [`replace`] shall write later, and tries whether it can be written there: for before long work.
///
/// # Errors
/// A folder of that name, and all that [`replace`] could say already now.
pub fn make_place(path: &Path) -> Result<()> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(Error::new("expected the name of a file, found a folder").at(path).hint("add a file's name"));
    }
    if path.exists() && !path.is_file() {
        return Ok(());
    }
    let (path, part) = with_part(path);
    let try_it = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create(&part)?;
        fs::remove_file(&part)
    };
    try_it().map_err(|e| Error::unwritable(path, e))
}

/// Refuses a place where something would be lost: there may be no file, an empty one, as a CI job has for its summary, or
/// a former `what`, which holds the text `generator`. A device or a pipe is written into, and never read: it may have no
/// end.
///
/// # Errors
/// Another file.
pub fn refuse_foreign(path: &Path, what: &str, generator: &str) -> Result<()> {
    let is_ours = |text: String| text.trim().is_empty() || text.contains(generator);
    if !path.is_file() || fs::read_to_string(path).is_ok_and(is_ours) {
        return Ok(());
    }
    Err(Error::new(format!("expected no file or a former {what}, found another file"))
        .at(path)
        .hint(format!("choose another place for the {what}")))
}

/// Renames a file; the new name outlasts a power failure where the file system can promise it.
///
/// # Errors
/// The operating system's.
pub fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}
