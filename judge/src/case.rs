//! A golden case: what the authors' code was given, and what it computed.

use std::collections::BTreeMap;
use std::path::Path;

use crate::bundled;
use crate::error::nearest;
use crate::table::Table;
use crate::{Config, Dtype, Error, Part, Result, Stage, Tensor, tensor};

/// The file of a case's tensors.
const TENSORS: &str = "tensors.safetensors";
/// The file of a case's further stages and faults, where a case of one's own has one.
const CAUSES: &str = "causes.safetensors";

/// A case to hold an implementation to. `docs/verify.md` lists its keys with their shapes.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub config: Config,
    /// The text of `config.yaml`, which holds more than the judge needs: what builds a model of the case.
    pub yaml: String,
    /// Inputs (`in.*`), initial parameters (`param.*`) and what the authors' code computed (`out.*`, `grad.*`,
    /// `train.loss.*`, `after5.*`).
    pub tensors: BTreeMap<String, Tensor>,
    /// Stages that the golden files do not hold, and what each known fault makes of every tensor.
    pub(crate) table: Option<Table>,
    /// By tensor: how far rounding alone moves it, where it moves it more than a tolerance.
    pub(crate) noise: Option<BTreeMap<String, f64>>,
}

impl Case {
    /// A case that comes with the crate: `gate` is the paper's default, `gate_token` the same with single-valued
    /// attributes, `concat` and `sum` are the other fusions; [`Case::names`] lists all.
    ///
    /// ```
    /// let case = judge::Case::bundled("gate")?;
    /// assert_eq!(case.tensors["in.item_seq"].shape(), [6, 7]);
    /// # Ok::<(), judge::Error>(())
    /// ```
    ///
    /// # Errors
    /// No bundled case has that name.
    pub fn bundled(name: &str) -> Result<Self> {
        let (config, tensors) = Self::bundled_files(name)?;
        Self::parse(Path::new(name), config, tensors)
    }

