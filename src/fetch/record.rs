//! What a data set came from and consists of, and the digests that tell.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::Digest;

use crate::tensors::{Digested, hex};
use crate::{Error, Result};

/// The record's file in a data set's folder.
pub(super) const RECORD: &str = "source.json";
/// This program with its version.
pub(super) const PROGRAM: &str = concat!("dif-sr ", env!("CARGO_PKG_VERSION"));

/// What a data set came from and consists of: the file `source.json` in its folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// RecBole's name.
    pub dataset: String,
    /// When, in UTC.
    pub fetched: String,
    /// The program that converted it.
    pub program: String,
    /// What was downloaded.
    pub archives: Vec<Archive>,
    /// What was written.
    pub files: Vec<Written>,
    /// Products left out because their id was there before.
    pub repeated_items: u64,
}

/// An archive as it was downloaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Archive {
    /// The name of the file.
    pub name: String,
    /// Where it was asked for.
    pub url: String,
    /// Where the server's redirects led.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirected_to: Option<String>,
    /// As the server said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
    /// Its size.
    pub bytes: u64,
    /// Its digest, in hexadecimal digits.
    pub sha256: String,
}

/// A file of the data set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Written {
    /// The name of the file.
    pub name: String,
    /// Without the header.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its digest, in hexadecimal digits.
    pub sha256: String,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// A text that is none.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| {
            let hint = "put the file back as it was written, or move the data set away";
            Error::new(format!("expected the record of a fetched data set, found: {e}")).at(path).hint(hint)
        })
    }
}

impl Written {
    /// A file that was written, with so many rows.
    pub(super) fn of(path: &Path, rows: u64) -> Result<Self> {
        let (bytes, sha256) = digest(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, rows, bytes, sha256 })
    }
}

/// Size and SHA-256 of a file.
pub(super) fn digest(path: &Path) -> Result<(u64, String)> {
    let cannot_read = |e| Error::io(path, "read the file", e);
    let (file, mut digest) = (File::open(path).map_err(cannot_read)?, Digested::default());
    let bytes = std::io::copy(&mut BufReader::with_capacity(1 << 16, file), &mut digest).map_err(cannot_read)?;
    Ok((bytes, hex(&digest.0.finalize())))
}
