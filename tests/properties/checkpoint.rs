//! What is written is read back to the bit, and no file that can be written makes reading panic.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dif_sr::config::{Activation, Architecture, AttributeKind, Fusion, Loss, Pooling, Predictor, RunConfig};
use dif_sr::data::interactions::Filtering;
use dif_sr::data::{Attribute, Dataset, Vocabulary};
use dif_sr::model::{ItemFeature, Model};
use dif_sr::tensors::{TensorFile, write};
use dif_sr::train::Checkpoint;
use once_cell::sync::Lazy;
use proptest::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};
use tempfile::TempDir;

use super::sample::*;

const KINDS: [Kind; 7] = [Kind::Bool, Kind::Uint8, Kind::Int, Kind::Int64, Kind::BFloat16, Kind::Float, Kind::Double];

/// The bytes of a tensor's elements in row-major order, which tell NaNs and zeros of either sign apart.
fn bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = tensor.detach().contiguous();
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}

/// A tensor of arbitrary bits: any number, NaN or infinity that the kind has.
fn arbitrary(kind: Kind, shape: &[i64], random: &mut Random) -> Tensor {
    let n = shape.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
    let byte = |random: &mut Random| random.next() as u8 & if kind == Kind::Bool { 1 } else { 0xff };
    let bytes: Vec<u8> = (0..n).map(|_| byte(random)).collect();
    Tensor::from_data_size(&bytes, shape, kind)
}

