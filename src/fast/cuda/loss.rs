//! The losses of a batch with their gradients, which libtorch's automatic ones would compute with more memory.
//!
//! ```text
//! CE:   ∂/∂h = (softmax(h·Mᵀ)·M − M[target]) / B       ∂/∂M = (softmax(h·Mᵀ)ᵀ·h, less h at the targets' rows) / B
//! BPR:  m = h·(M[target] − M[negative]),  ∂/∂m = −σ(m)·(1 − σ(m)) / (σ(m) + 1e-10) / B
//! attribute:  loss = mean of x − y·x − ln σ(x),  ∂/∂x = (σ(x) − y) / count     x = h·W + b, without the padding token
//! ```
//!
//! At most two tensors `[B, n_items]` exist at a time: scores and their log-softmax, which the softmax overwrites.

use tch::{Kind, Tensor};

use crate::model::{ItemFeature, Linear};

/// A loss of the items with its gradients.
#[derive(Debug)]
pub struct ItemLoss {
    /// `[]`
    pub loss: Tensor,
    /// Of the outputs, `[B, H]`.
    pub doutputs: Tensor,
    /// Of the whole item embedding, `[n_items, H]`; `None` under BPR.
    pub dtable: Option<Tensor>,
    /// Of single rows of it: items `[B]`, and the gradient of each, `[B, H]`.
    pub drows: Vec<(Tensor, Tensor)>,
}

/// Cross-entropy over all items.
///
/// # Shapes
/// outputs `[B, H]`, table `[n_items, H]`, targets `[B]`
pub fn cross_entropy(outputs: &Tensor, table: &Tensor, targets: &Tensor) -> ItemLoss {
    let kind = table.kind();
    let scale = 1.0 / outputs.size()[0] as f64;
    let mut log_probs = outputs.matmul(&table.transpose(0, 1)).to_kind(kind).log_softmax(1, None);
    let loss = -log_probs.gather(1, &targets.unsqueeze(1), false).mean(None);
    let probs = log_probs.exp_();
    let scaled = outputs.to_kind(kind) * scale;
    let target = table.index_select(0, targets);
    let doutputs = target.unsqueeze(0).baddbmm(&probs.unsqueeze(0), &table.unsqueeze(0), -scale, scale);
    let doutputs = doutputs.squeeze_dim(0).to_kind(kind);
    let dtable = probs.transpose(0, 1).matmul(&scaled).to_kind(kind);
    ItemLoss { loss, doutputs, dtable: Some(dtable), drows: vec![(targets.shallow_clone(), -scaled)] }
}

/// Bayesian personalised ranking: −ln(σ(positive − negative) + 1e-10).
///
/// # Shapes
/// As [`cross_entropy`], negatives `[B]`
pub fn bpr(outputs: &Tensor, table: &Tensor, targets: &Tensor, negatives: &Tensor) -> ItemLoss {
    let [positive, negative] = [targets, negatives].map(|items| table.index_select(0, items));
    let difference = &positive - &negative;
    let sigmoid = (outputs * &difference).sum_dim_intlist(1, true, None).sigmoid();
    let loss = -(&sigmoid + 1e-10).log().mean(None);
    let dmargin = &sigmoid * (&sigmoid - 1.0) / (&sigmoid + 1e-10) * (1.0 / outputs.size()[0] as f64);
    let dpositive = &dmargin * outputs;
    let drows = vec![(negatives.shallow_clone(), -&dpositive), (targets.shallow_clone(), dpositive)];
    ItemLoss { loss, doutputs: dmargin * difference, dtable: None, drows }
}

/// The most labels that are kept for all items, 64 MB of float32; beyond, a batch's are counted from its tokens.
const KEPT: i64 = 1 << 24;

/// How often each item has each token of an attribute.
#[derive(Debug)]
pub struct Labels {
    /// `[n_items, vocab]`
    table: Option<Tensor>,
    /// `[n_items, S]`
    ids: Tensor,
    vocab: i64,
    kind: Kind,
}

impl Labels {
    pub fn new(feature: &ItemFeature, kind: Kind) -> Self {
        let (ids, vocab) = (feature.ids.shallow_clone(), feature.vocab);
        let mut labels = Self { table: None, ids, vocab, kind };
        if labels.ids.size()[0] * vocab <= KEPT {
            // Some items at a time: each token has a row before they are counted.
            let parts: Vec<Tensor> = labels.ids.split(1024, 0).iter().map(|ids| labels.count(ids)).collect();
            labels.table = Some(Tensor::cat(&parts, 0));
        }
        labels
    }

    fn count(&self, ids: &Tensor) -> Tensor {
        ids.one_hot(self.vocab).sum_dim_intlist(1, false, None::<Kind>).to_kind(self.kind)
    }

    /// # Shapes
    /// items `[B]` → `[B, vocab]`
    fn of(&self, items: &Tensor) -> Tensor {
        match &self.table {
            Some(table) => table.index_select(0, items),
            None => self.count(&self.ids.index_select(0, items)),
        }
    }
}

/// An attribute's loss with its gradients by λ.
#[derive(Debug)]
pub struct AttributeLoss {
    /// `[]`, without λ.
    pub loss: Tensor,
    /// Of the outputs, `[B, H]`.
    pub doutputs: Tensor,
    /// `[vocab, H]`
    pub dweight: Tensor,
    /// `[vocab]`
    pub dbias: Tensor,
}

/// Binary cross-entropy of the targets' tokens.
///
/// DIFFERENCE: labels have the kind of the model. The reference's are float32 in a float64 model too, and so is its loss.
///
/// # Shapes
/// outputs `[B, H]`, targets `[B]`
pub fn attribute(predictor: &Linear, labels: &Labels, lamda: f64, outputs: &Tensor, targets: &Tensor) -> AttributeLoss {
    let kind = labels.kind;
    let logits = predictor.forward(outputs).to_kind(kind);
    let labels = labels.of(targets);
    let (b, vocab) = logits.size2().expect("logits are [B, vocab]");
    let each = &logits - &labels * &logits - logits.log_sigmoid();
    let loss = each.narrow(1, 1, vocab - 1).mean(None);
    let dlogits = (logits.sigmoid() - labels) * (lamda / (b * (vocab - 1)) as f64);
    let _ = dlogits.narrow(1, 0, 1).zero_();
    AttributeLoss {
        loss,
        doutputs: dlogits.matmul(&predictor.weight).to_kind(kind),
        dweight: dlogits.transpose(0, 1).matmul(outputs).to_kind(kind),
        dbias: dlogits.sum_dim_intlist(0, false, None::<Kind>),
    }
}
