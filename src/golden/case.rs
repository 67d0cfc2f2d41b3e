//! A golden case: a folder with `config.yaml` and `tensors.safetensors` (golden README).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use crate::config::{AttributeKind, CaseShape, Loss, ModelConfig};
use crate::data::Batch;
use crate::model::{ItemFeature, Model, check_sizes, names};
use crate::tensors::TensorFile;
use crate::{Error, Result};

/// The file of a case's tensors.
const TENSORS: &str = "tensors.safetensors";

/// A case, ready to be held against: the model at its initial parameters, one batch, and what the reference computed.
#[derive(Debug)]
pub struct Case {
    /// The folder.
    pub path: PathBuf,
    /// The sizes and what was trained how.
    pub shape: CaseShape,
    /// The model with its initial values.
    pub model: Model,
    /// The batch.
    pub batch: Batch,
    /// `out.*`, `grad.*`, `train.loss.*` and `after5.*`.
    pub expected: BTreeMap<String, Tensor>,
    /// The case as the judge reads it.
    pub judged: judge::Case,
}

impl Case {
    /// Reads and checks a case. The model computes in the kind of the case's parameters.
    ///
    /// # Errors
    /// A file that is missing or not of the case format, with the tensor or the key.
    pub fn load(path: &Path) -> Result<Self> {
        let (config, tensors) = (path.join("config.yaml"), path.join(TENSORS));
        let parsed = ModelConfig::from_case(&config)?;
        Self::of(path, parsed, TensorFile::read(&tensors)?, || Ok(judge::Case::load(path)?))
    }

    /// Reads a case from the content of its two files as [`Case::load`] does; `path` is for messages.
    ///
    /// # Errors
    /// As [`Case::load`].
    pub fn parse(path: &Path, config: &str, tensors: &[u8]) -> Result<Self> {
        let parsed = ModelConfig::parse_case(config, &path.join("config.yaml"))?;
        Self::of(path, parsed, TensorFile::parse(&path.join(TENSORS), tensors)?, || {
            Ok(judge::Case::parse(path, config, tensors)?)
        })
    }

    fn of(
        path: &Path,
        (config, shape): (ModelConfig, CaseShape),
        mut file: TensorFile,
        judged: impl FnOnce() -> Result<judge::Case>,
    ) -> Result<Self> {
        let tensors_path = &path.join(TENSORS);
        let features = (shape.attributes.iter())
            .map(|attribute| {
                let name = format!("in.item_feat.{}", attribute.name);
                let ids = file.take(tensors_path, &name)?;
                if ids.size().first() != Some(&shape.n_items) || ids.numel() == 0 {
                    let problem = format!("expected shape [{}, S], found {:?}", shape.n_items, ids.size());
                    return Err(wrong(problem, tensors_path, &name));
                }
                let ids = ids.view([shape.n_items, -1]);
                if attribute.kind == AttributeKind::Token && ids.size()[1] != 1 {
                    let problem = format!("expected one id an item of a `token` attribute, found {}", ids.size()[1]);
                    return Err(wrong(problem, tensors_path, &name));
                }
                check_range(&ids, 0, attribute.vocab - 1, tensors_path, &name)?;
                Ok(ItemFeature { name: attribute.name.clone(), kind: attribute.kind, vocab: attribute.vocab, ids })
            })
            .collect::<Result<Vec<_>>>()?;
        let length = shape.max_item_list_length;
        check_sizes(&config, shape.n_items, length, &features, &file, tensors_path, "param.")?;
        let kind = file
            .tensors
            .get(&format!("param.{}", names::weight(names::ITEM_EMBEDDING)))
            .map_or(Kind::Double, Tensor::kind);
        let model = Model::new(&config, shape.n_items, length, features, kind);
        model.load(tensors_path, &mut file, "param.")?;
        let batch = read_batch(&shape, config.loss_type, &mut file, tensors_path)?;

        let (expected, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = (file.tensors.into_iter())
            .partition(|(name, _)| ["out.", "grad.", "train.loss.", "after5."].iter().any(|p| name.starts_with(p)));
        if let Some(name) = rest.keys().next() {
            return Err(Error::new(format!("found a tensor `{name}`, which the case format does not know"))
                .at(tensors_path)
                .hint("rename or remove it: an unknown tensor would go unchecked"));
        }
        Ok(Self { path: path.to_path_buf(), shape, model, batch, expected, judged: judged()? })
    }

    /// What the case was computed in.
    pub fn kind(&self) -> Kind {
        self.model.named_parameters().first().map_or(Kind::Double, |(_, parameter)| parameter.kind())
    }
}

fn read_batch(shape: &CaseShape, loss: Loss, file: &mut TensorFile, path: &Path) -> Result<Batch> {
    let item_seq = file.take(path, "in.item_seq")?;
    let has_negatives = file.tensors.contains_key("in.neg_items");
    let (rows, length) = item_seq
        .size2()
        .map_err(|_| wrong(format!("expected shape [B, L], found {:?}", item_seq.size()), path, "in.item_seq"))?;
    if length != shape.max_item_list_length {
        let problem = format!("expected sequences of {} items, found {length}", shape.max_item_list_length);
        return Err(wrong(problem, path, "in.item_seq"));
    }
    check_range(&item_seq, 0, shape.n_items - 1, path, "in.item_seq")?;
    let mut take = |name: &str, low: i64, high: i64| -> Result<Tensor> {
        let tensor = file.take(path, name)?;
        if tensor.size() != [rows] {
            let problem = format!("expected shape [{rows}], found {:?}", tensor.size());
            return Err(wrong(problem, path, name));
        }
        check_range(&tensor, low, high, path, name)?;
        Ok(tensor)
    };
    let item_seq_len = take("in.item_seq_len", 1, length)?;
    // Item 0 is the padding, which nobody chooses.
    let pos_items = take("in.pos_items", 1, shape.n_items - 1)?;
    // Only BPR reads negative items; other cases may carry them.
    let neg_items = match has_negatives || loss == Loss::Bpr {
        true => Some(take("in.neg_items", 1, shape.n_items - 1)?),
        false => None,
    };
    let places = Tensor::arange(length, (Kind::Int64, Device::Cpu));
    if item_seq.ne(0) != places.unsqueeze(0).lt_tensor(&item_seq_len.unsqueeze(1)) {
        let problem = "expected items up to `in.item_seq_len` and 0 behind it, found a row that is otherwise";
        return Err(wrong(problem.to_owned(), path, "in.item_seq"));
    }
    let user = Tensor::zeros([rows], (Kind::Int64, Device::Cpu));
    Ok(Batch { user, item_seq, item_seq_len, pos_items, neg_items })
}

/// Indices outside their table would make libtorch abort.
fn check_range(indices: &Tensor, low: i64, high: i64, path: &Path, name: &str) -> Result<()> {
    if indices.kind() != Kind::Int64 || indices.numel() == 0 {
        let problem = format!("expected int64 values, found {:?} {:?}", indices.kind(), indices.size());
        return Err(wrong(problem, path, name));
    }
    let (least, most) = (indices.min().int64_value(&[]), indices.max().int64_value(&[]));
    if least < low || most > high {
        return Err(wrong(format!("expected values from {low} to {high}, found {least} to {most}"), path, name));
    }
    Ok(())
}

/// An input that does not fit the case's configuration.
fn wrong(problem: String, path: &Path, name: &str) -> Error {
    Error::new(problem).at(path).tensor(name).hint("correct the tensor or what config.yaml says of it")
}
