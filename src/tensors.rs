//! Named tensors on disk: safetensors files with metadata and a checksum, read with errors that name the file, replaced
//! atomically.
//!
//! The header of a file that is written here begins with its seal, the metadata entry `sha256`: the SHA-256 of the whole
//! file with the seal's own digits as zeros. Equal tensors and metadata give equal bytes.

mod replace;
mod write;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

pub use self::replace::{copy, make_place, refuse_foreign, rename, replace, replace_json};
pub use self::write::{Stored, Take, to_bytes, write, write_stored};
use crate::{Error, Result};

/// What the header of a sealed file begins with, the digits' place excluded.
const SEAL: &str = r#"{"__metadata__":{"sha256":""#;
/// Where the digits are: behind the header's length, which takes 8 bytes, and what stands above.
const DIGITS: Range<usize> = 8 + SEAL.len()..8 + SEAL.len() + 64;

/// What a safetensors file holds.
#[derive(Debug)]
pub struct TensorFile {
    /// By their names.
    pub tensors: BTreeMap<String, Tensor>,
    /// Those that were left on the disk ([`TensorFile::open`]).
    pub on_disk: BTreeMap<String, OnDisk>,
    /// Without the seal.
    pub metadata: BTreeMap<String, String>,
    /// The digits of the seal, which has been verified; `None` in a file of another program.
    pub seal: Option<String>,
}

/// A tensor that is in a file alone.
#[derive(Debug)]
pub struct OnDisk {
    /// What its elements are.
    pub kind: Kind,
    /// Its shape.
    pub shape: Vec<i64>,
    file: File,
    start: u64,
}

impl OnDisk {
    /// A reader of its bytes, in their order.
    ///
    /// # Errors
    /// The operating system's.
    pub fn bytes(&self) -> std::io::Result<impl Read> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(self.start))?;
        Ok(BufReader::new(file))
    }
}

/// Bytes of a file that are read at a time to check its seal.
const PART: usize = 1 << 20;

impl TensorFile {
    /// Reads a whole file onto the CPU.
    ///
    /// # Errors
    /// No such file, and as [`TensorFile::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        Self::open(path, |_| false)
    }

    /// Reads a file but for the tensors that shall stay `on_disk`.
    ///
    /// # Errors
    /// As [`TensorFile::read`].
    pub fn open(path: &Path, on_disk: impl Fn(&str) -> bool) -> Result<Self> {
        let unreadable =
            |e| Error::io(path, "read the file", e).hint("check the path: a .safetensors file is expected there");
        if replace::is_no_file(path) {
            return Self::parse(path, &fs::read(path).map_err(unreadable)?);
        }
        let file = File::open(path).map_err(unreadable)?;
        Self::of(path, file, |file, name| on_disk(name).then(|| file.try_clone()).transpose().map_err(unreadable))
    }

    /// Reads `bytes` as [`TensorFile::read`] does; `path` is for messages.
    ///
    /// # Errors
    /// Bytes that are no safetensors file, or are not what their seal says.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::of(path, Cursor::new(bytes), |_, _| Ok(None))
    }

    /// Reads all but the tensors for which `left` gives the file that they are left in.
    fn of<S: Read + Seek>(path: &Path, mut input: S, left: impl Fn(&S, &str) -> Result<Option<File>>) -> Result<Self> {
        let (mut read, infos, start) = Self::header(&mut input, path)?;
        for (name, info) in infos {
            let kind = kind_of(&info, &name, path)?;
            let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
            let (from, to) = info.data_offsets;
            let start = start + from as u64;
            if let Some(file) = left(&input, &name)? {
                read.on_disk.insert(name, OnDisk { kind, shape, file, start });
                continue;
            }
            let mut bytes = vec![0; to - from];
            let filled = input.seek(SeekFrom::Start(start)).and_then(|_| input.read_exact(&mut bytes));
            filled.map_err(|e| Error::io(path, "read the file", e))?;
            let tensor = Tensor::f_from_data_size(&bytes, &shape, kind);
            let tensor = tensor.map_err(|e| Error::from(e).at(path).tensor(&name))?;
            read.tensors.insert(name, tensor);
        }
        Ok(read)
    }

    /// What the header says: the file yet without tensors, where each of them is, and where the data begin.
    fn header(source: &mut (impl Read + Seek), path: &Path) -> Result<(Self, BTreeMap<String, TensorInfo>, u64)> {
        let broken = |e: SafeTensorError| {
            Error::new(format!("expected a safetensors file, found {e}"))
                .at(path)
                .hint("the file is truncated, damaged or of another format: write or copy it again")
        };
        let unreadable = |e| Error::io(path, "read the file", e);
        let seal = verified_seal(path, source)?;
        let bytes = source.seek(SeekFrom::End(0)).map_err(unreadable)?;
        source.rewind().map_err(unreadable)?;
        // The library looks at the whole file; here it gets the header. It refuses one that is too long by its length.
        let mut head = Vec::new();
        source.by_ref().take(8).read_to_end(&mut head).map_err(unreadable)?;
        let length = head[..].try_into().map_or(0, u64::from_le_bytes);
        source
            .by_ref()
            .take(if length > MAX_HEADER as u64 { 0 } else { length })
            .read_to_end(&mut head)
            .map_err(unreadable)?;
        let start = head.len() as u64;
        match SafeTensors::read_metadata(&head) {
            // There are data behind it.
            Ok(_) | Err(SafeTensorError::MetadataIncompleteBuffer) => {}
            Err(e) => return Err(broken(e)),
        }
        let header: Metadata =
            serde_json::from_slice(&head[8..]).map_err(|e| broken(SafeTensorError::InvalidHeaderDeserialization(e)))?;
        if start + header.data_len() as u64 != bytes {
            return Err(broken(SafeTensorError::MetadataIncompleteBuffer));
        }
        let mut metadata: BTreeMap<_, _> =
            header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        if seal.is_some() {
            metadata.remove("sha256");
        }
        let infos = header.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok((Self { tensors: BTreeMap::new(), on_disk: BTreeMap::new(), metadata, seal }, infos, start))
    }
    /// Removes and returns a tensor that must be there.
    ///
    /// # Errors
    /// No such tensor.
    pub fn take(&mut self, path: &Path, name: &str) -> Result<Tensor> {
        self.tensors.remove(name).ok_or_else(|| {
            Error::new(format!("expected a tensor named `{name}`, found none"))
                .at(path)
                .hint("the file was written by something else or for another configuration")
        })
    }
}

