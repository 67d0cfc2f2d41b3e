//! Checkpoints: a model with all that using it needs, in one safetensors file.
//!
//! Tensors bear RecBole's parameter names; beside them stand the attribute tables, which RecBole does not put into its
//! own, and `item_feat.<attribute>`, the attribute ids of every item. `items.text` holds the items' tokens one after the
//! other, and `items.ends` where each ends in it. The metadata hold the resolved configuration and the attributes'
//! vocabularies, and the file is sealed ([`crate::tensors`]).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Kind;

use super::Training;
use super::shares::Shares;
use crate::config::{AttributeKind, RunConfig};
use crate::data::{Dataset, Vocabulary};
use crate::model::{ItemFeature, Model, check_sizes};
use crate::tensors::{Stored, TensorFile, write_stored};
use crate::{Error, Result};

/// The version of this layout, under the metadata key `format`.
const FORMAT: &str = "dif-sr checkpoint 3";
/// The one before, whose metadata hold the items' tokens too: no header can be as long as those of ten million items.
const FORMER_FORMAT: &str = "dif-sr checkpoint 2";
/// The tensors of the items' tokens.
const TEXT: &str = "items.text";
const ENDS: &str = "items.ends";

/// A model with its configuration and the tokens that its rows stand for.
#[derive(Debug)]
pub struct Checkpoint {
    /// What the run was configured with.
    pub config: RunConfig,
    /// The model, on the CPU.
    pub model: Model,
    /// The item of every row of the embedding; the first is `[PAD]`.
    pub items: Vec<String>,
    /// The attributes' vocabularies, in the order of `selected_features`.
    pub attributes: Vec<AttributeTokens>,
    /// The epoch after which it was written, from 0.
    pub epoch: usize,
}

/// One attribute's vocabulary; the first token is `[PAD]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeTokens {
    /// The name of the attribute.
    pub name: String,
    /// What its values are.
    #[serde(rename = "type")]
    pub kind: AttributeKind,
    /// By their ids.
    pub tokens: Vec<String>,
}

impl Checkpoint {
    /// Writes the model as it is now and returns the file's seal. Equal models give equal bytes, and the file is complete
    /// or as it was before at every moment.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// A model that has a part of the items.
    pub fn save(path: &Path, config: &RunConfig, dataset: &Dataset, model: &Model, epoch: usize) -> Result<String> {
        assert!(model.held_items().is_none(), "a model of all items");
        Self::save_shared(path, config, dataset, (model, None), epoch)
    }