/// A configuration, a data set and a float32 model that belong together; the tokens' spelling is arbitrary.
fn run(shape: &Shape, spelling: &str) -> (RunConfig, Dataset, Model) {
    let overrides = [("dataset", "toy"), ("use_gpu", "False")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let mut config = RunConfig::load(&[], &overrides).unwrap_or_else(|e| panic!("{e}"));
    let model = shape.model_of(Kind::Float);
    config.model = model.config().clone();
    config.data.max_item_list_length = shape.length as usize;
    config.data.selected_features = model.features().iter().map(|f| f.name.clone()).collect();
    let vocabulary = |n: i64| {
        let mut vocabulary = Vocabulary::default();
        (1..n).for_each(|id| assert_eq!(vocabulary.intern(&format!("{spelling}{id}")), id));
        vocabulary
    };
    let attribute = |feature: &ItemFeature| Attribute {
        name: feature.name.clone(),
        kind: feature.kind,
        vocab: vocabulary(feature.vocab),
        width: feature.ids.size()[1] as usize,
        ids: ids(&feature.ids),
    };
    let dataset = Dataset {
        name: "toy".to_owned(),
        users: vocabulary(2),
        items: vocabulary(shape.n_items),
        attributes: model.features().iter().map(attribute).collect(),
        user: vec![1],
        item: vec![1],
        time: vec![0.0],
        parts: None,
        warnings: Vec::new(),
        remain_fields: Vec::new(),
        filtering: Filtering { rows_in_file: 1, ..Filtering::default() },
    };
    (config, dataset, model)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The parameters, the attribute tables and the attribute ids.
fn all_tensors(model: &Model) -> Vec<(String, Tensor)> {
    let ids = model.features().iter().map(|f| (f.name.clone(), f.ids.shallow_clone()));
    parameters_and_tables(model).into_iter().chain(ids).collect()
}

/// A checkpoint as it lies on disk, with what a damaged copy of it starts from.
struct Written {
    _folder: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
}

static WRITTEN: Lazy<Written> = Lazy::new(|| {
    let attribute = |kind, width| AttributeShape { kind, vocab: 4, head_size: 3, width };
    let shape = Shape {
        model: Architecture::SasRecD,
        fusion: Fusion::Gate,
        pooling: Pooling::Sum,
        activation: Activation::Gelu,
        predictor: Predictor::Linear,
        loss: Loss::Ce,
        attributes: vec![attribute(AttributeKind::TokenSeq, 2), attribute(AttributeKind::Token, 1)],
        bare: false,
        layers: 2,
        heads: 2,
        head_size: 3,
        inner: 4,
        length: 3,
        n_items: 5,
        rows: 2,
        seed: 212,
    };
    let (config, dataset, model) = run(&shape, "t");
    let folder = folder();
    let path = folder.path().join("best.safetensors");
    Checkpoint::save(&path, &config, &dataset, &model, 3).unwrap_or_else(|e| panic!("{e}"));
    let bytes = fs::read(&path).expect("a file");
    Written { _folder: folder, path, bytes }
});

/// Reads `content` as a checkpoint and as tensors. A panic inside fails the test that called.
fn read(content: &[u8]) -> bool {
    let folder = folder();
    let path = folder.path().join("any.safetensors");
    fs::write(&path, content).expect("written");
    let _ = TensorFile::read(&path);
    Checkpoint::load(&path).is_ok()
}

/// The checkpoint with its metadata or tensors changed; the file itself is whole.
fn rewritten(change: impl FnOnce(&mut TensorFile)) -> bool {
    let mut file = TensorFile::read(&WRITTEN.path).unwrap_or_else(|e| panic!("{e}"));
    change(&mut file);
    let folder = folder();
    let path = folder.path().join("any.safetensors");
    let tensors: Vec<_> = file.tensors.into_iter().collect();
    write(&path, &tensors, &file.metadata).unwrap_or_else(|e| panic!("{e}"));
    Checkpoint::load(&path).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_checkpoint_reads_back_to_the_bit(
        shape in any_model(), spelling in "\\PC{0,6}", epoch in 0..1000_usize,
    ) {
        let (config, dataset, model) = run(&shape, &spelling);
        let mut random = shape.random();
        no_grad(|| {
            for (_, mut tensor) in parameters_and_tables(&model) {
                tensor.copy_(&arbitrary(Kind::Float, &tensor.size(), &mut random));
            }
        });
        let folder = folder();
        let path = folder.path().join("best.safetensors");
        Checkpoint::save(&path, &config, &dataset, &model, epoch).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let read = Checkpoint::load(&path).map_err(|e| TestCaseError::fail(e.to_string()))?;

        prop_assert_eq!(&read.config, &config);
        prop_assert_eq!(read.epoch, epoch);
        prop_assert!(read.items.iter().map(String::as_str).eq(dataset.items.iter()));
        for (read, attribute) in read.attributes.iter().zip(&dataset.attributes) {
            prop_assert_eq!((&read.name, read.kind), (&attribute.name, attribute.kind));
            prop_assert!(read.tokens.iter().map(String::as_str).eq(attribute.vocab.iter()));
        }
        let (ours, written) = (all_tensors(&read.model), all_tensors(&model));
        prop_assert_eq!(ours.len(), written.len());
        for ((name, ours), (of, written)) in ours.iter().zip(&written) {
            prop_assert_eq!((name, ours.size(), ours.kind()), (of, written.size(), written.kind()));
            prop_assert_eq!(bytes(ours), bytes(written), "{}", name);
        }
        prop_assert!(read.check_model(&path, &config).is_ok() && read.check_dataset(&path, &dataset).is_ok());
    }

    #[test]
    fn tensors_read_back_to_the_bit_in_every_kind_and_shape(
        tensors in prop::collection::btree_map(
            "\\PC{1,8}",
            (prop::sample::select(&KINDS[..]), prop::collection::vec(0..4_i64, 0..4), any::<bool>(), any::<u64>()),
            0..5,
        ),
        metadata in prop::collection::btree_map("\\PC{1,8}", "\\PC{0,20}", 0..3),
    ) {
        let tensors: Vec<(String, Tensor)> = (tensors.into_iter())
            .filter(|(name, _)| name != "__metadata__")
            .map(|(name, (kind, shape, transposed, seed))| {
                let tensor = arbitrary(kind, &shape, &mut Random::new(seed));
                // A view whose elements do not lie in order.
                (name, if transposed && shape.len() > 1 { tensor.transpose(0, 1) } else { tensor })
            })
            .collect();
        let folder = folder();
        let path = folder.path().join("tensors.safetensors");
        write(&path, &tensors, &metadata).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let read = TensorFile::read(&path).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(&read.metadata, &metadata);
        prop_assert!(read.tensors.keys().eq(tensors.iter().map(|(name, _)| name)));
        for ((name, read), (_, written)) in read.tensors.iter().zip(&tensors) {
            prop_assert_eq!((read.size(), read.kind()), (written.size(), written.kind()), "{}", name);
            prop_assert_eq!(bytes(read), bytes(written), "{}", name);
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_checkpoint_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!read(&content), "random bytes are no checkpoint");
    }

    #[test]
    fn no_header_makes_reading_a_checkpoint_panic(
        header in prop_oneof![
            "\\PC{0,60}",
            concat!(
                r#"\{("(__metadata__|a)":(\{"(format|config|dtype|shape)":"#,
                r#"("\PC{0,6}"|\[[0-9,-]{0,12}\]|[0-9]{0,20})\}|1),?){0,3}\}"#
            ),
            // A dtype and offsets that fit together, with shapes up to an overflow.
            ("(F32|I64|F16|U8|BOOL|F8_E4M3)", "[0-9]{1,20}", "[0-9]{1,20}").prop_map(|(dtype, a, b)| {
                format!(r#"{{"a":{{"dtype":"{dtype}","shape":[{a},{b},0],"data_offsets":[0,0]}}}}"#)
            }),
        ],
        claimed in prop::option::of(any::<u64>()), tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let length = claimed.unwrap_or(header.len() as u64);
        prop_assert!(!read(&[&length.to_le_bytes()[..], header.as_bytes(), &tail].concat()));
    }

    #[test]
    fn a_truncated_checkpoint_is_refused(cut in 0.0..1.0) {
        let bytes = &WRITTEN.bytes;
        prop_assert!(!read(&bytes[..(bytes.len() as f64 * cut) as usize]));
    }

    #[test]
    fn a_checkpoint_with_changed_bytes_is_refused(changes in prop::collection::vec((0.0..1.0, any::<u8>()), 1..6)) {
        let mut bytes = WRITTEN.bytes.clone();
        for (at, byte) in changes {
            let at = (bytes.len() as f64 * at) as usize;
            bytes[at] = byte;
        }
        prop_assert_eq!(read(&bytes), bytes == WRITTEN.bytes);
    }

    #[test]
    fn no_number_in_its_configuration_makes_reading_a_checkpoint_panic_or_be_read_as_another_model(
        line in any::<prop::sample::Index>(),
        number in prop_oneof![
            6 => 0..4_i64, // fewer layers among them
            5 => prop::sample::select(vec![20, 1000, 1_000_000, 1 << 40, i64::MAX, -1]),
        ],
    ) {
        // The sizes of the model, every one of which the tensors contradict if it is changed.
        let sizes = ["n_layers", "hidden_size", "inner_size", "MAX_ITEM_LIST_LENGTH", "attribute_hidden_size"];
        let mut changed = false;
        let read = rewritten(|file| {
            let config = file.metadata.get_mut("config").expect("a configuration");
            let key = line.get(&sizes);
            let lines = config.lines().collect::<Vec<_>>();
            let at = lines.iter().position(|line| line.starts_with(&format!("{key}:"))).expect("a key of the model");
            // A list stands below its key.
            let at = at + usize::from(lines[at].ends_with(':'));
            let (head, old) = lines[at].rsplit_once(' ').expect("a value");
            changed = old != number.to_string();
            let line = format!("{head} {number}");
            *config = [&lines[..at], &[line.as_str()], &lines[at + 1..]].concat().join("\n");
        });
        prop_assert_eq!(read, !changed);
    }

    #[test]
    fn a_checkpoint_that_lacks_a_tensor_is_refused(which in any::<prop::sample::Index>()) {
        let read = rewritten(|file| {
            let name = which.get(&file.tensors.keys().cloned().collect::<Vec<_>>()).clone();
            file.tensors.remove(&name);
        });
        prop_assert!(!read);
    }

    #[test]
    fn a_checkpoint_with_a_tensor_of_another_kind_or_shape_does_not_make_reading_panic(
        which in any::<prop::sample::Index>(), kind in prop::sample::select(&KINDS[..]),
        shape in prop::collection::vec(0..4_i64, 0..4), seed in any::<u64>(),
    ) {
        let _ = rewritten(|file| {
            let name = which.get(&file.tensors.keys().cloned().collect::<Vec<_>>()).clone();
            file.tensors.insert(name, arbitrary(kind, &shape, &mut Random::new(seed)));
        });
    }
}

/// The header says what the bytes behind it are, so that every one of its bits is tried; of the tensors, samples.
#[test]
fn no_bit_of_a_checkpoint_can_flip_unnoticed() {
    let bytes = &WRITTEN.bytes;
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let samples = (header..bytes.len()).step_by(97).enumerate().map(|(i, at)| (at, i % 8));
    let path = Path::new("flipped.safetensors");
    for (at, bit) in (0..header).flat_map(|at| (0..8).map(move |bit| (at, bit))).chain(samples) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        if let Ok(file) = TensorFile::parse(path, &flipped) {
            // A file without a seal is one of another program, which is read but is no checkpoint.
            assert!(file.seal.is_none() && !read(&flipped), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn equal_models_are_written_as_equal_bytes() {
    let folder = folder();
    let path = folder.path().join("again.safetensors");
    let read = Checkpoint::load(&WRITTEN.path).unwrap_or_else(|e| panic!("{e}"));
    let file = TensorFile::read(&WRITTEN.path).unwrap_or_else(|e| panic!("{e}"));
    let tensors: Vec<_> = file.tensors.into_iter().collect();
    let seal = write(&path, &tensors, &file.metadata).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(fs::read(&path).expect("a file"), WRITTEN.bytes);
    assert_eq!((Some(seal), read.epoch), (file.seal, 3));
}

#[test]
fn kinds_that_the_format_does_not_take_are_refused_and_nothing_is_written() {
    let folder = folder();
    let path = folder.path().join("tensors.safetensors");
    let complex = Tensor::zeros([2], (Kind::ComplexFloat, Device::Cpu));
    assert!(write(&path, &[("x".to_owned(), complex)], &BTreeMap::new()).is_err());
    assert!(!Path::new(&path).exists());
}

/// A training must not find that out when it reads its model back.
#[test]
fn a_header_that_no_reader_takes_is_not_written() {
    let folder = folder();
    let path = folder.path().join("tokens.safetensors");
    let tokens = BTreeMap::from([("items".to_owned(), "x".repeat(100_000_000))]);
    let refused = write(&path, &[], &tokens).expect_err("too long").to_string();
    assert!(refused.contains("tokens of at most 100000000 bytes, found 10000"), "{refused}");
    assert!(!path.exists());
}

/// The corpus of the fuzz targets was written when tokens stood in the metadata.
#[test]
fn a_checkpoint_with_its_tokens_in_the_metadata_is_read_as_ever() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/checkpoint/good_dif_sr.safetensors");
    let file = TensorFile::read(&path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(file.metadata["format"], "dif-sr checkpoint 2");
    let expected: Vec<String> = serde_json::from_str(&file.metadata["items"]).expect("a list");
    let read = Checkpoint::load(&path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((read.items, read.model.n_items()), (expected.clone(), expected.len() as i64));
}

#[test]
fn tokens_that_end_where_none_can_are_refused() {
    let folder = folder();
    let path = folder.path().join("best.safetensors");
    let good = TensorFile::read(&WRITTEN.path).unwrap_or_else(|e| panic!("{e}"));
    let (text, ends) = (good.tensors["items.text"].shallow_clone(), good.tensors["items.ends"].shallow_clone());
    let beyond = &ends + text.numel() as i64;
    for (name, wrong) in [
        ("items.ends", ends.flip([0])),
        ("items.ends", &ends * -1),
        ("items.ends", beyond),
        ("items.ends", ends.to_kind(Kind::Int)),
        ("items.text", text.narrow(0, 0, text.numel() as i64 - 1)),
        ("items.text", text.full_like(0xff)),
        ("items.text", Tensor::cat(&[&text, &text], 0)),
    ] {
        let tensors = good.tensors.iter().map(|(other, tensor)| {
            (other.clone(), if other == name { wrong.shallow_clone() } else { tensor.shallow_clone() })
        });
        write(&path, &tensors.collect::<Vec<_>>(), &good.metadata).unwrap_or_else(|e| panic!("{e}"));
        let refused = Checkpoint::load(&path).expect_err(name).to_string();
        assert!(refused.contains("items") && refused.contains("the file is damaged"), "{refused}");
    }
}
