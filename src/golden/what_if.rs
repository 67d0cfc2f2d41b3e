//! A golden case computed with faults planted: what a dump would hold if they were its cause.
//!
//! The computation is spelled out by parameter name, for the model has no switches for what it must not do. Without a
//! fault it is the golden case, which a test holds it to.

use std::collections::BTreeMap;

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::Case;
use super::compute::optimize;
use super::fault::Fault;
use crate::config::{Fusion, Loss, ModelConfig, Predictor};
use crate::model::{FeatureSeqEmbLayer, FusionLayer, Linear, names};
use crate::train::Adam;

/// A case with faults, its parameters being copies.
pub(super) struct WhatIf<'a> {
    case: &'a Case,
    faults: &'a [Fault],
    /// The kind of the attribute labels in the total loss: float32 in the reference.
    labels: Kind,
    parameters: BTreeMap<String, Tensor>,
    /// The trained ones, in the order of the model.
    trained: Vec<String>,
}

/// One pass over the batch.
struct Pass {
    named: BTreeMap<String, Tensor>,
    total: Tensor,
}

impl<'a> WhatIf<'a> {
    pub fn new(case: &'a Case, faults: &'a [Fault], labels: Kind) -> Self {
        let (parameters, tables) = (case.model.named_parameters(), case.model.named_tables());
        let names = |of: &[(String, Tensor)]| -> Vec<String> { of.iter().map(|(name, _)| name.clone()).collect() };
        let mut trained = names(&parameters);
        if faults.contains(&Fault::AttributeTableTrained) {
            trained.extend(names(&tables));
        }
        let copies = parameters.into_iter().chain(tables).map(|(name, p)| {
            let copy = p.detach().copy();
            if name == names::weight(names::ITEM_EMBEDDING) && faults.contains(&Fault::PaddingRowZeroed) {
                let _ = copy.get(0).zero_();
            }
            let trains = trained.contains(&name);
            (name, copy.set_requires_grad(trains))
        });
        Self { case, faults, labels, parameters: copies.collect(), trained }
    }

    /// Parameters, stages and losses, named as in the case.
    pub fn forward(&self) -> BTreeMap<String, Tensor> {
        no_grad(|| self.pass().named)
    }

    /// As [`WhatIf::forward`], with gradients and the optimizer's steps. The parameters are left trained.
    pub fn train(&self) -> BTreeMap<String, Tensor> {
        let Pass { mut named, total } = self.pass();
        let shape = &self.case.shape;
        let trained = self.trained.iter().map(|name| (name.clone(), self.parameters[name].shallow_clone())).collect();
        let mut adam = Adam::new(trained, shape.learning_rate, 0.0);
        named.extend(optimize(&mut adam, shape.train_steps, total, || self.pass().total));
        named
    }

    fn pass(&self) -> Pass {
        let config = self.config();
        let mut named: BTreeMap<String, Tensor> =
            self.parameters.iter().map(|(name, p)| (format!("param.{name}"), p.detach().copy())).collect();
        let mut put = |name: String, tensor: &Tensor| _ = named.insert(name, tensor.detach());

        let (item_seq, item_seq_len) = self.sequences();
        put("in.item_seq".into(), &item_seq);
        let length = item_seq.size()[1];
        let position = Tensor::arange(length, (Kind::Int64, Device::Cpu)).expand_as(&item_seq);
        let position = Tensor::embedding(self.weight(names::POSITION_EMBEDDING), &position, -1, false, false);
        let attributes = self.attributes(&item_seq);
        let mask = self.mask(&item_seq);
        let items = self.items(&item_seq);
        let input = if self.has(Fault::PositionAddedToInput) { items + &position } else { items };
        let mut hidden = self.norm(&input, names::LAYER_NORM);
        for k in 0..config.n_layers as usize {
            let attention = |module: &str| names::attention(k, module);
            let feed_forward = |module: &str| names::feed_forward(k, module);
            let (fused, probs) = self.attend(&attention, &hidden, &attributes, &position, &mask);
            put(format!("out.layer.{k}.fused_scores"), &fused);
            put(format!("out.layer.{k}.attention_probs"), &probs);
            let value = self.split(&self.linear(&hidden, &attention(names::VALUE)));
            let context = probs.matmul(&value).transpose(1, 2).reshape_as(&hidden);
            let output = self.linear(&context, &attention(names::DENSE)) + &hidden;
            hidden = self.norm(&output, &attention(names::LAYER_NORM));
            put(format!("out.layer.{k}.attention_output"), &hidden);
            let inner = self.activate(&self.linear(&hidden, &feed_forward(names::DENSE_1)));
            let output = self.linear(&inner, &feed_forward(names::DENSE_2)) + &hidden;
            hidden = self.norm(&output, &feed_forward(names::LAYER_NORM));
            put(format!("out.layer.{k}.output"), &hidden);
        }
        let at = if self.has(Fault::OffByOneGather) {
            item_seq_len.clamp_max(length - 1)
        } else if self.has(Fault::GatherAtEnd) {
            item_seq_len.full_like(length - 1)
        } else {
            item_seq_len - 1
        };
        let at = at.view([-1, 1, 1]).expand([-1, 1, config.hidden_size], false);
        let seq_output = hidden.gather(1, &at, false).squeeze_dim(1);
        put("out.seq_output".into(), &seq_output);
        let scores = seq_output.matmul(&self.weight(names::ITEM_EMBEDDING).transpose(0, 1));
        put("out.scores".into(), &scores);
        let total = self.losses(&seq_output, &scores, &mut put);
        put("out.loss.total".into(), &total);
        put("train.loss.1".into(), &total);
        Pass { named, total }
    }

