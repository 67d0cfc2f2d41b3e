//! Sizes that a configuration names, held against the tensors of a file before memory is asked for in those sizes.

use std::path::Path;

use tch::{Kind, Tensor};

use super::ItemFeature;
use super::{input, names};
use crate::config::{Architecture, Fusion, ModelConfig, Predictor};
use crate::tensors::TensorFile;
use crate::{Error, Result};

/// Checks that `file` holds, under `prefix`, tensors of every size that a model of this configuration would have, all
/// of one floating kind.
///
/// # Errors
/// A tensor that is missing, of another shape, or of another kind than the item embedding.
pub(crate) fn check_sizes(
    config: &ModelConfig,
    n_items: i64,
    max_len: i64,
    features: &[ItemFeature],
    file: &TensorFile,
    path: &Path,
    prefix: &str,
) -> Result<()> {
    let item = format!("{prefix}{}", names::weight(names::ITEM_EMBEDDING));
    let kind = file.tensors.get(&item).map(Tensor::kind);
    for (name, shape) in deciding_shapes(config, n_items, max_len, features) {
        let name = format!("{prefix}{name}");
        let found = file.tensors.get(&name);
        if found.map(Tensor::size).as_deref() != Some(&shape) {
            let found = found.map_or("none".to_owned(), |found| format!("{:?}", found.size()));
            return Err(Error::new(format!("expected shape {shape:?}, found {found}"))
                .at(path)
                .tensor(name)
                .hint("the file belongs to another configuration or data set"));
        }
    }
    for (name, tensor) in file.tensors.iter().filter(|(name, _)| name.starts_with(prefix)) {
        if Some(tensor.kind()) != kind || !matches!(tensor.kind(), Kind::Float | Kind::Double) {
            let problem = format!("expected float32 or float64, one for all parameters, found {:?}", tensor.kind());
            return Err(Error::new(problem)
                .at(path)
                .tensor(name)
                .hint("write all parameters in float32 or in float64"));
        }
    }
    Ok(())
}

/// One tensor for every size that the model's memory depends on; made one by one, since a configuration may name a million
/// layers.
fn deciding_shapes(
    config: &ModelConfig,
    n_items: i64,
    max_len: i64,
    features: &[ItemFeature],
) -> impl Iterator<Item = (String, [i64; 2])> {
    let h = config.hidden_size;
    let mut shapes = vec![
        (names::weight(names::ITEM_EMBEDDING), [n_items, h]),
        (names::weight(names::POSITION_EMBEDDING), [max_len, h]),
    ];
    match config.model {
        Architecture::SasRec => {}
        Architecture::SasRecF => {
            let (token, token_seq) = input::rows(features);
            let token = token.map(|rows| (names::token_table(), rows)).into_iter();
            let token_seq = token_seq.into_iter().enumerate().map(|(i, rows)| (names::token_seq_table(i), rows));
            shapes.extend(token.chain(token_seq).map(|(table, rows)| (names::weight(table), [rows, h])));
            shapes.push((names::weight(names::CONCAT_LAYER), [h, h * (1 + features.len() as i64)]));
        }
        Architecture::SasRecD => {
            for (i, (feature, &size)) in features.iter().zip(&config.attribute_hidden_size).enumerate() {
                shapes.push((names::attribute_table(i, feature.kind), [feature.vocab, size]));
                if config.attribute_predictor == Predictor::Linear {
                    shapes.push((names::weight(names::nth(names::AP, i)), [feature.vocab, h]));
                }
            }
        }
    }
    shapes.into_iter().chain((0..config.n_layers as usize).flat_map(move |k| layer_shapes(config, max_len, k)))
}

fn layer_shapes(config: &ModelConfig, max_len: i64, k: usize) -> Vec<(String, [i64; 2])> {
    let h = config.hidden_size;
    let dif = config.model == Architecture::SasRecD;
    let streams = 2 + config.attribute_hidden_size.len() as i64;
    let attention = |module: &str| names::weight(names::attention(k, module));
    let mut shapes = vec![
        (names::weight(names::feed_forward(k, names::DENSE_1)), [config.inner_size, h]),
        (attention(names::QUERY), [h, h]),
    ];
    for (i, &size) in config.attribute_hidden_size.iter().enumerate().filter(|_| dif) {
        shapes.push((attention(&names::nth(names::QUERY_LAYERS, i)), [size, size]));
    }
    match config.fusion_type {
        _ if !dif => {}
        Fusion::Sum => {}
        Fusion::Concat => shapes.push((attention(names::FUSION_LAYER), [max_len, streams * max_len])),
        Fusion::Gate => shapes.push((attention(names::GATE_HIDDEN), [max_len, max_len])),
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Case;

    #[test]
    fn the_shape_of_every_matrix_of_every_kind_of_model_is_asked_for() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cases = ["golden/gate_two_attributes", "golden/concat", "golden/sum", "golden/no_predictor"];
        for case in cases.into_iter().chain(["fixtures/baselines/sasrec", "fixtures/baselines/sasrecf_four_attributes"])
        {
            let Case { model, .. } = Case::load(&root.join(case)).unwrap_or_else(|e| panic!("{e}"));
            let parameters = model.named_parameters().into_iter().chain(model.named_tables());
            let mut matrices: Vec<(String, Vec<i64>)> =
                parameters.map(|(name, t)| (name, t.size())).filter(|(_, size)| size.len() == 2).collect();
            let asked: Vec<(String, [i64; 2])> =
                deciding_shapes(model.config(), model.n_items(), model.max_len(), model.features()).collect();
            for (name, shape) in &asked {
                assert!(matrices.iter().any(|(own, size)| own == name && size == shape), "{case}: {name} {shape:?}");
            }
            // Others have the sizes of one that is asked for, transposed or not; a single row is no square of anything.
            matrices.retain(|(_, size)| size[0] > 1);
            for (name, size) in matrices {
                let alike = |shape: &[i64; 2]| *shape == size[..] || [shape[1], shape[0]] == size[..];
                assert!(asked.iter().any(|(_, shape)| alike(shape)), "{case}: nothing is asked for {name} {size:?}");
            }
        }
    }
}
