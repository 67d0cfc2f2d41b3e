//! `last.safetensors`: a training as it stands, with all that going on needs.
//!
//! Parameters and attribute tables bear RecBole's names; beside them stand Adam's state (`adam.*`), the order of the
//! training rows (`order`) and the states of libtorch's generators (`generator.cpu`, on a GPU `generator.cuda` too). The
//! metadata hold the configuration and [`Saved`].

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::Digest;
use tch::{Device, Kind, Tensor};

use super::checkpoint::AttributeTokens;
use super::shares::Shares;
use super::{Position, Training};
use crate::config::RunConfig;
use crate::data::{Dataset, Splits, Vocabulary};
use crate::eval::MetricValues;
use crate::libtorch::{generator_state, generators, set_generator_state};
use crate::run_folder::Mark;
use crate::tensors::{Digested, Stored, TensorFile, hex, to_bytes, write_stored};
use crate::{Error, Result};

/// The version of this layout, under the metadata key `format`.
const FORMAT: &str = "dif-sr training 2";

/// What of a training is no tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    pub position: Position,
    /// The state of the sampler of negative items.
    pub negatives: Option<u64>,
    /// How long the run folder's files were.
    pub mark: Mark,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The seal of the best model's file.
    pub best: Option<String>,
    /// [`fingerprint`].
    pub data: String,
}

/// Writes a training as it is now.
///
/// # Errors
/// A parameter that is not finite: what was saved before is then the last good one, and stays.
pub(super) fn save(path: &Path, training: &Training, saved: &Saved) -> Result<()> {
    let shares = training.shares.as_ref();
    let not_finite = |name: &str| {
        let Position { epoch, batch, .. } = saved.position;
        Error::new(format!("parameter `{name}` is not finite after batch {batch} of epoch {epoch}"))
            .hint("lower learning_rate or set clip_grad_norm")
    };
    if let Some((name, _)) = training.stepper.adam.parameters().find(|(_, parameter)| !is_finite(parameter)) {
        return Err(not_finite(name));
    }
    let (tensors, metadata) = content(training, saved)?;
    let finite = |name: &str, bytes: &[u8]| {
        let all = bytes.as_chunks().0.iter().all(|&x| f32::from_le_bytes(x).is_finite());
        if all { Ok(()) } else { Err(not_finite(name)) }
    };
    let stored = tensors.iter().map(|tensor| Shares::stored(shares, tensor, &finite));
    write_stored(path, stored.collect(), &metadata).map(drop)
}

/// The bytes that [`save`] writes, without what ranks share out; `path` is for messages.
///
/// # Errors
/// No generator of this device.
pub(super) fn common_bytes(path: &Path, training: &Training, saved: &Saved) -> Result<Vec<u8>> {
    let (mut tensors, metadata) = content(training, saved)?;
    tensors.retain(|(name, _)| !training.shares.as_ref().is_some_and(|shares| shares.has(name)));
    to_bytes(path, tensors.iter().map(Stored::tensor).collect(), &metadata).map(|(bytes, _)| bytes)
}

type NamedTensors = Vec<(String, Tensor)>;

/// All tensors of a training as it is now, and the metadata.
fn content(training: &Training, saved: &Saved) -> Result<(NamedTensors, BTreeMap<String, String>)> {
    let Training { config, model, stepper, train, .. } = training;
    let mut tensors = model.named_parameters();
    tensors.extend(model.named_tables());
    tensors.extend(stepper.adam.named_state());
    tensors.push(("order".to_owned(), train.order()));
    for (name, device) in generators(model.device()) {
        tensors.push((name.to_owned(), generator_state(device)?));
    }
    let metadata = BTreeMap::from([
        ("config".to_owned(), config.to_yaml()),
        ("format".to_owned(), FORMAT.to_owned()),
        ("training".to_owned(), serde_json::to_string(saved).expect("numbers and text are JSON")),
    ]);
    Ok((tensors, metadata))
}

/// Looks at some elements at a time: libtorch makes tensors of the answer.
fn is_finite(tensor: &Tensor) -> bool {
    tensor.detach().view([-1]).split(1 << 20, 0).iter().all(|part| part.isfinite().all().int64_value(&[]) != 0)
}

const HINT: &str = "put the file back, or begin another run";

/// Puts `training`, which must be at its start, where [`save`] found it.
///
/// # Errors
/// A file that is damaged, of another configuration, of other data or of another kind of device.
pub(super) fn load(path: &Path, training: &mut Training, data: &str) -> Result<Saved> {
    let file = Shares::open(training.shares.as_ref(), path).map_err(|error| error.hint(HINT))?;
    restore(file, path, training, data)
}

/// Puts `training`, which must be at its start, where another run, read from `path`, saved itself in `file`. Its configuration
/// may differ in what [`Start::config`](super::Start::config) lets change.
pub(super) fn begin(path: &Path, training: &mut Training, data: &str, rows: SharedRows) -> Result<Saved> {
    let file = Shares::open(training.shares.as_ref(), path)?;
    let saved = restore_as(file, path, training, data, rows, |_| true)?;
    training.position.stopping.allow(training.config.train.stopping_step);
    Ok(saved)
}