    /// The total loss; its parts are put under their names.
    fn losses(&self, seq_output: &Tensor, scores: &Tensor, put: &mut impl FnMut(String, &Tensor)) -> Tensor {
        let (config, batch) = (self.config(), &self.case.batch);
        if config.loss_type == Loss::Bpr {
            let negatives = batch.neg_items.as_ref().expect("BPR cases carry negative items");
            let score = |items: &Tensor| (seq_output * self.items(items)).sum_dim_intlist(-1, false, None::<Kind>);
            let margin = score(&batch.pos_items) - score(negatives);
            return -(margin.sigmoid() + 1e-10).log().mean(None::<Kind>);
        }
        let first = i64::from(self.has(Fault::ItemLossWithoutPadding));
        let (logits, targets) = (scores.slice(1, first, None, 1), &batch.pos_items - first);
        let item = logits.cross_entropy_loss::<Tensor>(&targets, None, Reduction::Mean, -100, 0.0);
        put("out.loss.item".into(), &item);
        let mut total = item;
        if config.attribute_predictor == Predictor::Linear {
            let weighted =
                self.case.model.features().iter().zip(&config.lamdas).enumerate().map(|(i, (feature, lamda))| {
                    let logits = self.linear(seq_output, &names::nth(names::AP, i));
                    let counts =
                        feature.of(&batch.pos_items).one_hot(feature.vocab).sum_dim_intlist(1, false, None::<Kind>);
                    let counts = if self.has(Fault::LabelClippedTo1) { counts.clamp_max(1) } else { counts };
                    let loss = |labels: Kind| {
                        let (labels, none) = (counts.to_kind(labels), None::<&Tensor>);
                        let losses = logits.binary_cross_entropy_with_logits(&labels, none, none, Reduction::None);
                        losses.slice(1, i64::from(!self.has(Fault::Index0InAttributeLoss)), None, 1).mean(None::<Kind>)
                    };
                    // The goldens hold the losses themselves with labels of the parameters' kind.
                    put(format!("out.loss.attribute.{}", feature.name), &loss(logits.kind()));
                    loss(self.labels) * if self.has(Fault::Unweighted) { 1.0 } else { *lamda }
                });
            total = weighted.reduce(|sum, loss| sum + loss).map_or_else(|| total.shallow_clone(), |sum| &total + sum);
        }
        total
    }

    /// Fused scores and probabilities.
    fn attend(
        &self,
        at: &dyn Fn(&str) -> String,
        hidden: &Tensor,
        attributes: &[Tensor],
        position: &Tensor,
        mask: &Tensor,
    ) -> (Tensor, Tensor) {
        let early = self.has(Fault::MaskBeforeFusion);
        let scores = |[query, key]: [&str; 2], x: &Tensor| {
            let [query, key] = [query, key].map(|module| self.split(&self.linear(x, &at(module))));
            let scores = query.matmul(&key.transpose(-1, -2));
            if early { scores + mask } else { scores }
        };
        let item = scores([names::QUERY, names::KEY], hidden);
        let position = scores([names::QUERY_P, names::KEY_P], position);
        let attributes = attributes.iter().enumerate();
        let attributes = attributes.map(|(i, x)| {
            let [query, key] = [names::QUERY_LAYERS, names::KEY_LAYERS].map(|list| names::nth(list, i));
            scores([&query, &key], x)
        });
        let layer = |module: &str| {
            let (weight, bias) = (self.weight(&at(module)), self.bias(&at(module)));
            Linear { weight: weight.shallow_clone(), bias: bias.shallow_clone() }
        };
        let fusion = match self.config().fusion_type {
            Fusion::Sum => FusionLayer::Sum,
            Fusion::Concat => FusionLayer::Concat(layer(names::FUSION_LAYER)),
            Fusion::Gate => FusionLayer::Gate { hidden: layer(names::GATE_HIDDEN), energy: layer(names::GATE_ENERGY) },
        };
        let fused = fusion.forward(&attributes.collect::<Vec<_>>(), &item, &position);
        let size = self.faults.iter().find_map(|fault| if let Fault::Scale(size) = fault { Some(*size) } else { None });
        let size = size.unwrap_or(self.config().hidden_size / self.config().n_heads);
        let scaled = &fused / (size as f64).sqrt();
        let probs = if early { scaled } else { scaled + mask }.softmax(-1, None::<Kind>);
        (fused, probs)
    }

