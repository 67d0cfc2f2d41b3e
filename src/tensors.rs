//! Named tensors on disk: safetensors files with metadata, read with errors that name the file, replaced atomically.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use tch::{Kind, Tensor};

use crate::{Error, Result};

/// What a safetensors file holds.
#[derive(Debug)]
pub struct TensorFile {
    pub tensors: BTreeMap<String, Tensor>,
    pub metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads a whole file onto the CPU.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, "read the file", e))?;
        let broken = |e: safetensors::SafeTensorError| {
            Error::new(format!("expected a safetensors file, found {e:?}"))
                .at(path)
                .hint("the file is truncated, damaged or of another format: write or copy it again")
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(&bytes).map_err(broken)?.iter() {
            let kind = kind(view.dtype()).ok_or_else(|| {
                Error::new(format!("expected float32, float64, bfloat16 or integers, found {:?}", view.dtype()))
                    .at(path)
                    .tensor(name)
                    .hint("convert the tensor")
            })?;
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?);
        }
        Ok(Self { tensors, metadata })
    }

    /// Removes and returns a tensor that must be there.
    pub fn take(&mut self, path: &Path, name: &str) -> Result<Tensor> {
        self.tensors.remove(name).ok_or_else(|| {
            Error::new(format!("expected a tensor named `{name}`, found none"))
                .at(path)
                .hint("the file was written by something else or for another configuration")
        })
    }
}

/// Writes tensors and metadata to `path`. The file is complete or absent at every moment.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: HashMap<String, String>) -> Result<()> {
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
    // safetensors 0.8 writes a header that it cannot read for metadata without entries and no tensors.
    let metadata = Some(metadata).filter(|metadata| !metadata.is_empty());
    replace(path, &serialize(views, metadata).map_err(unwritable)?)
}

/// Replaces a file's content: written beside it, flushed to the disk, then renamed over it.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&part)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|e| {
        // Best effort: what could not be written is not worth keeping, and the first error is the one to tell.
        let _ = fs::remove_file(&part);
        Error::io(path, "write the file", e).hint("check the folder's permissions and the free space")
    })
}

fn kind(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
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
        Kind::BFloat16 => Dtype::BF16,
        Kind::Float => Dtype::F32,
        Kind::Double => Dtype::F64,
        _ => return None,
    })
}
