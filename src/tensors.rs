//! Named tensors on disk: safetensors files with metadata and a checksum, read with errors that name the file, replaced
//! atomically.
//!
//! The header of a file that is written here begins with its seal, the metadata entry `sha256`: the SHA-256 of the whole
//! file with the seal's own digits as zeros. Equal tensors and metadata give equal bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

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
    /// Without the seal.
    pub metadata: BTreeMap<String, String>,
    /// The digits of the seal, which has been verified; `None` in a file of another program.
    pub seal: Option<String>,
}

impl TensorFile {
    /// Reads a whole file onto the CPU.
    ///
    /// # Errors
    /// No such file, and as [`TensorFile::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| {
            Error::io(path, "read the file", e).hint("check the path: a .safetensors file is expected there")
        })?;
        Self::parse(path, &bytes)
    }

    /// Reads `bytes` as [`TensorFile::read`] does; `path` is for messages.
    ///
    /// # Errors
    /// Bytes that are no safetensors file, or are not what their seal says.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let broken = |e: safetensors::SafeTensorError| {
            Error::new(format!("expected a safetensors file, found {e}"))
                .at(path)
                .hint("the file is truncated, damaged or of another format: write or copy it again")
        };
        let seal = verified_seal(path, bytes)?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let mut metadata: BTreeMap<_, _> =
            header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        if seal.is_some() {
            metadata.remove("sha256");
        }
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes).map_err(broken)?.iter() {
            let kind = kind(view.dtype()).ok_or_else(|| {
                Error::new(format!("expected floats of 16, 32 or 64 bits or integers, found {:?}", view.dtype()))
                    .at(path)
                    .tensor(name)
                    .hint("convert the tensor")
            })?;
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?);
        }
        Ok(Self { tensors, metadata, seal })
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

/// The digits of the seal, if the file has one.
fn verified_seal(path: &Path, bytes: &[u8]) -> Result<Option<String>> {
    let Some(digits) = bytes.get(DIGITS).filter(|_| bytes[8..].starts_with(SEAL.as_bytes())) else { return Ok(None) };
    let found = digest(bytes);
    if digits != found.as_bytes() {
        return Err(Error::new("expected the content whose SHA-256 the file records, found another")
            .at(path)
            .hint("the file was damaged or changed after it was written: copy it again, or use another one"));
    }
    Ok(Some(found))
}

/// The SHA-256 of a sealed file in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::new().chain_update(&bytes[..DIGITS.start]).chain_update([b'0'; 64]);
    hex(&hash.chain_update(&bytes[DIGITS.end..]).finalize())
}

/// A checksum's hexadecimal digits.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of a header that readers of safetensors take.
const MAX_HEADER: usize = 100_000_000;

/// Writes tensors and metadata to `path` and returns the digits of the seal. The file is complete or as it was before at
/// every moment. `sha256` is the seal's own key.
///
/// # Errors
/// A header that no reader of safetensors takes; a full disk, a read-only folder.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<String> {
    let data: Vec<(Vec<u8>, Vec<usize>, Dtype)> = (tensors.iter())
        .map(|(name, tensor)| {
            let tensor = tensor.detach().to_device(tch::Device::Cpu).contiguous();
            let kind = tensor.kind();
            let dtype = dtype(kind).ok_or_else(|| Error::new(format!("cannot store `{name}` of kind {kind:?}")))?;
            let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
            tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
            Ok((bytes, tensor.size().iter().map(|&n| n as usize).collect(), dtype))
        })
        .collect::<Result<_>>()?;
    let unwritable = |e: safetensors::SafeTensorError| Error::new(format!("cannot store tensors: {e}")).at(path);
    let views = (tensors.iter().zip(&data))
        .map(|((name, _), (bytes, shape, dtype))| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(unwritable)?;
    let mut bytes = with_metadata(&serialize(views, None).map_err(unwritable)?, metadata).map_err(|e| e.at(path))?;
    let seal = digest(&bytes);
    bytes[DIGITS].copy_from_slice(seal.as_bytes());
    replace(path, &bytes)?;
    Ok(seal)
}

/// A safetensors file without metadata, with these and an empty seal: the library writes metadata in no fixed order.
///
/// # Errors
/// A header that is too long to be read again.
fn with_metadata(plain: &[u8], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let length = u64::from_le_bytes(plain[..8].try_into().expect("the file begins with 8 bytes")) as usize;
    let (header, data) = plain[8..].split_at(length);
    let json = |text: &str| serde_json::to_string(text).expect("text is JSON");
    let mut head = format!("{SEAL}{}\"", "0".repeat(64));
    for (key, value) in metadata {
        head += &format!(",{}:{}", json(key), json(value));
    }
    head.push('}');
    let entries = std::str::from_utf8(header).expect("the library's header is text").trim_start_matches('{');
    if !entries.starts_with('}') {
        head.push(',');
    }
    head += entries.trim_end();
    // The data begin at a multiple of 8.
    head += &" ".repeat(head.len().next_multiple_of(8) - head.len());
    if head.len() > MAX_HEADER {
        let found = head.len();
        let problem = format!("expected names, configuration and tokens of at most {MAX_HEADER} bytes, found {found}");
        return Err(Error::new(problem).hint("give items and attributes shorter tokens"));
    }
    Ok([&(head.len() as u64).to_le_bytes(), head.as_bytes(), data].concat())
}

/// Replaces a file's content: written beside it, flushed to the disk, then renamed over it. A link stays one, and what is no
/// file, a pipe or a terminal, is written into.
///
/// # Errors
/// The disk is full or the folder read-only; the file is as it was before.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    if path.metadata().is_ok_and(|to| !to.is_file() && !to.is_dir()) {
        return fs::write(path, content).map_err(|e| Error::unwritable(path, e));
    }
    let (path, part) = with_part(path);
    let path = path.as_path();
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        rename(&part, path)
    };
    write().map_err(|e| {
        // Best effort: what could not be written is not worth keeping, and the first error is the one to tell.
        let _ = fs::remove_file(&part);
        Error::unwritable(path, e)
    })
}

/// Where a file really is, links followed, and what is written beside it first.
fn with_part(path: &Path) -> (PathBuf, PathBuf) {
    let linked = if path.is_symlink() { fs::canonicalize(path).ok() } else { None };
    let path = linked.unwrap_or_else(|| path.to_owned());
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

fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        _ => return None,
    })
}

fn dtype(kind: Kind) -> Option<Dtype> {
    Some(match kind {
        Kind::Bool => Dtype::BOOL,
        Kind::Uint8 => Dtype::U8,
        Kind::Int => Dtype::I32,
        Kind::Int64 => Dtype::I64,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        _ => return None,
    })
}