    /// Item ids and lengths.
    fn sequences(&self) -> (Tensor, Tensor) {
        let (item_seq, len) = (&self.case.batch.item_seq, &self.case.batch.item_seq_len);
        if !self.has(Fault::LeftPadding) {
            return (item_seq.shallow_clone(), len.shallow_clone());
        }
        let length = item_seq.size()[1];
        let source = Tensor::arange(length, (Kind::Int64, Device::Cpu)) - (length - len).unsqueeze(1);
        let moved = item_seq.gather(1, &source.clamp_min(0), false) * source.ge(0);
        (moved, len.full_like(length))
    }

    /// The vectors of items.
    fn items(&self, items: &Tensor) -> Tensor {
        let padding_idx = if self.has(Fault::PaddingRowGradient) { -1 } else { 0 };
        Tensor::embedding(self.weight(names::ITEM_EMBEDDING), items, padding_idx, false, false)
    }

    fn attributes(&self, item_seq: &Tensor) -> Vec<Tensor> {
        let pooling =
            self.faults.iter().find_map(|f| if let Fault::Pooling(pooling) = f { Some(*pooling) } else { None });
        let pooling = pooling.unwrap_or(self.config().pooling_mode);
        let features = self.case.model.features().iter().enumerate().map(|(i, feature)| {
            let mut layer = FeatureSeqEmbLayer::new(feature, 0, pooling, (Kind::Double, Device::Cpu));
            layer.table = self.parameters[&names::attribute_table(i, feature.kind)].shallow_clone();
            layer.forward(&feature.of(item_seq))
        });
        features.collect()
    }

    /// 0 where a query sees a key, −10000 elsewhere, `[B, 1, L, L]`.
    fn mask(&self, item_seq: &Tensor) -> Tensor {
        let length = item_seq.size()[1];
        let all = Tensor::ones([1, 1, length, length], (Kind::Bool, Device::Cpu));
        let past = if self.has(Fault::FutureNotMasked) { all.copy() } else { all.tril(0) };
        let there = item_seq.gt(0).unsqueeze(1).unsqueeze(1);
        let seen = if self.has(Fault::PaddingNotMasked) { past.logical_and(&all) } else { past.logical_and(&there) };
        seen.logical_not().to_kind(self.weight(names::ITEM_EMBEDDING).kind()) * -10000.0
    }

    fn activate(&self, x: &Tensor) -> Tensor {
        let other = self.faults.iter().find_map(|f| if let Fault::Activation(other) = f { Some(*other) } else { None });
        match other {
            _ if self.has(Fault::TanhGelu) => x.gelu("tanh"),
            other => other.unwrap_or(self.config().hidden_act).forward(x),
        }
    }

    fn norm(&self, x: &Tensor, name: &str) -> Tensor {
        let eps = self.faults.iter().find_map(|f| if let Fault::LayerNormEps(eps) = f { Some(*eps) } else { None });
        x.layer_norm(
            [self.config().hidden_size],
            Some(self.weight(name)),
            Some(self.bias(name)),
            eps.unwrap_or(self.config().layer_norm_eps),
            false,
        )
    }

    fn linear(&self, x: &Tensor, name: &str) -> Tensor {
        x.linear(self.weight(name), Some(self.bias(name)))
    }

    /// `[B, L, heads · d]` → `[B, heads, L, d]`.
    fn split(&self, x: &Tensor) -> Tensor {
        let (b, l, size) = x.size3().expect("a stream is [B, L, size]");
        let heads = self.config().n_heads;
        x.view([b, l, heads, size / heads]).transpose(1, 2)
    }

    fn weight(&self, module: &str) -> &Tensor {
        &self.parameters[&names::weight(module)]
    }

    fn bias(&self, module: &str) -> &Tensor {
        &self.parameters[&names::bias(module)]
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn config(&self) -> &ModelConfig {
        self.case.model.config()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use judge::{Dump, Judge};

    use super::super::{judge_of, to_judge};
    use super::*;

    #[test]
    fn without_a_fault_it_is_the_golden_case() {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")).expect("golden/ is there")
        {
            let path = entry.expect("readable").path();
            if !path.is_dir() {
                continue;
            }
            let case = Case::load(&path).unwrap_or_else(|e| panic!("{e}"));
            let ours = WhatIf::new(&case, &[], Kind::Float).train();
            let exact = WhatIf::new(&case, &[], Kind::Double).train();
            let judge = judge_of(&case, Kind::Double).require_nothing();
            for (ours, judge) in [(&ours, judge.clone().float32_labels()), (&exact, judge)] {
                let dump: Dump = case.expected.keys().map(|name| (name.clone(), to_judge(&ours[name]))).collect();
                let report = Judge::judge(&judge, &dump).unwrap_or_else(|e| panic!("{e}"));
                assert!(report.holds(), "{}: {report}", path.display());
            }
            let forward = WhatIf::new(&case, &[], Kind::Float).forward();
            let same = |name: &String| forward[name].equal(&ours[name]);
            assert!(forward.keys().all(same), "{}", path.display());
        }
    }
}
