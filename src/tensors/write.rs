//! Safetensors files written part by part, so that no tensor need be in memory as a whole.

use std::collections::BTreeMap;
use std::io::{BufWriter, Cursor, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::replace::{is_no_file, replace, replace_by};
use super::{DIGITS, KINDS, MAX_HEADER, SEAL, hex};
use crate::{Error, Result};

/// Elements of a tensor that are copied at a time.
const PART: i64 = 1 << 20;

/// Takes the next bytes of a tensor.
pub type Take<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Gives all bytes of a tensor, in their order.
type Give<'a> = dyn FnOnce(&mut Take) -> Result<()> + 'a;

/// A tensor to be written.
pub struct Stored<'a> {
    name: String,
    kind: Kind,
    shape: Vec<i64>,
    bytes: Box<Give<'a>>,
}

impl<'a> Stored<'a> {
    /// A tensor whose bytes `bytes` gives, in their order.
    pub fn new(name: &str, kind: Kind, shape: &[i64], bytes: impl FnOnce(&mut Take) -> Result<()> + 'a) -> Self {
        Self { name: name.to_owned(), kind, shape: shape.to_vec(), bytes: Box::new(bytes) }
    }

    /// A tensor on any device.
    pub fn tensor((name, tensor): &'a (String, Tensor)) -> Self {
        Self::new(name, tensor.kind(), &tensor.size(), |take| {
            let all = tensor.detach().contiguous().view([-1]);
            for part in (0..all.numel() as i64).step_by(PART as usize) {
                let part = all.narrow(0, part, PART.min(all.numel() as i64 - part)).to_device(Device::Cpu);
                let mut bytes = vec![0; part.numel() * part.kind().elt_size_in_bytes()];
                part.f_copy_data_u8(&mut bytes, part.numel())?;
                take(&bytes)?;
            }
            Ok(())
        })
    }

    fn info(&self, start: usize) -> Result<TensorInfo> {
        let Self { name, kind, shape, .. } = self;
        let dtype = dtype(*kind).ok_or_else(|| Error::new(format!("cannot store `{name}` of kind {kind:?}")))?;
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        let bytes = shape.iter().product::<usize>() * kind.elt_size_in_bytes();
        Ok(TensorInfo { dtype, shape, data_offsets: (start, start + bytes) })
    }
}

/// Writes tensors and metadata to `path` and returns the digits of the seal. The file is complete or as it was before at
/// every moment. `sha256` is the seal's own key.
///
/// # Errors
/// A header that no reader of safetensors takes; a full disk, a read-only folder.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<String> {
    write_stored(path, tensors.iter().map(Stored::tensor).collect(), metadata)
}

/// The same of tensors that come part by part.
///
/// # Errors
/// As [`write()`]; what gives a tensor's bytes fails.
pub fn write_stored(path: &Path, tensors: Vec<Stored>, metadata: &BTreeMap<String, String>) -> Result<String> {
    if is_no_file(path) {
        let (bytes, seal) = to_bytes(path, tensors, metadata)?;
        return replace(path, &bytes).map(|()| seal);
    }
    replace_by(path, |file| write_into(file, path, tensors, metadata))
}

/// The bytes of such a file, with the digits of its seal; `path` is for messages.
///
/// # Errors
/// As [`write_stored`].
pub fn to_bytes(path: &Path, tensors: Vec<Stored>, metadata: &BTreeMap<String, String>) -> Result<(Vec<u8>, String)> {
    let mut bytes = Cursor::new(Vec::new());
    let seal = write_into(&mut bytes, path, tensors, metadata)?;
    Ok((bytes.into_inner(), seal))
}

fn write_into(
    out: impl Write + Seek,
    path: &Path,
    mut tensors: Vec<Stored>,
    metadata: &BTreeMap<String, String>,
) -> Result<String> {
    let unwritable = |e| Error::unwritable(path, e);
    // The library's order: by alignment, then by name.
    let alignment = |tensor: &Stored| dtype(tensor.kind);
    tensors.sort_by(|a, b| alignment(b).cmp(&alignment(a)).then(a.name.cmp(&b.name)));
    let (head, sizes) = header(&tensors, metadata).map_err(|e| e.at(path))?;
    let (mut out, mut digest) = (BufWriter::new(out), Sha256::new());
    digest.update(&head);
    out.write_all(&head).map_err(unwritable)?;
    for (Stored { name, bytes, .. }, size) in tensors.into_iter().zip(sizes) {
        let mut written = 0;
        bytes(&mut |part| {
            digest.update(part);
            written += part.len();
            out.write_all(part).map_err(unwritable)
        })?;
        assert_eq!(written, size, "the bytes of {name}");
    }
    let seal = hex(&digest.finalize());
    out.seek(SeekFrom::Start(DIGITS.start as u64)).map_err(unwritable)?;
    out.write_all(seal.as_bytes()).and_then(|()| out.flush()).map_err(unwritable)?;
    Ok(seal)
}

