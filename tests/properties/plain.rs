//! Attention from scratch: what DIF attention is when only the items' stream speaks.

use dif_sr::config::Fusion;
use dif_sr::model::Model;
use proptest::prelude::*;
use tch::Tensor;

use super::sample::*;

/// Rows of float64.
type Matrix = Vec<Vec<f64>>;

fn matrix(tensor: &Tensor) -> Matrix {
    values(tensor).chunks(tensor.size()[1] as usize).map(<[f64]>::to_vec).collect()
}

/// x · weightᵀ + bias.
fn linear(x: &Matrix, model: &Model, path: &str) -> Matrix {
    let weight = matrix(&parameter(model, &format!("{path}.weight")));
    let bias = values(&parameter(model, &format!("{path}.bias")));
    let row = |x: &Vec<f64>| {
        let dot = |w: &Vec<f64>| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
        weight.iter().zip(&bias).map(|(w, b)| dot(w) + b).collect()
    };
    x.iter().map(row).collect()
}

fn layer_norm(x: &Matrix, model: &Model, path: &str, eps: f64) -> Matrix {
    let weight = values(&parameter(model, &format!("{path}.weight")));
    let bias = values(&parameter(model, &format!("{path}.bias")));
    let row = |x: &Vec<f64>| {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let normal = x.iter().map(|x| (x - mean) / (variance + eps).sqrt());
        normal.zip(&weight).zip(&bias).map(|((x, w), b)| x * w + b).collect()
    };
    x.iter().map(row).collect()
}

/// softmax(q · kᵀ / √d) over the keys up to each query and below `len`, per head, times v.
fn attend(q: &Matrix, k: &Matrix, v: &Matrix, heads: usize, len: usize) -> Matrix {
    let d = q[0].len() / heads;
    let mut context = vec![vec![0.0; q[0].len()]; q.len()];
    for head in (0..heads).map(|h| h * d..(h + 1) * d) {
        for (query, out) in context.iter_mut().enumerate() {
            let score = |key: usize| -> f64 {
                let products = q[query][head.clone()].iter().zip(&k[key][head.clone()]).map(|(q, k)| q * k);
                products.sum::<f64>() / (d as f64).sqrt()
            };
            let weights: Vec<f64> = (0..len.min(query + 1)).map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for column in head.clone() {
                out[column] = weights.iter().enumerate().map(|(key, w)| w / total * v[key][column]).sum();
            }
        }
    }
    context
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn under_sum_without_attributes_and_positions_it_is_plain_scaled_dot_product_attention(
        shape in shapes(&[Fusion::Sum], &SUM_OR_MEAN),
    ) {
        let (model, batch) = (shape.model(), shape.batch());
        silence(&model, &["query_p", "key_p", "query_layers", "key_layers"]);
        let eps = shape.config().layer_norm_eps;
        let layers = model.forward(&batch.item_seq, &batch.item_seq_len, false).layers;
        let embedding = matrix(&parameter(&model, "item_embedding.weight"));
        for (row, &len) in ids(&batch.item_seq_len).iter().enumerate() {
            let items = ids(&batch.item_seq.get(row as i64));
            let embedded = items.iter().map(|&item| embedding[item as usize].clone()).collect();
            let mut hidden = layer_norm(&embedded, &model, "LayerNorm", eps);
            for (k, layer) in layers.iter().enumerate() {
                let path = |part: &str| format!("trm_encoder.layer.{k}.multi_head_attention.{part}");
                let [q, k, v] = ["query", "key", "value"].map(|part| linear(&hidden, &model, &path(part)));
                let context = attend(&q, &k, &v, shape.heads as usize, len as usize);
                let mut output = linear(&context, &model, &path("dense"));
                output.iter_mut().flatten().zip(hidden.iter().flatten()).for_each(|(out, x)| *out += x);
                let expected = layer_norm(&output, &model, &path("LayerNorm"), eps);
                let expected = Tensor::from_slice(&expected.concat());
                let ours = layer.attention.output.get(row as i64);
                equal(&format!("row {row}"), &ours.flatten(0, -1), &expected)?;
                hidden = matrix(&layer.output.get(row as i64));
            }
        }
    }
}
