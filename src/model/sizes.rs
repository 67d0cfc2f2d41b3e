//! Sizes that a configuration names, held against the tensors of a file before memory is asked for in those sizes.

use std::path::Path;

use tch::{Kind, Tensor};

use super::ItemFeature;
use super::embedding::table_name;
use super::input;
use crate::config::{Architecture, Fusion, ModelConfig, Predictor};
use crate::tensors::TensorFile;
use crate::{Error, Result};

/// Checks that `file` holds, under `prefix`, tensors of every size that a model of this configuration would have, all
/// of one floating kind.
///
/// # Errors
/// A tensor that is missing, of another shape, or of another kind than the item embedding.
pub fn check_sizes(
    config: &ModelConfig,
    n_items: i64,
    max_len: i64,
    features: &[ItemFeature],
    file: &TensorFile,
    path: &Path,
    prefix: &str,
) -> Result<()> {
    let item = format!("{prefix}item_embedding.weight");
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
        ("item_embedding.weight".to_owned(), [n_items, h]),
        ("position_embedding.weight".to_owned(), [max_len, h]),
    ];
    match config.model {
        Architecture::SasRec => {}
        Architecture::SasRecF => {
            let (token, token_seq) = input::tables(features, h);
            let tables = token.into_iter().chain(token_seq);
            shapes.extend(tables.map(|(name, shape)| (format!("feature_embed_layer.{name}.weight"), shape)));
            shapes.push(("concat_layer.weight".to_owned(), [h, h * (1 + features.len() as i64)]));
        }
        Architecture::SasRecD => {
            for (i, (feature, &size)) in features.iter().zip(&config.attribute_hidden_size).enumerate() {
                let table = format!("feature_embed_layer_list.{i}.{}", table_name(feature.kind));
                shapes.push((table, [feature.vocab, size]));
                if config.attribute_predictor == Predictor::Linear {
                    shapes.push((format!("ap.{i}.weight"), [feature.vocab, h]));
                }
            }
        }
    }
    shapes.into_iter().chain((0..config.n_layers).flat_map(move |k| layer_shapes(config, max_len, k)))
}

fn layer_shapes(config: &ModelConfig, max_len: i64, k: i64) -> Vec<(String, [i64; 2])> {
    let h = config.hidden_size;
    let dif = config.model == Architecture::SasRecD;
    let streams = 2 + config.attribute_hidden_size.len() as i64;
    let mut shapes = Vec::new();
    let mut layer = |name: &str, shape| shapes.push((format!("trm_encoder.layer.{k}.{name}.weight"), shape));
    layer("feed_forward.dense_1", [config.inner_size, h]);
    layer("multi_head_attention.query", [h, h]);
    for (i, &size) in config.attribute_hidden_size.iter().enumerate().filter(|_| dif) {
        layer(&format!("multi_head_attention.query_layers.{i}"), [size, size]);
    }
    match config.fusion_type {
        _ if !dif => {}
        Fusion::Sum => {}
        Fusion::Concat => layer("multi_head_attention.fusion_layer", [max_len, streams * max_len]),
        Fusion::Gate => layer("multi_head_attention.fusion_layer.projection.0", [max_len, max_len]),
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
