//! Ways in which implementations of DIF-SR depart from it: hypotheses on a dump's first departure.

use super::Case;
use crate::config::{Activation, Architecture, AttributeKind, Fusion, Loss, ModelConfig, Pooling, Predictor};

/// One departure from the reference. The order of the variants is that of the computation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The padding item's row of the item embedding is zero.
    PaddingRowZeroed,
    /// Sequences are padded on the left.
    LeftPadding,
    /// Position vectors are added to the items that enter the encoder.
    PositionAddedToInput,
    /// This epsilon in every LayerNorm.
    LayerNormEps(f64),
    /// This pooling of an attribute's tokens.
    Pooling(Pooling),
    /// The mask is added to every stream, before the fusion.
    MaskBeforeFusion,
    /// Keys later than the query are seen.
    FutureNotMasked,
    /// Padded keys are seen.
    PaddingNotMasked,
    /// Fused scores divided by the root of this number.
    Scale(i64),
    /// GELU in its tanh approximation.
    TanhGelu,
    /// This activation in the feed-forward network.
    Activation(Activation),
    /// The output taken at position `len` (the last one at most).
    OffByOneGather,
    /// The output taken at the last position, padding or not.
    GatherAtEnd,
    /// The softmax of the item loss leaves item 0 out.
    ItemLossWithoutPadding,
    /// An attribute label is 1 however often the item has the token.
    LabelClippedTo1,
    /// The mean of the attribute loss takes in the padding token.
    Index0InAttributeLoss,
    /// The attribute losses added without `lamdas`.
    Unweighted,
    /// The padding item's row gets a gradient from look-ups.
    PaddingRowGradient,
    /// The attribute tables are trained.
    AttributeTableTrained,
}

impl Fault {
    /// Every fault that can show in this case; they are departures from DIF-SR, and other models have none.
    pub fn all(case: &Case) -> Vec<Self> {
        let config = case.model.config();
        if config.model != Architecture::SasRecD {
            return Vec::new();
        }
        let mut faults = vec![Self::PaddingRowZeroed, Self::LeftPadding, Self::PositionAddedToInput];
        let eps = [1e-5, 1e-6, 1e-8, 1e-12].into_iter().filter(|&eps| eps != config.layer_norm_eps);
        faults.extend(eps.map(Self::LayerNormEps));
        if case.shape.attributes.iter().any(|attribute| attribute.kind == AttributeKind::TokenSeq) {
            let poolings = [Pooling::Sum, Pooling::Mean, Pooling::Max].into_iter();
            faults.extend(poolings.filter(|&pooling| pooling != config.pooling_mode).map(Self::Pooling));
        }
        if config.fusion_type != Fusion::Sum {
            faults.push(Self::MaskBeforeFusion);
        }
        faults.extend([Self::FutureNotMasked, Self::PaddingNotMasked]);
        faults.extend(scales(config).into_iter().map(Self::Scale));
        if config.hidden_act == Activation::Gelu {
            faults.push(Self::TanhGelu);
        }
        let activations =
            [Activation::Gelu, Activation::Relu, Activation::Swish, Activation::Tanh, Activation::Sigmoid].into_iter();
        faults.extend(activations.filter(|&activation| activation != config.hidden_act).map(Self::Activation));
        faults.extend([Self::OffByOneGather, Self::GatherAtEnd]);
        if config.loss_type == Loss::Ce {
            faults.push(Self::ItemLossWithoutPadding);
            if config.attribute_predictor == Predictor::Linear {
                faults.extend([Self::LabelClippedTo1, Self::Index0InAttributeLoss, Self::Unweighted]);
            }
        }
        faults.push(Self::PaddingRowGradient);
        if !config.attribute_hidden_size.is_empty() {
            faults.push(Self::AttributeTableTrained);
        }
        faults
    }

