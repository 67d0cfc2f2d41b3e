//! DIF-SR once more, from the paper and the golden README alone, with a switch for each fault that others really have.
//!
//! It shares no code with the crate and writes its formulas out where libtorch has an operation for them, so that it and the
//! crate cannot be wrong in the same way by accident.

use std::collections::BTreeMap;

use serde_yaml::Value;
use tch::{Kind, Tensor, no_grad};

type Tensors = BTreeMap<String, Tensor>;

/// A fault in the model or in its training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    ScaleByAttributeHeadSize,
    MaskBeforeFusion,
    AttributeTableTrained,
    PaddingRowZeroed,
    PositionAddedToInput,
    OffByOneGather,
    LeftPadding,
    LabelClippedTo1,
    Index0InAttributeLoss,
    TanhGelu,
    LayerNormEps1e5,
}

pub struct Implementation<'a> {
    config: &'a Value,
    /// `in.*` without the prefix.
    inputs: Tensors,
    parameters: Tensors,
    fault: Option<Planted>,
    kind: Kind,
}

impl<'a> Implementation<'a> {
    /// From a golden case's `config.yaml` and tensors, to compute in `kind`.
    pub fn new(config: &'a Value, case: &Tensors, fault: Option<Planted>, kind: Kind) -> Self {
        let part = |prefix: &str| -> Tensors {
            let part = case.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor)));
            part.map(|(name, tensor)| (name.to_owned(), tensor.copy())).collect()
        };
        let trains = |name: &str| {
            !name.starts_with("feature_embed_layer_list.") || fault == Some(Planted::AttributeTableTrained)
        };
        let parameters = part("param.").into_iter().map(|(name, parameter)| {
            let parameter = parameter.to_kind(kind);
            if name == "item_embedding.weight" && fault == Some(Planted::PaddingRowZeroed) {
                let _ = parameter.get(0).zero_();
            }
            let trained = trains(&name);
            (name, parameter.set_requires_grad(trained))
        });
        Self { config, inputs: part("in."), parameters: parameters.collect(), fault, kind }
    }

    /// Forward, losses, gradients and five steps of Adam, named as in the golden case.
    pub fn dump(self) -> Tensors {
        let mut dump: Tensors = self.named("param", |p| Some(p.shallow_clone()));
        let total = self.forward(&mut dump);
        total.backward();
        dump.extend(self.named("grad", gradient));
        let mut moments: BTreeMap<&str, (Tensor, Tensor)> = BTreeMap::new();
        let lr = self.config["learning_rate"].as_f64().expect("a number");
        for step in 1..=self.int("train_steps") {
            let total = self.forward(&mut Tensors::new());
            dump.insert(format!("train.loss.{step}"), total.detach());
            self.parameters.values().for_each(|p| p.shallow_clone().zero_grad());
            total.backward();
            for (name, p) in &self.parameters {
                let Some(g) = gradient(p) else { continue };
                let (m, v) = moments.entry(name).or_insert_with(|| (g.zeros_like(), g.zeros_like()));
                *m = &*m * 0.9 + &g * 0.1;
                *v = &*v * 0.999 + &g * &g * 0.001;
                let (m, v) = (&*m / (1.0 - 0.9_f64.powi(step as i32)), &*v / (1.0 - 0.999_f64.powi(step as i32)));
                no_grad(|| p.shallow_clone().copy_(&(p - m / (v.sqrt() + 1e-8) * lr)));
            }
        }
        dump.extend(self.named("after5", |p| p.requires_grad().then(|| p.shallow_clone())));
        dump
    }

    /// The total loss; all that the case holds is put into `out`.
    fn forward(&self, out: &mut Tensors) -> Tensor {
        let mut put = |name: String, tensor: &Tensor| _ = out.insert(format!("out.{name}"), tensor.detach());
        let (mut seq, mut len) = (self.inputs["item_seq"].copy(), self.inputs["item_seq_len"].copy());
        let length = seq.size()[1];
        if self.has(Planted::LeftPadding) {
            let rows = (0..seq.size()[0]).map(|b| seq.get(b).roll(length - len.int64_value(&[b]), 0));
            (seq, len) = (Tensor::stack(&rows.collect::<Vec<_>>(), 0), len.full_like(length));
        }
        let item = self.look_up(&seq);
        let position = self.p("position_embedding.weight").narrow(0, 0, length).unsqueeze(0).expand_as(&item);
        let attributes: Vec<Tensor> = self.attributes().map(|(i, name, _)| self.embed(i, &name, &seq)).collect();
        let input = if self.has(Planted::PositionAddedToInput) { &item + &position } else { item };
        let mut x = self.norm(&input, "LayerNorm");
        for k in 0..self.int("n_layers") {
            let at = format!("trm_encoder.layer.{k}.multi_head_attention");
            let (fused, probs) = self.attention(&at, &x, &attributes, &position, &seq);
            put(format!("layer.{k}.fused_scores"), &fused);
            put(format!("layer.{k}.attention_probs"), &probs);
            let value = self.heads(&self.linear(&x, &format!("{at}.value")));
            let mixed = Tensor::einsum("bhqk,bkhd->bqhd", &[&probs, &value], None::<i64>).flatten(2, 3);
            x = self.norm(&(self.linear(&mixed, &format!("{at}.dense")) + &x), &format!("{at}.LayerNorm"));
            put(format!("layer.{k}.attention_output"), &x);
            let at = format!("trm_encoder.layer.{k}.feed_forward");
            let inner = self.activation(&self.linear(&x, &format!("{at}.dense_1")));
            x = self.norm(&(self.linear(&inner, &format!("{at}.dense_2")) + &x), &format!("{at}.LayerNorm"));
            put(format!("layer.{k}.output"), &x);
        }
        let one_back = i64::from(!self.has(Planted::OffByOneGather));
        let last = (0..x.size()[0]).map(|b| x.get(b).get((len.int64_value(&[b]) - one_back).min(length - 1)));
        let seq_output = Tensor::stack(&last.collect::<Vec<_>>(), 0);
        put("seq_output".into(), &seq_output);
        let scores = seq_output.matmul(&self.p("item_embedding.weight").tr());
        put("scores".into(), &scores);
        let targets = &self.inputs["pos_items"];
        let of_target = scores.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1);
        let item = (scores.logsumexp([1], false) - of_target).mean(None::<Kind>);
        put("loss.item".into(), &item);
        let mut weighted = vec![item];
        if self.config["attribute_predictor"] == "linear" {
            for (i, name, vocab) in self.attributes() {
                let loss = self.attribute_loss(&self.linear(&seq_output, &format!("ap.{i}")), &name, vocab, targets);
                put(format!("loss.attribute.{name}"), &loss);
                weighted.push(loss * self.config["lamdas"][i].as_f64().expect("a number"));
            }
        }
        let total = Tensor::stack(&weighted, 0).sum(None::<Kind>);
        put("loss.total".into(), &total);
        total
    }

    fn attention(
        &self,
        at: &str,
        x: &Tensor,
        attributes: &[Tensor],
        position: &Tensor,
        seq: &Tensor,
    ) -> (Tensor, Tensor) {
        let length = seq.size()[1];
        let hidden_from = Tensor::ones([length, length], (Kind::Bool, seq.device())).triu(1).unsqueeze(0);
        let hidden_from = hidden_from.logical_or(&seq.eq(0).unsqueeze(1)).unsqueeze(1);
        let mask = hidden_from.to_kind(self.kind) * -10000.0;
        let stream = |x: &Tensor, query: &str, key: &str| {
            let [q, k] = [query, key].map(|name| self.heads(&self.linear(x, &format!("{at}.{name}"))));
            Tensor::einsum("bqhd,bkhd->bhqk", &[q, k], None::<i64>)
        };
        let mut streams: Vec<Tensor> = (attributes.iter().enumerate())
            .map(|(i, x)| stream(x, &format!("query_layers.{i}"), &format!("key_layers.{i}")))
            .collect();
        streams.extend([stream(x, "query", "key"), stream(position, "query_p", "key_p")]);
        if self.has(Planted::MaskBeforeFusion) {
            streams.iter_mut().for_each(|scores| *scores = &*scores + &mask);
        }
        let layer = format!("{at}.fusion_layer");
        let fused = match self.config["fusion_type"].as_str().expect("a name") {
            "sum" => streams.iter().skip(1).fold(streams[0].copy(), |sum, scores| sum + scores),
            "concat" => self.linear(&Tensor::cat(&streams, -1), &layer),
            _ => {
                let energies: Vec<Tensor> = (streams.iter())
                    .map(|s| {
                        self.linear(
                            &self.linear(s, &format!("{layer}.projection.0")).relu(),
                            &format!("{layer}.projection.2"),
                        )
                    })
                    .collect();
                let weights = Tensor::cat(&energies, -1).softmax(-1, None::<Kind>);
                let weighted = streams.iter().enumerate().map(|(i, s)| s * weights.narrow(-1, i as i64, 1));
                weighted.reduce(|sum, s| sum + s).expect("items and positions")
            }
        };
        let size = match self.has(Planted::ScaleByAttributeHeadSize) {
            true => self.config["attribute_hidden_size"][0].as_i64().expect("a size"),
            false => self.int("hidden_size"),
        };
        let scaled = &fused / ((size / self.int("n_heads")) as f64).sqrt();
        let masked = if self.has(Planted::MaskBeforeFusion) { scaled } else { scaled + mask };
        (fused, masked.softmax(-1, None::<Kind>))
    }

    /// The mean binary cross-entropy from logits.
    fn attribute_loss(&self, logits: &Tensor, name: &str, vocab: i64, targets: &Tensor) -> Tensor {
        let tokens = self.inputs[&format!("item_feat.{name}")].index_select(0, targets).view([targets.size()[0], -1]);
        let columns: Vec<Tensor> =
            (0..vocab).map(|token| tokens.eq(token).sum_dim_intlist(1, false, Kind::Int64)).collect();
        let counts = Tensor::stack(&columns, 1);
        let labels = if self.has(Planted::LabelClippedTo1) { counts.gt(0) } else { counts }.to_kind(self.kind);
        let losses = logits.relu() - logits * labels + ((-logits.abs()).exp() + 1.0).log();
        let first = i64::from(!self.has(Planted::Index0InAttributeLoss));
        losses.narrow(1, first, vocab - first).mean(None::<Kind>)
    }

    /// Item vectors. The padding item's own is a constant here: its row learns from the scores alone.
    fn look_up(&self, items: &Tensor) -> Tensor {
        let rows = self.p("item_embedding.weight").index_select(0, &items.flatten(0, -1));
        let mut shape = items.size();
        shape.push(self.int("hidden_size"));
        let rows = rows.view(&shape[..]);
        rows.detach().where_self(&items.eq(0).unsqueeze(-1), &rows)
    }

    /// Vectors of an attribute: of a token, or pooled over the tokens that are not padding.
    fn embed(&self, i: usize, name: &str, items: &Tensor) -> Tensor {
        let ids = self.inputs[&format!("item_feat.{name}")].index_select(0, &items.flatten(0, -1));
        let (b, l) = items.size2().expect("[B, L]");
        if ids.dim() == 1 {
            let table = self.p(&format!("feature_embed_layer_list.{i}.token_embedding"));
            return table.index_select(0, &ids).view([b, l, -1]);
        }
        let width = ids.size()[1];
        let table = self.p(&format!("feature_embed_layer_list.{i}.token_seq_embedding"));
        let tokens = table.index_select(0, &ids.flatten(0, -1)).view([b, l, width, -1]);
        let there = ids.gt(0).to_kind(self.kind).view([b, l, width, 1]);
        let sum = (tokens * &there).sum_dim_intlist(2, false, None::<Kind>);
        if self.config["pooling_mode"] == "sum" {
            return sum;
        }
        // An item without tokens, padding, stays at zero.
        sum / there.sum_dim_intlist(2, false, None::<Kind>).clamp_min(1.0)
    }

    fn activation(&self, x: &Tensor) -> Tensor {
        match self.config["hidden_act"].as_str().expect("a name") {
            "gelu" if self.has(Planted::TanhGelu) => x.gelu("tanh"),
            "gelu" => x.gelu("none"),
            "relu" => x.relu(),
            "swish" => x.silu(),
            "tanh" => x.tanh(),
            _ => x.sigmoid(),
        }
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let eps = if self.has(Planted::LayerNormEps1e5) { 1e-5 } else { 1e-12 };
        let centred = x - x.mean_dim(-1, true, None::<Kind>);
        let variance = (&centred * &centred).mean_dim(-1, true, None::<Kind>);
        centred / (variance + eps).sqrt() * self.p(&format!("{name}.weight")) + self.p(&format!("{name}.bias"))
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        x.matmul(&self.p(&format!("{name}.weight")).tr()) + self.p(&format!("{name}.bias"))
    }

    /// `[B, L, size]` → `[B, L, heads, d]`.
    fn heads(&self, x: &Tensor) -> Tensor {
        let (b, l, _) = x.size3().expect("[B, L, size]");
        x.view([b, l, self.int("n_heads"), -1])
    }

    /// Number, name and vocabulary of each attribute.
    fn attributes(&self) -> impl Iterator<Item = (usize, String, i64)> + '_ {
        let attributes = self.config["attributes"].as_sequence().expect("a list").iter().enumerate();
        attributes.map(|(i, a)| (i, a["name"].as_str().expect("a name").into(), a["vocab"].as_i64().expect("a size")))
    }

    fn named(&self, prefix: &str, of: impl Fn(&Tensor) -> Option<Tensor>) -> Tensors {
        let found = self.parameters.iter().filter_map(|(name, p)| Some((format!("{prefix}.{name}"), of(p)?)));
        found.map(|(name, tensor)| (name, tensor.detach().copy())).collect()
    }

    fn p(&self, name: &str) -> &Tensor {
        self.parameters.get(name).unwrap_or_else(|| panic!("no parameter {name}"))
    }

    fn int(&self, key: &str) -> i64 {
        self.config[key].as_i64().unwrap_or_else(|| panic!("no number {key}"))
    }

    fn has(&self, fault: Planted) -> bool {
        self.fault == Some(fault)
    }
}

/// The gradient of a trained parameter; zeros if the loss has no use for it.
fn gradient(parameter: &Tensor) -> Option<Tensor> {
    let grad = parameter.grad();
    let known = if grad.defined() { grad.copy() } else { parameter.zeros_like() };
    parameter.requires_grad().then_some(known)
}