/// The header, with its length before it and an empty seal, and the bytes of each tensor. The library writes metadata in no
/// fixed order.
///
/// # Errors
/// A header that is too long to be read again.
fn header(tensors: &[Stored], metadata: &BTreeMap<String, String>) -> Result<(Vec<u8>, Vec<usize>)> {
    let (mut infos, mut sizes, mut end) = (Vec::with_capacity(tensors.len()), Vec::with_capacity(tensors.len()), 0);
    for tensor in tensors {
        let info = tensor.info(end)?;
        sizes.push(info.data_offsets.1 - end);
        end = info.data_offsets.1;
        infos.push((tensor.name.clone(), info));
    }
    let entries = Metadata::new(None, infos).map_err(|e| Error::new(format!("cannot store tensors: {e}")))?;
    let json = |text: &str| serde_json::to_string(text).expect("text is JSON");
    let mut head = format!("{SEAL}{}\"", "0".repeat(64));
    for (key, value) in metadata {
        head += &format!(",{}:{}", json(key), json(value));
    }
    head.push('}');
    let entries = serde_json::to_string(&entries).expect("names and numbers are JSON");
    let entries = entries.trim_start_matches('{');
    if !entries.starts_with('}') {
        head.push(',');
    }
    head += entries;
    // The data begin at a multiple of 8.
    head += &" ".repeat(head.len().next_multiple_of(8) - head.len());
    if head.len() > MAX_HEADER {
        let found = head.len();
        let problem = format!("expected names, configuration and tokens of at most {MAX_HEADER} bytes, found {found}");
        return Err(Error::new(problem).hint("give attributes shorter tokens"));
    }
    Ok(([&(head.len() as u64).to_le_bytes(), head.as_bytes()].concat(), sizes))
}

fn dtype(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(_, known)| *known == kind).map(|(dtype, _)| *dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::TensorFile;

    /// The library's own writer lays the same tensors out in the same way.
    #[test]
    fn a_file_written_part_by_part_is_the_librarys_with_sealed_metadata() {
        let int64 = (Kind::Int64, Device::Cpu);
        let tensors = [
            ("b".to_owned(), Tensor::arange(PART + 5, int64).to_kind(Kind::Float).view([-1, 3])),
            ("a".to_owned(), Tensor::arange(7, int64).tr().to_kind(Kind::Uint8)),
            ("c".to_owned(), Tensor::arange(6, int64).view([2, 3]).tr()),
            ("none".to_owned(), Tensor::zeros([0, 4], (Kind::Float, Device::Cpu))),
        ];
        let metadata = BTreeMap::from([("key".to_owned(), "a \"value\"".to_owned())]);
        let path = Path::new("made");
        let (bytes, seal) = to_bytes(path, tensors.iter().map(Stored::tensor).collect(), &metadata).unwrap();
        let views = tensors.iter().map(|(name, tensor)| {
            let tensor = tensor.contiguous();
            let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            (name, (tensor, bytes))
        });
        let views: Vec<_> = views.collect();
        let views = views.iter().map(|(name, (tensor, bytes))| {
            let shape = tensor.size().iter().map(|&n| n as usize).collect();
            (*name, safetensors::tensor::TensorView::new(dtype(tensor.kind()).unwrap(), shape, bytes).unwrap())
        });
        let plain = safetensors::serialize(views, None).unwrap();
        let header = |bytes: &[u8]| 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes[header(&bytes)..], plain[header(&plain)..]);
        let entries = std::str::from_utf8(&plain[9..header(&plain)]).unwrap().trim_end();
        let sealed = std::str::from_utf8(&bytes[8..header(&bytes)]).unwrap();
        let expected = format!(r#"{SEAL}{seal}","key":"a \"value\""}},{entries}"#);
        assert_eq!(sealed.trim_end(), expected);

        let file = TensorFile::parse(path, &bytes).unwrap();
        assert_eq!((file.seal, &file.metadata), (Some(seal), &metadata));
        for (name, tensor) in tensors {
            assert!(file.tensors[&name].equal(&tensor), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "before").unwrap();
        let failing = Stored::new("a", Kind::Float, &[2], |take| {
            take(&[0; 4])?;
            Err(Error::new("no more"))
        });
        let error = write_stored(&path, vec![failing], &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("no more"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