    /// The name that the tables of causes have for it.
    pub fn id(self, case: &Case) -> String {
        let config = case.model.config();
        match self {
            Self::PaddingRowZeroed => "padding_row_zeroed".into(),
            Self::LeftPadding => "left_padding".into(),
            Self::PositionAddedToInput => "position_added_to_input".into(),
            Self::LayerNormEps(eps) => format!("layer_norm_eps_{eps:e}").replace('-', "_"),
            Self::Pooling(pooling) => format!("pooling_{}", name(pooling)),
            Self::MaskBeforeFusion => "mask_before_fusion".into(),
            Self::FutureNotMasked => "future_not_masked".into(),
            Self::PaddingNotMasked => "padding_not_masked".into(),
            Self::Scale(1) => "no_scale".into(),
            Self::Scale(size) if size == config.hidden_size => "scale_by_hidden_size".into(),
            Self::Scale(_) => "scale_by_attribute_head_size".into(),
            Self::TanhGelu => "tanh_gelu".into(),
            Self::Activation(activation) => format!("activation_{}", name(activation)),
            Self::OffByOneGather => "off_by_one_gather".into(),
            Self::GatherAtEnd => "output_at_end".into(),
            Self::ItemLossWithoutPadding => "item_loss_without_padding".into(),
            Self::LabelClippedTo1 => "label_clipped_to_1".into(),
            Self::Index0InAttributeLoss => "index_0_in_attribute_loss".into(),
            Self::Unweighted => "unweighted".into(),
            Self::PaddingRowGradient => "padding_row_gradient".into(),
            Self::AttributeTableTrained => "attribute_table_trained".into(),
        }
    }

    /// What is wrong, beside what is right.
    pub fn describe(self, case: &Case) -> String {
        let config = case.model.config();
        match self {
            Self::PaddingRowZeroed => {
                "row 0 of the item embedding, the padding item's, is zero; the reference draws it like all others".into()
            }
            Self::LeftPadding => "sequences are padded on the left; the reference pads on the right".into(),
            Self::PositionAddedToInput => {
                "position vectors are added to the items that enter the encoder; in DIF-SR they enter the attention scores \
                 alone"
                    .into()
            }
            Self::LayerNormEps(eps) => format!("LayerNorm's epsilon is {eps:e}, not {:e}", config.layer_norm_eps),
            Self::Pooling(pooling) => {
                format!("attribute tokens are pooled by {}, not by {}", name(pooling), name(config.pooling_mode))
            }
            Self::MaskBeforeFusion => "the mask is added to every stream before the fusion, not after it".into(),
            Self::FutureNotMasked => "keys later than the query are not masked".into(),
            Self::PaddingNotMasked => "padded keys are not masked".into(),
            Self::Scale(1) => format!("fused scores are not divided by √{}, the item head size", head(config)),
            Self::Scale(size) => {
                let whose = match config.attribute_hidden_size.iter().position(|&d| d / config.n_heads == size) {
                    Some(i) => format!("the head size of attribute `{}`", case.shape.attributes[i].name),
                    None => "hidden_size".into(),
                };
                format!("fused scores are divided by √{size}, {whose}, not by √{}, the item head size", head(config))
            }
            Self::TanhGelu => "GELU is its tanh approximation, not the exact form with erf".into(),
            Self::Activation(activation) => {
                format!("the activation is {}, not {}", name(activation), name(config.hidden_act))
            }
            Self::OffByOneGather => {
                "the sequence output is taken at position len, one too far: positions count from 0, the last item is at \
                 len − 1"
                    .into()
            }
            Self::GatherAtEnd => "the sequence output is taken at position L − 1, padding or not, instead of len − 1".into(),
            Self::ItemLossWithoutPadding => "the softmax of the item loss leaves item 0 out".into(),
            Self::LabelClippedTo1 => {
                "attribute labels are clipped to 1; the reference counts a token as often as the item has it".into()
            }
            Self::Index0InAttributeLoss => "the mean of the attribute loss takes in index 0, the padding token".into(),
            Self::Unweighted => "attribute losses are added without their weights, lamdas".into(),
            Self::PaddingRowGradient => {
                "look-ups give the padding item's row a gradient: the embedding lacks padding_idx=0".into()
            }
            Self::AttributeTableTrained => {
                "the attribute tables are trained; the reference keeps them from the optimizer".into()
            }
        }
    }
}

/// The item head size.
fn head(config: &ModelConfig) -> i64 {
    config.hidden_size / config.n_heads
}

/// Numbers under the root that are taken for the item head size.
fn scales(config: &ModelConfig) -> Vec<i64> {
    let attributes = config.attribute_hidden_size.iter().map(|d| d / config.n_heads);
    let mut scales: Vec<i64> = attributes.chain([config.hidden_size, 1]).filter(|&size| size != head(config)).collect();
    scales.sort_unstable();
    scales.dedup();
    scales
}

fn name(choice: impl std::fmt::Debug) -> String {
    format!("{choice:?}").to_lowercase()
}
