//! What is published of a folder of records.

use std::path::{Path, PathBuf};

use super::figures::figures;
use super::records::readme;
use crate::Result;

/// A file and what it shall hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it lies.
    pub path: PathBuf,
    /// What it shall hold.
    pub text: String,
}

impl File {
    /// Whether the file holds it.
    pub fn is_written(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|found| found == self.text.as_bytes())
    }
}

/// Every file that follows from the records in `folder`: the README with its tables, and the figures.
///
/// # Errors
/// A page without its markers; records or forms of figures that cannot be read, or that do not belong together.
pub fn published(folder: &Path) -> Result<Vec<File>> {
    let readme = File { path: folder.join("README.md"), text: readme(folder)? };
    Ok(std::iter::once(readme).chain(figures(folder)?).collect())
}
