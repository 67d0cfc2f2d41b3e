//! What archives must be: sizes and SHA-256 sums, from the user or from an earlier fetch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::record::{Archive, Record};
use super::sources::Source;
use crate::{Error, Result};

/// Sums by the archive's name.
#[derive(Debug, Default)]
pub struct Sums(BTreeMap<String, Sum>);

#[derive(Debug)]
struct Sum {
    sha256: String,
    /// The file that says so.
    said_by: PathBuf,
}

impl Sums {
    /// Reads what `sha256sum` prints, or the `source.json` of a data set.
    ///
    /// # Errors
    /// The file cannot be read, a line is no sum, or there is none for one of the data set's archives.
    pub fn read(path: &Path, source: &Source) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the sums", e))?;
        let mut sums = Self::default();
        if text.trim_start().starts_with('{') {
            let archives = Record::parse(path, &text)?.archives;
            archives.into_iter().try_for_each(|archive| sums.hold(archive.name, archive.sha256, path))?;
        } else {
            for (index, line) in
                text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            {
                let (sha256, name) = line.split_once(' ').unwrap_or((line, ""));
                // `*` marks files that were read as they are, which is what there is on Unix.
                let name = name.trim_start_matches([' ', '*']).trim_end();
                if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) || name.is_empty() {
                    let problem =
                        "expected the 64 hexadecimal digits of a SHA-256 and a file's name, found something else";
                    return Err(Error::new(problem)
                        .at(path)
                        .line(index as u64 + 1)
                        .hint("write the line as `sha256sum` prints it"));
                }
                let name = Path::new(name).file_name().unwrap_or_default().to_string_lossy().into_owned();
                sums.hold(name, sha256.to_lowercase(), path)?;
            }
        }
        match [source.reviews, source.metadata].iter().find(|name| !sums.0.contains_key(**name)) {
            None => Ok(sums),
            Some(missing) => {
                let problem =
                    format!("expected sums of {} and {}, found none of {missing}", source.reviews, source.metadata);
                Err(Error::new(problem).at(path).hint("name a file that speaks of both archives of this data set"))
            }
        }
    }

    fn hold(&mut self, name: String, sha256: String, said_by: &Path) -> Result<()> {
        match self.0.get(&name) {
            Some(other) if other.sha256 != sha256 => {
                let problem = format!("expected one SHA-256 of {name}, found {sha256} beside {}", other.sha256);
                Err(Error::new(problem).at(said_by).hint(format!("{} says the other", other.said_by.display())))
            }
            _ => {
                self.0.insert(name, Sum { sha256, said_by: said_by.to_path_buf() });
                Ok(())
            }
        }
    }

    /// Whether an archive is what it must be, if anything is known.
    pub fn check(&self, archive: &Archive) -> Result<()> {
        match self.0.get(&archive.name) {
            Some(Sum { sha256, said_by }) if *sha256 != archive.sha256 => {
                let Archive { sha256: found, bytes, url, .. } = archive;
                let said_by = said_by.display();
                let problem = format!("expected SHA-256 {sha256}, as {said_by} says, found {found} of {bytes} bytes");
                Err(Error::new(problem).at(url).hint("the server has another version: name another with --from"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a data set comes from the archives that it must come from.
    pub fn check_all(&self, record: &Record) -> Result<()> {
        record.archives.iter().try_for_each(|archive| self.check(archive))
    }
}
