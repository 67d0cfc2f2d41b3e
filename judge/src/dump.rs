//! What an implementation computed on a case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::tensor::{self, Element, File};
use crate::{Error, Result, Tensor};

/// Tensors that an implementation computed, named as in the case: any of them, in float64 or float32.
///
/// ```
/// let mut dump = judge::Dump::new();
/// dump.put("out.loss.item", &[], &[3.5_f64])?;
/// assert!(dump.tensors.contains_key("out.loss.item"));
/// # Ok::<(), judge::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// Where it was read from, for messages; empty if it was not.
    pub path: PathBuf,
    /// By key, as the case has them: `out.*`, `grad.*`, `train.loss.1` to `5`, `after5.*`; copies of `in.*` (i64) and
    /// `param.*` are held, too. docs/verify.md lists further ones.
    pub tensors: BTreeMap<String, Tensor>,
    /// What no tensor says, as JSON: `missing_gradients` `["position_embedding.weight"]`, `optimizer` `{"class": "Adam",
    /// "groups": [{"lr": 0.001, …}]}`, `dropout_sites` `[{"rate": 0.5, "shape": [6, 7, 32]}, …]`, `determinism`
    /// `{"largest_difference": 0.0}`.
    pub metadata: BTreeMap<String, String>,
}

impl Dump {
    /// A dump of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a safetensors file.
    ///
    /// # Errors
    /// The file cannot be read, or is no safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| {
            Error::new(format!("cannot read the file: {e}"))
                .at(path)
                .hint("check the path: a .safetensors file is expected there")
        })?;
        Self::parse(path, &bytes)
    }

    /// Reads a safetensors file's content; `path` is for messages.
    ///
    /// # Errors
    /// It is no safetensors file.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let File { tensors, metadata } = tensor::parse(path, bytes)?;
        Ok(Self { path: path.to_path_buf(), tensors, metadata })
    }

    /// Adds a tensor of row-major `values` (f64, f32, i64 or i32), in place of one of the same name.
    ///
    /// # Errors
    /// The shape has another number of elements than `values`.
    pub fn put<T: Element>(&mut self, name: impl Into<String>, shape: &[usize], values: &[T]) -> Result<()> {
        let name = name.into();
        let tensor = Tensor::new(shape, values).map_err(|error| error.tensor(&name).at(&self.path))?;
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// What the report calls it.
    pub(crate) fn name(&self) -> String {
        if self.path.as_os_str().is_empty() { "the dump".into() } else { self.path.display().to_string() }
    }
}

impl FromIterator<(String, Tensor)> for Dump {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect(), ..Self::default() }
    }
}
