//! The layer is DIF-SR's: what it computes on the golden case `gate` is what the authors' code computed.

use candle_core::{D, Device, Result, Tensor};
use dif_sr_judge_candle::{Attended, Attention, LayerNorm, Linear, Stream};
use judge::{Case, Dump, Judge};

/// A tensor of the case in candle.
fn tensor(case: &Case, name: &str) -> Tensor {
    let golden = &case.tensors[name];
    Tensor::from_slice(golden.values(), golden.shape(), &Device::Cpu).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn linear(case: &Case, name: &str) -> Linear {
    let [weight, bias] = ["weight", "bias"].map(|part| tensor(case, &format!("param.{name}.{part}")));
    Linear { weight, bias }
}

fn norm(case: &Case, name: &str) -> LayerNorm {
    let Linear { weight, bias } = linear(case, name);
    LayerNorm { weight, bias, eps: 1e-12 }
}

fn attention(case: &Case) -> Attention {
    let at = |name: &str| linear(case, &format!("trm_encoder.layer.0.multi_head_attention.{name}"));
    let stream = |query: &str, key: &str| Stream { query: at(query), key: at(key) };
    Attention {
        n_heads: case.config.n_heads,
        item: stream("query", "key"),
        position: stream("query_p", "key_p"),
        attributes: vec![stream("query_layers.0", "key_layers.0")],
        gate: [at("fusion_layer.projection.0"), at("fusion_layer.projection.2")],
        value: at("value"),
        dense: at("dense"),
        norm: norm(case, "trm_encoder.layer.0.multi_head_attention.LayerNorm"),
    }
}

fn ids(case: &Case, name: &str) -> Vec<Vec<i64>> {
    let golden = &case.tensors[name];
    golden.values().chunks(golden.shape()[1]).map(|row| row.iter().map(|&id| id as i64).collect()).collect()
}

/// The rows of a table.
fn look_up(table: &Tensor, ids: &[Vec<i64>]) -> Result<Tensor> {
    let flat: Vec<i64> = ids.concat();
    let rows = table.index_select(&Tensor::from_slice(&flat, flat.len(), &Device::Cpu)?, 0)?;
    rows.reshape((ids.len(), ids[0].len(), table.dim(1)?))
}

/// The first layer's attention on the case's batch.
fn attend(case: &Case, attention: &Attention) -> Result<Attended> {
    let item_seq = ids(case, "in.item_seq");
    let items = look_up(&tensor(case, "param.item_embedding.weight"), &item_seq)?;
    let x = norm(case, "LayerNorm").forward(&items)?;
    let position =
        tensor(case, "param.position_embedding.weight").unsqueeze(0)?.broadcast_as(x.shape())?.contiguous()?;
    // `pooling_mode: sum`: the vectors of an item's tokens are added, padding tokens left out.
    let tokens = ids(case, "in.item_feat.categories");
    let table = tensor(case, "param.feature_embed_layer_list.0.token_seq_embedding");
    let of_items: Vec<Tensor> = (tokens.iter())
        .map(|tokens| {
            let own: Vec<i64> = tokens.iter().copied().filter(|&token| token != 0).collect();
            match own.len() {
                0 => table.get(0)?.zeros_like(),
                n => table.index_select(&Tensor::from_slice(&own, n, &Device::Cpu)?, 0)?.sum(0),
            }
        })
        .collect::<Result<_>>()?;
    let categories = look_up(&Tensor::stack(&of_items, 0)?, &item_seq)?;
    attention.forward(&x, &position, &[categories], &item_seq)
}

fn put(dump: &mut Dump, name: &str, tensor: &Tensor) {
    let values: Vec<f64> = tensor.flatten_all().and_then(|flat| flat.to_vec1()).unwrap_or_else(|e| panic!("{e}"));
    dump.put(format!("out.layer.0.{name}"), tensor.dims(), &values).unwrap_or_else(|e| panic!("{e}"));
}

fn dump(case: &Case, attention: &Attention) -> Dump {
    let Attended { fused, probs, output } = attend(case, attention).unwrap_or_else(|e| panic!("{e}"));
    let mut dump = Dump::new();
    put(&mut dump, "fused_scores", &fused);
    put(&mut dump, "attention_probs", &probs);
    put(&mut dump, "attention_output", &output);
    dump
}

const STAGES: [&str; 3] = ["layer.0.fused_scores", "layer.0.attention_probs", "layer.0.attention_output"];

#[test]
fn the_attention_is_that_of_dif_sr() {
    let case = Case::bundled("gate").unwrap_or_else(|e| panic!("{e}"));
    let judge = Judge::of(&case).require(STAGES).unwrap_or_else(|e| panic!("{e}"));
    judge.assert_holds(&dump(&case, &attention(&case)));
}

/// PyTorch's default epsilon, as many ports have it.
#[test]
fn a_layer_norm_of_another_epsilon_departs() {
    let case = Case::bundled("gate").unwrap_or_else(|e| panic!("{e}"));
    let mut attention = attention(&case);
    attention.norm.eps = 1e-5;
    let judge = Judge::of(&case).require(STAGES).unwrap_or_else(|e| panic!("{e}"));
    let report = judge.judge(&dump(&case, &attention)).unwrap_or_else(|e| panic!("{e}"));
    let departure = report.departure.unwrap_or_else(|| panic!("it departs"));
    assert_eq!(departure.stage.id(), "layer.0.attention_output");
}

#[test]
fn a_softmax_without_scale_and_mask_departs() {
    let case = Case::bundled("gate").unwrap_or_else(|e| panic!("{e}"));
    let mut right = dump(&case, &attention(&case));
    let probs = tensor(&case, "out.layer.0.fused_scores");
    let unmasked =
        probs.exp().and_then(|e| e.broadcast_div(&e.sum_keepdim(D::Minus1)?)).unwrap_or_else(|e| panic!("{e}"));
    put(&mut right, "attention_probs", &unmasked);
    let judge = Judge::of(&case).require(STAGES).unwrap_or_else(|e| panic!("{e}"));
    let text = judge.judge(&right).unwrap_or_else(|e| panic!("{e}")).to_string();
    assert!(text.contains("departs first at layer 0: attention probabilities"), "{text}");
}