impl Training<'_> {
    /// Puts the training, which must be at its start, where the bytes of a `last.safetensors` say, as `train --resume` does
    /// with the file; `path` is for messages, and `data` is the [`Prepared::fingerprint`](super::Prepared::fingerprint).
    ///
    /// # Errors
    /// Bytes that are damaged, of another configuration, of other data or of another kind of device; the training may then be
    /// neither here nor there.
    pub fn restore(&mut self, path: &Path, bytes: &[u8], data: &str) -> Result<()> {
        restore(TensorFile::parse(path, bytes)?, path, self, data).map(drop)
    }
}

/// What of a saved training is no tensor, and its configuration.
pub(super) fn metadata(file: &TensorFile, path: &Path) -> Result<(Saved, RunConfig)> {
    let wrong = |problem: String| Error::new(problem).at(path).hint(HINT);
    if file.seal.is_none() || file.metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(wrong(format!(
            "expected the format `{FORMAT}` and a checksum, found another file or a damaged one"
        )));
    }
    let get = |key: &str| file.metadata.get(key).map(String::as_str).unwrap_or_default();
    let saved: Saved = serde_json::from_str(get("training"))
        .map_err(|e| wrong(format!("cannot read `training` in the metadata: {e}")))?;
    Ok((saved, RunConfig::from_yaml(get("config"), path)?))
}

fn restore(file: TensorFile, path: &Path, training: &mut Training, data: &str) -> Result<Saved> {
    let own = training.config;
    // A run that began on one kind of device is refused on the other by its generators' states.
    restore_as(file, path, training, data, SharedRows::Deal, |config| config.differing(own).is_empty())
}

/// What becomes of the rows of an item embedding that ranks share out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SharedRows {
    /// Rank 0 gives them to their owners, who serve it.
    Deal,
    /// They are only looked for.
    Leave,
}

/// `is_own` says whether a configuration is the training's.
fn restore_as(
    mut file: TensorFile,
    path: &Path,
    training: &mut Training,
    data: &str,
    rows: SharedRows,
    is_own: impl Fn(&RunConfig) -> bool,
) -> Result<Saved> {
    let wrong = |problem: String| Error::new(problem).at(path).hint(HINT);
    let (saved, config) = metadata(&file, path)?;
    if !is_own(&config) {
        return Err(wrong("expected the configuration of config.yaml, found another".to_owned())
            .hint("undo what was changed in config.yaml"));
    }
    if saved.data != data {
        return Err(wrong("the data set is not the one that this run was begun on".to_owned())
            .hint("put the files back as they were, or name their folder with --data_path"));
    }
    let Position { epoch, batch, best, .. } = &saved.position;
    let restorable = |(_, values): &(usize, Vec<f64>)| MetricValues::restored(&config.eval, values).is_some();
    let possible = *epoch <= config.train.epochs
        && *batch <= training.batches()
        && saved.negatives.is_some() == training.negatives.is_some()
        && best.as_ref().is_none_or(restorable);
    let order = file.take(path, "order")?;
    if !possible || !is_permutation(&order, training.train.n()) {
        return Err(wrong("expected a position that a training can have, found another".to_owned()));
    }
    let device = training.model.device();
    let on_gpu = file.tensors.contains_key("generator.cuda");
    if on_gpu != device.is_cuda() {
        return Err(wrong(format!("the run computed on another kind of device than {device:?}"))
            .hint(format!("go on with --use_gpu={}", if on_gpu { "True" } else { "False" })));
    }

    let shares = training.shares.as_ref();
    shares.map_or(Ok(()), |shares| shares.check(path, &file))?;
    training.model.load(path, &mut file, "")?;
    if let Some(fast) = &mut training.stepper.fast {
        fast.reload(training.model);
    }
    training.stepper.adam.load(path, &mut file, |name| shares.is_some_and(|shares| shares.has(name)))?;
    training.train.permute(&order);
    if let (Some(sampler), Some(state)) = (&mut training.negatives, saved.negatives) {
        sampler.set_state(state);
    }
    training.position = saved.position.clone();
    for (name, device) in generators(device) {
        set_generator_state(device, &file.take(path, name)?).map_err(|error| error.at(path))?;
    }
    if rows == SharedRows::Deal {
        file.on_disk.iter().try_for_each(|(name, rows)| shares.map_or(Ok(()), |shares| shares.deal(name, rows)))?;
    }
    Ok(saved)
}

fn is_permutation(order: &Tensor, n: i64) -> bool {
    let kind = (Kind::Int64, Device::Cpu);
    order.kind() == Kind::Int64 && order.size() == [n] && order.sort(0, false).0 == Tensor::arange(n, kind)
}

/// A SHA-256 of all that a training takes from its data: rows, tokens and attributes.
pub(super) fn fingerprint(dataset: &Dataset, splits: &Splits) -> String {
    let hashes = [&splits.train, &splits.valid, &splits.test].map(|rows| rows.hashes());
    let ids: Vec<&Vec<i64>> = dataset.attributes.iter().map(|attribute| &attribute.ids).collect();
    let all = (hashes, Tokens(&dataset.users), Tokens(&dataset.items), AttributeTokens::of(dataset), ids);
    // As it is written: all items' tokens as one text would be as large as the data set.
    let mut digest = BufWriter::new(Digested::default());
    serde_json::to_writer(&mut digest, &all).expect("text and numbers are JSON");
    hex(&digest.into_inner().expect("a checksum takes all bytes").0.finalize())
}

/// A list of tokens.
struct Tokens<'a>(&'a Vocabulary);

impl Serialize for Tokens<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter())
    }
}
