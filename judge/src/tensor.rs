//! Tensors as the judge reads them: a shape and its elements in float64, whatever they were computed in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype as FileDtype;

use crate::{Error, Result};

/// What the elements of a tensor were computed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    Float64,
    Float32,
    Int64,
    Int32,
    UInt8,
    /// Half precision, of which nothing can be said: its rounding hides what is to be found.
    Half(&'static str),
    /// Of no use to the judge.
    Other,
}

/// A tensor: row-major elements and their shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// What a tensor may be made of: `f64`, `f32`, `i64`, `i32`.
pub trait Element: Copy + sealed::Sealed {
    /// The type's own name.
    const DTYPE: Dtype;
    /// The element in float64.
    fn widened(self) -> f64;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($($kind:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $kind {}
        impl Element for $kind {
            const DTYPE: Dtype = Dtype::$dtype;
            fn widened(self) -> f64 {
                self as f64
            }
        }
    )*};
}
element!(f64 => Float64, f32 => Float32, i64 => Int64, i32 => Int32);

impl Tensor {
    /// A tensor of row-major `values`.
    ///
    /// ```
    /// let scores = judge::Tensor::new(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// assert_eq!(scores.shape(), [2, 3]);
    /// # Ok::<(), judge::Error>(())
    /// ```
    ///
    /// # Errors
    /// The shape has another number of elements than `values`.
    pub fn new<T: Element>(shape: &[usize], values: &[T]) -> Result<Self> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::new(format!("expected the elements of shape {shape:?}, found {}", values.len()))
                .hint("give the shape that the values have"));
        }
        Ok(Self { dtype: T::DTYPE, shape: shape.into(), values: values.iter().map(|v| v.widened()).collect() })
    }

    /// What it was computed in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The size of each axis; empty for a single number.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements, row by row. Empty for a dtype that the judge does not read.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The value of a tensor of one element.
    pub(crate) fn scalar(&self) -> Option<f64> {
        if let [value] = self.values[..] { Some(value) } else { None }
    }

    /// The same shape and dtype with other elements.
    pub(crate) fn with(&self, values: Vec<f64>) -> Self {
        Self { values, dtype: self.dtype, shape: self.shape.clone() }
    }
}

impl Dtype {
    /// Whether elements are numbers with a fraction.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Float64 | Self::Float32)
    }

    fn of(dtype: FileDtype) -> Self {
        match dtype {
            FileDtype::F64 => Self::Float64,
            FileDtype::F32 => Self::Float32,
            FileDtype::I64 => Self::Int64,
            FileDtype::I32 => Self::Int32,
            FileDtype::U8 => Self::UInt8,
            FileDtype::F16 => Self::Half("float16"),
            FileDtype::BF16 => Self::Half("bfloat16"),
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float64 => "float64",
            Self::Float32 => "float32",
            Self::Int64 => "int64",
            Self::Int32 => "int32",
            Self::UInt8 => "uint8",
            Self::Half(name) => name,
            Self::Other => "another type",
        })
    }
}

/// What a safetensors file holds.
pub(crate) struct File {
    pub tensors: BTreeMap<String, Tensor>,
    pub metadata: BTreeMap<String, String>,
}

/// Reads a file's content; `path` is for messages.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<File> {
    let broken = |e: safetensors::SafeTensorError| {
        Error::new(format!("expected a safetensors file, found {e}"))
            .at(path)
            .hint("the file is truncated, damaged or of another format: write or copy it again")
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let tensors = file.iter().map(|(name, view)| {
        let (dtype, data) = (Dtype::of(view.dtype()), view.data());
        let values = match dtype {
            Dtype::Float64 => widened(data, f64::from_le_bytes),
            Dtype::Float32 => widened(data, f32::from_le_bytes),
            Dtype::Int64 => widened(data, i64::from_le_bytes),
            Dtype::Int32 => widened(data, i32::from_le_bytes),
            Dtype::UInt8 => data.iter().map(|&byte| byte.into()).collect(),
            Dtype::Half(_) | Dtype::Other => Vec::new(),
        };
        (name.to_owned(), Tensor { dtype, shape: view.shape().to_vec(), values })
    });
    Ok(File { tensors: tensors.collect(), metadata })
}

fn widened<const N: usize, T: Element>(data: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<f64> {
    data.as_chunks().0.iter().map(|&bytes| of(bytes).widened()).collect()
}
