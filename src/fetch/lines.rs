//! The lines of a gzip file, one at a time: memory is bounded by the longest line that is taken, whatever the file unpacks to.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

/// Bytes of the longest line that is taken; the longest of 2014 are some hundred thousand.
const MAX_LINE: u64 = 16 << 20;

/// How many bytes of text a byte of the archive may stand for. Reviews and metadata unpack to three to five times their size, gzip
/// can do a thousand.
const MAX_EXPANSION: u64 = 100;

/// Bytes of text that any archive may unpack to: small ones of much repetition are no bombs.
const ALWAYS: u64 = 16 << 20;

/// The text lines of a gzip file.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<MultiGzDecoder<BufReader<Counted>>>,
    /// Bytes of the archive.
    size: u64,
    /// Bytes of text so far.
    unpacked: u64,
    line: u64,
    buffer: Vec<u8>,
}

/// A file, and how much of it was read.
struct Counted {
    file: File,
    read: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read += n as u64;
        Ok(n)
    }
}

impl Lines {
    /// Opens a gzip file.
    ///
    /// # Errors
    /// The file cannot be read, or begins as no gzip file does.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot_read = |e| Error::io(path, "read the file", e);
        let file = File::open(path).map_err(cannot_read)?;
        let size = file.metadata().map_err(cannot_read)?.len();
        let mut input = BufReader::with_capacity(1 << 16, Counted { file, read: 0 });
        let begin = input.fill_buf().map_err(cannot_read)?;
        if !begin.starts_with(&[0x1f, 0x8b]) {
            let found = String::from_utf8_lossy(&begin[..begin.len().min(40)]).replace(char::is_control, " ");
            return Err(Error::new(format!("expected a gzip file, found {size} bytes that begin with `{found}`"))
                .at(path)
                .hint("an error page of a server or a proxy looks like that: open the address in a browser"));
        }
        let reader = BufReader::with_capacity(1 << 16, MultiGzDecoder::new(input));
        Ok(Self { path: path.to_path_buf(), reader, size, unpacked: 0, line: 0, buffer: Vec::new() })
    }

    /// The next line that is not blank, without its end, and its number, counted from 1.
    ///
    /// # Errors
    /// The archive cannot be read, is damaged or cut off, a line is too long, or the whole unpacks to too much.
    pub fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        loop {
            self.buffer.clear();
            let taken = self.reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut self.buffer);
            self.line += 1;
            let n = taken.map_err(|e| match e.raw_os_error() {
                Some(_) => Error::io(&self.path, "read the file", e),
                None => Error::new(format!("expected gzip data to their end, found damage: {e}"))
                    .at(&self.path)
                    .line(self.line)
                    .hint("fetch it again; if it stays so, the server's copy is damaged"),
            })? as u64;
            self.unpacked += n;
            if n > MAX_LINE {
                let problem = format!("expected lines of at most {MAX_LINE} bytes, found a longer one");
                return Err(Error::new(problem).at(&self.path).line(self.line).hint("this is not the data set's file"));
            }
            if self.unpacked > ALWAYS.max(self.size.saturating_mul(MAX_EXPANSION)) {
                let problem = format!(
                    "expected {} bytes of gzip to unpack to at most {MAX_EXPANSION} times as much, found more",
                    self.size
                );
                return Err(Error::new(problem).at(&self.path).line(self.line).hint("this is not the data set's file"));
            }
            if n == 0 {
                return Ok(None);
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some((self.line, self.buffer.trim_ascii_end())));
            }
        }
    }

    /// Bytes of the archive that were read, and that there are.
    pub fn position(&self) -> (u64, u64) {
        (self.reader.get_ref().get_ref().get_ref().read, self.size)
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// A gzip file of `content` in `folder`.
    pub fn packed(folder: &Path, content: &[u8]) -> PathBuf {
        let path = folder.join("archive.json.gz");
        let mut encoder = GzEncoder::new(File::create(&path).unwrap(), Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap();
        path
    }

    fn read(path: &Path) -> Result<Vec<(u64, String)>> {
        let mut lines = Lines::open(path)?;
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next()? {
            all.push((number, String::from_utf8_lossy(line).into_owned()));
        }
        Ok(all)
    }

    #[test]
    fn lines_come_without_their_ends_and_blank_ones_are_counted_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = packed(folder.path(), b"a\r\n\n  b\nlast");
        assert_eq!(read(&path).unwrap(), [(1, "a".into()), (3, "  b".into()), (4, "last".into())]);
        // What two gzip files joined give.
        let twice = [std::fs::read(&path).unwrap(), std::fs::read(&path).unwrap()].concat();
        std::fs::write(&path, twice).unwrap();
        assert_eq!(read(&path).unwrap()[2], (4, "lasta".into()));
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused_in_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = packed(folder.path(), &[&[b' '; 1023][..], b"\n"].concat().repeat(17 << 10));
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("to unpack to at most 100 times as much, found more"), "{error}");
        let path = packed(folder.path(), &vec![b'x'; 17 << 20]);
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("line 1: expected lines of at most 16777216 bytes"), "{error}");
    }

    #[test]
    fn no_byte_of_an_archive_can_be_missing_or_change_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = packed(folder.path(), b"{'asin': 'B1'}\n{'asin': 'B2'}\n");
        let (good, lines) = (std::fs::read(&path).unwrap(), read(&path).unwrap());
        for at in 0..good.len() {
            std::fs::write(&path, &good[..at]).unwrap();
            assert!(read(&path).is_err(), "cut behind {at} bytes");
            let mut changed = good.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            // The time, the system and the flags of the header say nothing of the text.
            assert!(read(&path).is_err() || (at < 10 && read(&path).unwrap() == lines), "changed byte {at}");
        }
    }
}