    /// The same of a model whose item embedding ranks may share out: the others then serve this one.
    pub(super) fn save_shared(
        path: &Path,
        config: &RunConfig,
        dataset: &Dataset,
        (model, shares): (&Model, Option<&Shares>),
        epoch: usize,
    ) -> Result<String> {
        let mut tensors = model.named_parameters();
        tensors.extend(model.named_tables());
        tensors.extend(model.features().iter().map(|f| (format!("item_feat.{}", f.name), f.ids.shallow_clone())));
        let attributes = serde_json::to_string(&AttributeTokens::of(dataset)).expect("text is JSON");
        let metadata = BTreeMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("config".to_owned(), config.to_yaml()),
            ("attributes".to_owned(), attributes),
            ("epoch".to_owned(), epoch.to_string()),
        ]);
        let stored = tensors.iter().map(|tensor| Shares::stored(shares, tensor, &|_, _| Ok(())));
        write_stored(path, stored.chain(stored_tokens(&dataset.items)).collect(), &metadata)
    }

    /// Puts the training's model, whose item embedding ranks share out, where [`Checkpoint::save_shared`] wrote it, and
    /// returns the epoch. The others serve this rank meanwhile, and get what is common from it afterwards.
    pub(super) fn restore(path: &Path, training: &Training) -> Result<usize> {
        let Training { model, shares, .. } = training;
        let mut file = Shares::open(shares.as_ref(), path)?;
        let metadata = checked_metadata(&mut file, path)?;
        model.load(path, &mut file, "")?;
        if let Some(shares) = shares {
            file.on_disk.iter().try_for_each(|(name, rows)| shares.deal(name, rows))?;
        }
        parse(metadata.get("epoch").map_or("", String::as_str), "epoch", path)
    }

    /// Whether a tensor of this name holds tokens or attributes of the items, and is none of the model's.
    pub fn is_of_items(name: &str) -> bool {
        name.starts_with("item_feat.") || [TEXT, ENDS].contains(&name)
    }

    /// Reads a checkpoint; the model is on the CPU.
    ///
    /// # Errors
    /// No such file, and as [`Checkpoint::parse`].
    pub fn load(path: &Path) -> Result<Self> {
        Self::of(TensorFile::read(path)?, path)
    }

    /// Reads `bytes` as [`Checkpoint::load`] does; `path` is for messages.
    ///
    /// # Errors
    /// Bytes that are no checkpoint of this version, or are damaged.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        Self::of(TensorFile::parse(path, bytes)?, path)
    }

    fn of(mut file: TensorFile, path: &Path) -> Result<Self> {
        let metadata = checked_metadata(&mut file, path)?;
        let get = |key: &str| get(&metadata, key, path);
        let config = RunConfig::from_yaml(get("config")?, path)?;
        let items: Vec<String> = match metadata.get("items") {
            Some(items) => parse(items, "items", path)?,
            None => tokens(&mut file, path)?,
        };
        let attributes: Vec<AttributeTokens> = parse(get("attributes")?, "attributes", path)?;
        let epoch = parse(get("epoch")?, "epoch", path)?;

        let features = (attributes.iter())
            .map(|attribute| {
                let name = format!("item_feat.{}", attribute.name);
                let ids = file.take(path, &name)?;
                let vocab = attribute.tokens.len() as i64;
                let known = ids.kind() == Kind::Int64 && ids.dim() == 2 && ids.size()[0] == items.len() as i64;
                if !known || ids.numel() == 0 || ids.min().int64_value(&[]) < 0 || ids.max().int64_value(&[]) >= vocab {
                    return Err(Error::new(format!(
                        "expected [{}, S] ids below {vocab}, found something else",
                        items.len()
                    ))
                    .at(path)
                    .tensor(name)
                    .hint("the file is damaged: use another checkpoint"));
                }
                Ok(ItemFeature { name: attribute.name.clone(), kind: attribute.kind, vocab, ids })
            })
            .collect::<Result<Vec<_>>>()?;
        let length = config.data.max_item_list_length as i64;
        check_sizes(&config.model, items.len() as i64, length, &features, &file, path, "")?;
        let model = Model::new(&config.model, items.len() as i64, length, features, Kind::Float);
        model.load(path, &mut file, "")?;
        if let Some(name) = file.tensors.keys().next() {
            return Err(Error::new("expected the model's tensors alone, found one that it does not have")
                .at(path)
                .tensor(name)
                .hint("the file belongs to another configuration"));
        }
        Ok(Self { config, model, items, attributes, epoch })
    }

    /// Checks that `config` leaves the model as it was trained.
    ///
    /// # Errors
    /// It would be another model.
    pub fn check_model(&self, path: &Path, config: &RunConfig) -> Result<()> {
        let length = |config: &RunConfig| config.data.max_item_list_length;
        if config.model == self.config.model && length(config) == length(&self.config) {
            return Ok(());
        }
        Err(Error::new("a model key or MAX_ITEM_LIST_LENGTH differs from the checkpoint's configuration")
            .at(path)
            .hint("leave the model's keys away: a checkpoint brings its own"))
    }

    /// Checks that a data set numbers the same items and attribute tokens as the model.
    ///
    /// # Errors
    /// It numbers others.
    pub fn check_dataset(&self, path: &Path, dataset: &Dataset) -> Result<()> {
        let attributes = AttributeTokens::of(dataset);
        let differs = if !self.items.iter().map(String::as_str).eq(dataset.items.iter()) {
            Some(("items".to_owned(), self.items.len(), dataset.items.len()))
        } else {
            (self.attributes.iter().zip(&attributes))
                .find(|(ours, theirs)| ours != theirs)
                .map(|(ours, theirs)| (format!("tokens of `{}`", ours.name), ours.tokens.len(), theirs.tokens.len()))
        };
        let Some((what, expected, found)) = differs else { return Ok(()) };
        Err(Error::new(format!(
            "the data set's {what} are not the checkpoint's: expected {expected}, found {found}, or others"
        ))
        .at(path)
        .hint("evaluate on the files and filters that the model was trained on"))
    }
}

