//! The judge for Python: the bundled cases and the verdict on a dump. Everything else is Python (`dif_sr/`).

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use judge::{Case, Dump, Judge, Stage, Tensor};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pyo3::create_exception!(dif_sr, Error, PyException, "Why nothing could be judged, in one sentence.");

fn refuse(error: impl Display) -> PyErr {
    Error::new_err(error.to_string())
}

/// A case: `name`, `config` (JSON) and its tensors.
#[pyclass(frozen, name = "Case")]
struct PyCase(Case);

/// dtype, shape, elements as little-endian float64.
type Raw<'py> = (String, Vec<usize>, Bound<'py, PyBytes>);

fn raw<'py>(py: Python<'py>, tensor: &Tensor) -> Raw<'py> {
    let bytes: Vec<u8> = tensor.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    (tensor.dtype().to_string(), tensor.shape().to_vec(), PyBytes::new(py, &bytes))
}

#[pymethods]
impl PyCase {
    /// A bundled case by its name, or else the case in a folder.
    #[new]
    fn new(name: &str) -> PyResult<Self> {
        let path = Path::new(name);
        let is_folder = !Case::names().any(|known| known == name) && path.exists();
        let case = if is_folder { Case::load(path) } else { Case::bundled(name) };
        case.map(Self).map_err(refuse)
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.name
    }

    /// `config.yaml` as JSON.
    #[getter]
    fn config(&self) -> PyResult<String> {
        let value: serde_json::Value = serde_yaml::from_str(&self.0.yaml).map_err(refuse)?;
        Ok(value.to_string())
    }

    /// Every tensor of the case and of its further stages.
    fn tensors<'py>(&self, py: Python<'py>) -> Vec<(String, Raw<'py>)> {
        let own = self.0.tensors.iter().map(|(key, tensor)| (key.as_str(), tensor));
        let further = self.0.stages().filter(|(key, _)| !self.0.tensors.contains_key(*key));
        own.chain(further).map(|(key, tensor)| (key.to_owned(), raw(py, tensor))).collect()
    }

    /// The stages that a model computes, in order: the name that `require` takes, and the one that a report shows.
    fn stages(&self) -> Vec<(String, String)> {
        let own = self.0.tensors.keys().map(String::as_str);
        let stages: BTreeSet<Stage> =
            own.chain(self.0.stages().map(|(key, _)| key)).filter_map(Stage::of).map(|(stage, _)| stage).collect();
        stages.into_iter().filter(|stage| *stage != Stage::Inputs).map(|s| (s.id(), s.to_string())).collect()
    }

    /// The report on a safetensors file's content, as text and as JSON; `path` is for messages.
    fn judge(
        &self,
        path: PathBuf,
        bytes: &[u8],
        require: Option<Vec<String>>,
        accept: Vec<(String, String)>,
    ) -> PyResult<(String, String)> {
        let dump = Dump::parse(&path, bytes).map_err(refuse)?;
        let mut judge = Judge::of(&self.0);
        if let Some(stages) = require {
            judge = judge.require(stages.iter().map(String::as_str)).map_err(refuse)?;
        }
        for (name, reason) in &accept {
            judge = judge.accept(name, reason).map_err(refuse)?;
        }
        let report = judge.judge(&dump).map_err(refuse)?;
        Ok((report.to_string(), serde_json::to_string(&report).map_err(refuse)?))
    }
}

/// The names of the bundled cases.
#[pyfunction]
fn names() -> Vec<&'static str> {
    Case::names().collect()
}

#[pymodule]
fn _judge(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("Error", module.py().get_type::<Error>())?;
    module.add_class::<PyCase>()?;
    module.add_function(wrap_pyfunction!(names, module)?)
}
