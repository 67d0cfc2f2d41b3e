//! The auxiliary attribute predictors (the paper's section 4.3, equations 11 and 12).

use tch::nn::{self, Module};
use tch::{Kind, Reduction, Tensor};

use super::init::linear;
use super::{ItemFeature, Tree};

/// One linear classifier per attribute (RecBole's `ap`), trained to name the target item's attributes.
#[derive(Debug)]
pub struct AttributePredictor {
    ap: Vec<nn::Linear>,
}

impl AttributePredictor {
    /// Parameters under `p / i`.
    pub fn new(p: nn::Path<'_>, hidden_size: i64, features: &[ItemFeature]) -> Self {
        Self { ap: features.iter().enumerate().map(|(i, f)| linear(&p / i, hidden_size, f.vocab)).collect() }
    }

    /// The binary cross-entropy of each attribute of the target items.
    ///
    /// Known behaviours: labels count repeated tokens (a label can be 2), and the mean runs over batch and vocabulary
    /// without the padding token's column.
    ///
    /// `labels` is the kind of the labels, and so of the losses: libtorch scales (1 − label) in place. The reference
    /// trains with float32 whatever the model's precision.
    ///
    /// # Shapes
    /// seq_output `[B, H]`, pos_items `[B]` → one `[]` per attribute
    pub fn losses(
        &self,
        seq_output: &Tensor,
        features: &[ItemFeature],
        pos_items: &Tensor,
        labels: Kind,
    ) -> Vec<Tensor> {
        let kind = labels;
        (self.ap.iter().zip(features))
            .map(|(predictor, feature)| {
                let logits = predictor.forward(seq_output);
                let labels = feature.of(pos_items).one_hot(feature.vocab).sum_dim_intlist(1, false, None::<Kind>);
                let labels = labels.to_kind(kind);
                let none = None::<Tensor>;
                let loss =
                    logits.binary_cross_entropy_with_logits(&labels, none.as_ref(), none.as_ref(), Reduction::None);
                loss.narrow(1, 1, feature.vocab - 1).mean(None::<Kind>)
            })
            .collect()
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::list("ModuleList", self.ap.iter().map(Tree::linear))
    }
}