impl AttributeTokens {
    pub(super) fn of(dataset: &Dataset) -> Vec<Self> {
        let attributes = dataset.attributes.iter();
        attributes
            .map(|a| Self { name: a.name.clone(), kind: a.kind, tokens: a.vocab.iter().map(str::to_owned).collect() })
            .collect()
    }
}

/// The metadata of a sealed checkpoint of a known format.
fn checked_metadata(file: &mut TensorFile, path: &Path) -> Result<BTreeMap<String, String>> {
    let metadata = std::mem::take(&mut file.metadata);
    let format = get(&metadata, "format", path)?;
    if ![FORMAT, FORMER_FORMAT].contains(&format) {
        let hint = match format.starts_with("dif-sr training") {
            true => "give the best.safetensors beside it, or the run folder",
            false => "use the version of dif-sr that wrote it",
        };
        return Err(Error::new(format!("expected the format `{FORMAT}`, found `{format}`")).at(path).hint(hint));
    }
    if file.seal.is_none() {
        return Err(Error::new("expected a checkpoint with its checksum, found none")
            .at(path)
            .hint("the file was damaged or changed after it was written: use another checkpoint"));
    }
    Ok(metadata)
}

fn get<'a>(metadata: &'a BTreeMap<String, String>, key: &str, path: &Path) -> Result<&'a str> {
    metadata.get(key).map(String::as_str).ok_or_else(|| {
        Error::new(format!("expected a checkpoint of this program, found no `{key}` in the metadata"))
            .at(path)
            .hint("give a best.safetensors or the run folder that holds it")
    })
}

/// The tokens of a vocabulary as two tensors: their bytes, and where each ends.
fn stored_tokens(tokens: &Vocabulary) -> [Stored<'_>; 2] {
    let text = tokens.iter().map(str::len).sum::<usize>() as i64;
    let text =
        Stored::new(TEXT, Kind::Uint8, &[text], |take| tokens.iter().try_for_each(|token| take(token.as_bytes())));
    let ends = Stored::new(ENDS, Kind::Int64, &[tokens.len() as i64], |take| {
        let mut end = 0_i64;
        tokens.iter().try_for_each(|token| {
            end += token.len() as i64;
            take(&end.to_le_bytes())
        })
    });
    [text, ends]
}

/// The reverse of [`stored_tokens`].
fn tokens(file: &mut TensorFile, path: &Path) -> Result<Vec<String>> {
    let [text, ends] = [(TEXT, Kind::Uint8), (ENDS, Kind::Int64)].map(|(name, kind)| {
        let tensor = file.take(path, name)?;
        let is_list = tensor.kind() == kind && tensor.dim() == 1;
        if is_list { Ok(tensor) } else { Err(damaged(name, path)) }
    });
    let (text, ends) = (Vec::<u8>::try_from(text?)?, Vec::<i64>::try_from(ends?)?);
    let mut start = 0;
    let tokens = ends.iter().map(|&end| {
        let token = usize::try_from(end).ok().and_then(|end| text.get(std::mem::replace(&mut start, end)..end));
        token.and_then(|token| String::from_utf8(token.to_vec()).ok()).ok_or_else(|| damaged(ENDS, path))
    });
    let tokens = tokens.collect::<Result<Vec<String>>>()?;
    if start == text.len() && !tokens.is_empty() { Ok(tokens) } else { Err(damaged(ENDS, path)) }
}

fn damaged(name: &str, path: &Path) -> Error {
    Error::new("expected the items' tokens in UTF-8 and where each ends, found something else")
        .at(path)
        .tensor(name)
        .hint("the file is damaged: use another checkpoint")
}

fn parse<T: for<'a> Deserialize<'a>>(text: &str, key: &str, path: &Path) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        Error::new(format!("cannot read `{key}` in the metadata: {e}"))
            .at(path)
            .hint("the file is damaged: use another checkpoint")
    })
}