    /// The names of the cases that come with the crate.
    pub fn names() -> impl Iterator<Item = &'static str> {
        bundled::ALL.iter().map(|case| case.name)
    }

    /// `config.yaml` and `tensors.safetensors` of a case that comes with the crate, as [`Case::parse`] takes them.
    ///
    /// # Errors
    /// No bundled case has that name.
    pub fn bundled_files(name: &str) -> Result<(&'static str, &'static [u8])> {
        let Some(found) = bundled::ALL.iter().find(|case| case.name == name) else {
            let near = nearest(name, Self::names()).map_or(String::new(), |(near, _)| format!("`{near}`? "));
            let all: Vec<_> = Self::names().collect();
            return Err(Error::new(format!("expected a bundled case, found `{name}`"))
                .hint(format!("{near}they are {}", all.join(", "))));
        };
        Ok((found.config, found.tensors))
    }

    /// Reads a folder with `config.yaml` and `tensors.safetensors`. A copy of a bundled case is that case, and has its
    /// table of causes: the tensors' file must be the same byte for byte, and the configuration say the same. Another
    /// case may have a `causes.safetensors` beside.
    ///
    /// # Errors
    /// A file is missing, damaged, or no part of a case.
    pub fn load(path: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = path.join(name);
            std::fs::read(&path).map_err(|e| {
                Error::new(format!("cannot read the file: {e}"))
                    .at(&path)
                    .hint("a case is a folder with config.yaml and tensors.safetensors")
            })
        };
        let config = String::from_utf8(read("config.yaml")?)
            .map_err(|_| Error::new("expected text, found no UTF-8").at(&path.join("config.yaml")))?;
        let mut case = Self::parse(path, &config, &read(TENSORS)?)?;
        let causes = path.join(CAUSES);
        if case.table.is_none() && causes.exists() {
            case.table = Some(Table::parse(&causes, &read(CAUSES)?)?);
        }
        Ok(case)
    }

    /// Reads a case from the content of its two files as [`Case::load`] does; `path` is for messages and the name.
    ///
    /// # Errors
    /// As [`Case::load`].
    pub fn parse(path: &Path, config: &str, tensors: &[u8]) -> Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let yaml = config.to_owned();
        let config = Config::parse(&path.join("config.yaml"), config)?;
        let place = path.join(TENSORS);
        let file = tensor::parse(&place, tensors)?;
        for (key, tensor) in &file.tensors {
            let integers = key.starts_with("in.");
            let right = if integers { tensor.dtype() == Dtype::Int64 } else { tensor.dtype().is_float() };
            if Stage::of(key).is_none() {
                return Err(Error::new(format!("found a tensor `{key}`, which the case format does not know"))
                    .at(&place)
                    .hint("rename or remove it: an unknown tensor would go unchecked"));
            }
            if !right {
                let kind = if integers { "int64" } else { "float64 or float32" };
                return Err(Error::new(format!("expected {kind}, found {}", tensor.dtype())).at(&place).tensor(key));
            }
        }
        let mut case = Self { name, config, yaml, tensors: file.tensors, table: None, noise: None };
        case.check_shapes(&place)?;
        if let Some(found) = bundled::ALL.iter().find(|bundled| bundled.tensors == tensors)
            && Config::parse(Path::new(found.name), found.config)? == case.config
        {
            // What comes with the crate beside the case's own two files.
            let place = Path::new("causes").join(found.name);
            case.table = Some(Table::parse(&place, found.causes)?);
            case.noise = found.noise.map(|text| {
                // Written by a test of the model, which reads it again.
                serde_json::from_str(text).unwrap_or_else(|e| panic!("{}: {e}", place.display()))
            });
        }
        Ok(case)
    }

    /// Tensors have the shapes that config.yaml gives them, and each row of the batch has an item.
    fn check_shapes(&self, place: &Path) -> Result<()> {
        let Config { n_items, max_len: length, n_heads, hidden_size, .. } = self.config;
        let wrong = |key: &str, problem: String| {
            Err(Error::new(problem).at(place).tensor(key).hint("correct the tensor or what config.yaml says of it"))
        };
        let batch = match self.tensors.get("in.item_seq").map(Tensor::shape) {
            Some(&[batch, l]) if l == length => batch,
            found => return wrong("in.item_seq", format!("expected shape [B, {length}], found {found:?}")),
        };
        for (key, tensor) in &self.tensors {
            let expected = match Stage::of(key) {
                Some((Stage::EncoderInput | Stage::Layer(_, Part::AttentionOutput | Part::Output), _)) => {
                    vec![batch, length, hidden_size]
                }
                Some((Stage::Layer(..), _)) => vec![batch, n_heads, length, length],
                Some((Stage::SequenceOutput, _)) => vec![batch, hidden_size],
                Some((Stage::Scores, _)) => vec![batch, n_items],
                _ => continue,
            };
            if tensor.shape() != expected {
                return wrong(key, format!("expected shape {expected:?}, found {:?}", tensor.shape()));
            }
        }
        match self.is_item().chunks(length).position(|row| !row.contains(&true)) {
            Some(row) => {
                wrong("in.item_seq", format!("expected an item in every row, found padding alone in row {row}"))
            }
            None => Ok(()),
        }
    }

    /// The faults that the judge can name in this case; none without a table of causes.
    pub fn faults(&self) -> impl Iterator<Item = (&str, &str)> {
        let faults = self.table.iter().flat_map(|table| &table.faults);
        faults.map(|fault| (fault.id.as_str(), fault.text.as_str()))
    }

    /// What a model computes on its way to the losses, by key: the case's own tensors and the further stages of its table.
    pub fn stages(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.keys().filter(|key| key.starts_with("out.")).filter_map(|key| Some((key, self.golden(key)?)))
    }

    /// B: the rows of the batch.
    pub(crate) fn batch(&self) -> usize {
        self.tensors["in.item_seq"].shape()[0]
    }

    /// A tensor of the case, or of a further stage.
    pub(crate) fn golden(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key).or_else(|| self.table.as_ref()?.further.get(key))
    }

    /// Every key of which something can be compared, further stages included.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let further = self.table.iter().flat_map(|table| table.further.keys());
        self.tensors.keys().chain(further).map(String::as_str)
    }

    /// Whether an item is at a position, `[B, L]`; elsewhere is padding.
    pub(crate) fn is_item(&self) -> Vec<bool> {
        self.tensors["in.item_seq"].values().iter().map(|&item| item != 0.0).collect()
    }
}
