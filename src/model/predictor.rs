//! The auxiliary attribute predictors (the paper's section 4.3; their loss is equation 12).
//!
//! ```text
//! ŷ = σ(h·W + b)                                       h the sequence's vector
//! loss = −mean of (y·ln ŷ + (1 − y)·ln(1 − ŷ))         y the tokens of the target item, without the padding token
//! ```

use tch::{Kind, Reduction, Tensor};

use super::{ItemFeature, Linear, Tree};

/// One linear classifier per attribute (RecBole's `ap`), trained to name the target item's attributes.
#[derive(Debug)]
pub struct AttributePredictor {
    ap: Vec<Linear>,
}

impl AttributePredictor {
    /// A predictor of each of these attributes, its parameters zero.
    pub fn new(hidden_size: i64, features: &[ItemFeature], kind: Kind) -> Self {
        Self { ap: features.iter().map(|feature| Linear::new(hidden_size, feature.vocab, kind)).collect() }
    }

    /// The binary cross-entropy of each attribute of the target items.
    ///
    /// Known behaviours: labels count repeated tokens (a label can be 2), and the mean runs over batch and vocabulary
    /// without the padding token's column.
    ///
    /// `label_kind` is the kind of the labels, and so of the losses: libtorch scales (1 − label) in place. The reference
    /// trains with float32 whatever the model's precision.
    ///
    /// # Shapes
    /// seq_output `[B, H]`, pos_items `[B]` → one `[]` per attribute
    pub fn losses(
        &self,
        seq_output: &Tensor,
        features: &[ItemFeature],
        pos_items: &Tensor,
        label_kind: Kind,
    ) -> Vec<Tensor> {
        (self.ap.iter().zip(features))
            .map(|(predictor, feature)| {
                let logits = predictor.forward(seq_output);
                let labels = feature.of(pos_items).one_hot(feature.vocab).sum_dim_intlist(1, false, None::<Kind>);
                let labels = labels.to_kind(label_kind);
                let none = None::<Tensor>;
                let loss =
                    logits.binary_cross_entropy_with_logits(&labels, none.as_ref(), none.as_ref(), Reduction::None);
                loss.narrow(1, 1, feature.vocab - 1).mean(None::<Kind>)
            })
            .collect()
    }

    pub(super) fn tree(&self) -> Tree {
        Tree::list("ModuleList", self.ap.iter().map(Linear::tree))
    }
}