/// The digits of a file's seal, which is verified; `None` if the file has none.
///
/// # Errors
/// No such file; a content that is not what the seal says.
pub fn seal(path: &Path) -> Result<Option<String>> {
    let mut file = File::open(path).map_err(|e| Error::io(path, "read the file", e))?;
    verified_seal(path, &mut file)
}

/// Bytes of a header that readers of safetensors take.
const MAX_HEADER: usize = 100_000_000;

fn kind_of(info: &TensorInfo, name: &str, path: &Path) -> Result<Kind> {
    KINDS.iter().find(|(dtype, _)| *dtype == info.dtype).map(|(_, kind)| *kind).ok_or_else(|| {
        Error::new(format!("expected floats of 16, 32 or 64 bits or integers, found {:?}", info.dtype))
            .at(path)
            .tensor(name)
            .hint("convert the tensor")
    })
}

/// The digits of the seal, if the file has one.
fn verified_seal(path: &Path, source: &mut (impl Read + Seek)) -> Result<Option<String>> {
    let unreadable = |e| Error::io(path, "read the file", e);
    let mut head = Vec::new();
    source.rewind().map_err(unreadable)?;
    source.by_ref().take(DIGITS.end as u64).read_to_end(&mut head).map_err(unreadable)?;
    let Some(digits) = head.get(DIGITS).filter(|_| head[8..].starts_with(SEAL.as_bytes())) else { return Ok(None) };
    // Of the whole file, with zeros for the digits.
    let mut hash = Digested(Sha256::new().chain_update(&head[..DIGITS.start]).chain_update([b'0'; 64]));
    std::io::copy(&mut BufReader::with_capacity(PART, source), &mut hash).map_err(unreadable)?;
    let found = hex(&hash.0.finalize());
    if digits != found.as_bytes() {
        return Err(Error::new("expected the content whose SHA-256 the file records, found another")
            .at(path)
            .hint("the file was damaged or changed after it was written: copy it again, or use another one"));
    }
    Ok(Some(found))
}

/// Takes the checksum of what is written into it.
#[derive(Debug, Default)]
pub(crate) struct Digested(pub Sha256);

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A checksum's hexadecimal digits.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What can be read and written, in safetensors' words and in libtorch's.
const KINDS: [(Dtype, Kind); 8] = [
    (Dtype::BOOL, Kind::Bool),
    (Dtype::U8, Kind::Uint8),
    (Dtype::I32, Kind::Int),
    (Dtype::I64, Kind::Int64),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::F32, Kind::Float),
    (Dtype::F64, Kind::Double),
];
