//! The whole model, SASRec and where attributes enter it: embeddings, encoder, scores and losses.
//!
//! ```text
//! X₀ = dropout(LayerNorm(input))
//!      input = items + positions                               SASRec
//!              [items, attributes]·W + b + positions           SASRecF
//!              items                                           SASRecD
//! h  = the encoder's output at the last item of the sequence
//! ŷ  = h·Mᵀ                                                    M the item embedding (equation 10)
//! item loss:   CE = mean of −ln softmax(ŷ)[target]
//!             BPR = mean of −ln(σ(ŷ[target] − ŷ[negative]) + 1e-10)
//! ```

use std::ops::Range;
use std::path::Path;

use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::init::initialize;
use super::{
    AttributeInput, AttributePredictor, Dropout, Embedding, Encoder, FeatureSeqEmbLayer, ItemFeature, LayerNorm,
    LayerOutput, Losses, SideStreams, Tree, names,
};
use crate::config::{Architecture, AttributeKind, Loss, ModelConfig, Pooling, Predictor};
use crate::data::Batch;
use crate::tensors::TensorFile;
use crate::{Error, Result};

/// RecBole's `SASRec` (Kang and McAuley, ICDM 2018), `SASRecF`, or `SASRecD`, which is DIF-SR on SASRec.
///
/// In SASRec and SASRecF the input is the sum of what is known of an item and of its position. In SASRecD items are the
/// only input stream; positions and attributes enter the attention scores alone.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    features: Vec<ItemFeature>,
    item_embedding: Embedding,
    position_embedding: Embedding,
    attributes: Attributes,
    trm_encoder: Encoder,
    /// `None` for `attribute_predictor: not`, which other models than SASRecD always have.
    ap: Option<AttributePredictor>,
    layer_norm: LayerNorm,
    dropout: Dropout,
}

/// Where attributes enter, which tells the models apart.
#[derive(Debug)]
enum Attributes {
    /// SASRec.
    Nowhere,
    /// SASRecF.
    Input(AttributeInput),
    /// SASRecD: `feature_embed_layer_list`.
    Scores(Vec<FeatureSeqEmbLayer>),
}

/// A batch of sequences after the encoder.
#[derive(Debug)]
pub struct Encoded {
    /// What each layer computed, first to last.
    pub layers: Vec<LayerOutput>,
    /// The output at the last item, `[B, H]`.
    pub seq_output: Tensor,
}

impl Model {
    /// A model of zeros on the CPU: [`Model::initialize`] or a checkpoint fills it, [`Model::to_device`] moves it.
    ///
    /// `n_items` counts the padding item; `features` follow `selected_features`.
    pub fn new(config: &ModelConfig, n_items: i64, max_len: i64, features: Vec<ItemFeature>, kind: Kind) -> Self {
        Self::part(config, n_items, None, max_len, features, kind)
    }

    /// The same. Where ranks share out the item embedding, only its rows `held` are here, and the model is trained on the
    /// fast path over these ranks alone.
    pub fn part(
        config: &ModelConfig,
        n_items: i64,
        held: Option<Range<i64>>,
        max_len: i64,
        features: Vec<ItemFeature>,
        kind: Kind,
    ) -> Self {
        let h = config.hidden_size;
        let table = |(feature, &size): (&ItemFeature, &i64)| {
            FeatureSeqEmbLayer::new(feature, size, config.pooling_mode, (kind, Device::Cpu))
        };
        let attributes = match config.model {
            Architecture::SasRec => Attributes::Nowhere,
            Architecture::SasRecF => Attributes::Input(AttributeInput::new(config, &features, kind)),
            Architecture::SasRecD => {
                Attributes::Scores(features.iter().zip(&config.attribute_hidden_size).map(table).collect())
            }
        };
        let ap = match config.attribute_predictor {
            Predictor::Linear => Some(AttributePredictor::new(h, &features, kind)),
            Predictor::Not => None,
        };
        Self {
            item_embedding: match held {
                Some(held) => Embedding::part(n_items, held, h, Some(0), kind),
                None => Embedding::new(n_items, h, Some(0), kind),
            },
            position_embedding: Embedding::new(max_len, h, None, kind),
            attributes,
            trm_encoder: Encoder::new(config, max_len, kind),
            ap,
            layer_norm: LayerNorm::new(h, config.layer_norm_eps, kind),
            dropout: Dropout { p: config.hidden_dropout_prob },
            features,
            config: config.clone(),
        }
    }

    /// Draws every initial value from libtorch's generator; the model must still be on the CPU.
    pub fn initialize(&mut self) {
        initialize(&self.tree(), self.config.initializer_range);
    }

    /// The same model in another kind of floats, on the CPU.
    pub fn copy_as(&self, kind: Kind) -> Self {
        let features = self.features.iter().map(|feature| feature.on(Device::Cpu));
        let copy = Self::new(&self.config, self.n_items(), self.max_len(), features.collect(), kind);
        no_grad(|| {
            for (own, copied) in
                [(self.named_parameters(), copy.named_parameters()), (self.named_tables(), copy.named_tables())]
            {
                own.iter().zip(copied).for_each(|((_, own), (_, mut copied))| copied.copy_(own));
            }
        });
        copy
    }

    /// Moves parameters, attribute tables and attribute ids.
    pub fn to_device(&mut self, device: Device) {
        for (_, mut parameter) in self.named_parameters() {
            let moved = parameter.detach().to_device(device);
            parameter.set_data(&moved);
        }
        if let Attributes::Scores(layers) = &mut self.attributes {
            layers.iter_mut().for_each(|layer| layer.table = layer.table.to_device(device));
        }
        for feature in &mut self.features {
            feature.ids = feature.ids.to_device(device);
        }
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.item_embedding.weight.device()
    }

    /// What the model was made from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The attributes of the items, in the order of `selected_features`.
    pub fn features(&self) -> &[ItemFeature] {
        &self.features
    }

    /// Whether attention's scores can outweigh the mask of −10000. SASRecD's `max` pooling subtracts 1e9 from padded tokens,
    /// so that an item without tokens, padding too, has a vector near −1e9 and scores near 1e18. Padded and future keys then
    /// get probabilities that rounding decides.
    pub fn outweighs_mask(&self) -> bool {
        let lists = self.features.iter().any(|feature| feature.kind == AttributeKind::TokenSeq);
        self.config.model == Architecture::SasRecD && self.config.pooling_mode == Pooling::Max && lists
    }

    /// Rows of the item embedding, the padding item included.
    pub fn n_items(&self) -> i64 {
        self.item_embedding.rows
    }

    /// The rows of the item embedding that are held here, where ranks share them out.
    pub fn held_items(&self) -> Option<Range<i64>> {
        self.item_embedding.held.clone()
    }

    /// L: rows of the position embedding.
    pub fn max_len(&self) -> i64 {
        self.position_embedding.weight.size()[0]
    }

    /// The layers of SASRecD's attribute streams, whose tables are not trained.
    fn feature_embed_layer_list(&self) -> &[FeatureSeqEmbLayer] {
        match &self.attributes {
            Attributes::Scores(layers) => layers,
            Attributes::Nowhere | Attributes::Input(_) => &[],
        }
    }

    /// The vectors of all items' attributes, some items at a time, `[items, d_i]` each: what SASRecD's streams look up, for the
    /// tables are not trained.
    pub fn attribute_vectors(&self) -> impl Iterator<Item = impl Iterator<Item = Tensor>> {
        let layers = self.feature_embed_layer_list().iter().zip(&self.features);
        layers.map(|(layer, feature)| {
            let parts = feature.ids.split(1024, 0).into_iter();
            parts.map(|ids| layer.forward(&ids.unsqueeze(0)).squeeze_dim(0))
        })
    }

    /// Encodes sequences.
    ///
    /// # Shapes
    /// item_seq `[B, L]` (right-padded with 0), item_seq_len `[B]` (1 to L) → the output of each layer `[B, L, H]`,
    /// seq_output `[B, H]`
    pub fn forward(&self, item_seq: &Tensor, item_seq_len: &Tensor, train: bool) -> Encoded {
        let length = item_seq.size()[1];
        let item = self.item_embedding.forward(item_seq);
        // Looked up for every row, although all rows are equal: the gradient's rounding depends on it.
        let position = Tensor::arange(length, (Kind::Int64, item_seq.device())).unsqueeze(0).expand_as(item_seq);
        let position = self.position_embedding.forward(&position);
        let (input, side) = match &self.attributes {
            Attributes::Nowhere => (item + position, None),
            Attributes::Input(layer) => (layer.forward(&item, item_seq, &self.features) + position, None),
            Attributes::Scores(layers) => {
                let layers = layers.iter().zip(&self.features);
                let attributes = layers.map(|(layer, feature)| layer.forward(&feature.of(item_seq))).collect();
                (item, Some(SideStreams { attributes, position }))
            }
        };

        let hidden = self.dropout.forward(&self.layer_norm.forward(&input), train);
        let mask = attention_mask(item_seq, hidden.kind());
        let layers = self.trm_encoder.forward(&hidden, side.as_ref(), &mask, train);
        let output = layers.last().map_or(&hidden, |layer| &layer.output);
        let seq_output = last_position(output, item_seq_len);
        Encoded { layers, seq_output }
    }

    /// The score of every item, the padding item included (equation 10).
    ///
    /// # Shapes
    /// seq_output `[B, H]` → `[B, n_items]`
    pub fn scores(&self, seq_output: &Tensor) -> Tensor {
        seq_output.matmul(&self.item_embedding.weight.transpose(0, 1))
    }

    /// Encodes a batch and computes its losses: [`Model::losses_of`].
    ///
    /// # Panics
    /// As [`Model::losses_of`].
    pub fn losses(&self, batch: &Batch, train: bool) -> Losses {
        let seq_output = self.forward(&batch.item_seq, &batch.item_seq_len, train).seq_output;
        self.losses_of(&seq_output, batch)
    }

    /// The losses of an encoded batch (equations 11 to 13): the item loss is a mean over B rows, an attribute's over
    /// B rows and its vocabulary without padding; the total is the item loss and the attributes' by `lamdas`.
    ///
    /// # Shapes
    /// seq_output `[B, H]`, pos_items `[B]` → `[]` each
    ///
    /// Known behaviours: the softmax runs over all items, the padding item included; BPR ignores the predictors.
    ///
    /// # Panics
    /// With `loss_type: BPR` and a batch without `neg_items`.
    pub fn losses_of(&self, seq_output: &Tensor, batch: &Batch) -> Losses {
        match self.config.loss_type {
            Loss::Ce => {
                let logits = self.scores(seq_output);
                let item = logits.cross_entropy_loss::<Tensor>(&batch.pos_items, None, Reduction::Mean, -100, 0.0);
                let attributes = self.attribute_losses(seq_output, &batch.pos_items, Kind::Float);
                Losses { total: self.total(&item, &attributes), item, attributes }
            }
            Loss::Bpr => {
                let negatives = batch.neg_items.as_ref().expect("BPR batches carry negative items");
                let score = |items: &Tensor| {
                    (seq_output * self.item_embedding.forward(items)).sum_dim_intlist(-1, false, None::<Kind>)
                };
                let margin = score(&batch.pos_items) - score(negatives);
                let item = -(margin.sigmoid() + 1e-10).log().mean(None::<Kind>);
                Losses { total: item.shallow_clone(), item, attributes: Vec::new() }
            }
        }
    }

    /// The attribute losses of an encoded batch, computed with labels of `label_kind`; none without a predictor.
    ///
    /// # Shapes
    /// seq_output `[B, H]`, pos_items `[B]` → one `[]` for each attribute
    pub fn attribute_losses(&self, seq_output: &Tensor, pos_items: &Tensor, label_kind: Kind) -> Vec<Tensor> {
        let ap = self.ap.as_ref();
        ap.map_or_else(Vec::new, |ap| ap.losses(seq_output, &self.features, pos_items, label_kind))
    }

    /// One attribute is weighted and added at once; several are summed first, as in the reference.
    fn total(&self, item: &Tensor, attributes: &[Tensor]) -> Tensor {
        let weighted = attributes.iter().zip(&self.config.lamdas).map(|(loss, &lamda)| loss * lamda);
        weighted.reduce(|sum, loss| sum + loss).map_or_else(|| item.shallow_clone(), |sum| item + sum)
    }

    /// Every trained parameter under its `state_dict` name, in RecBole's order.
    pub fn named_parameters(&self) -> Vec<(String, Tensor)> {
        self.tree().named_parameters()
    }

    /// Those that are whole at every rank: all but an item embedding that ranks share out.
    pub fn common_parameters(&self) -> Vec<(String, Tensor)> {
        let mut named = self.named_parameters();
        if self.held_items().is_some() {
            named.retain(|(name, _)| *name != names::weight(names::ITEM_EMBEDDING));
        }
        named
    }

    /// Copies every common parameter and attribute table from `file`, where they are named `prefix` + their own name.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape; nothing has then changed.
    pub fn load(&self, path: &Path, file: &mut TensorFile, prefix: &str) -> Result<()> {
        let mut named = self.common_parameters();
        named.extend(self.named_tables());
        // Everything is checked before anything is written.
        let mut found = Vec::with_capacity(named.len());
        for (name, target) in named {
            let name = format!("{prefix}{name}");
            let tensor = file.take(path, &name)?;
            if tensor.size() != target.size() {
                return Err(Error::new(format!("expected shape {:?}, found {:?}", target.size(), tensor.size()))
                    .at(path)
                    .tensor(name)
                    .hint("the file belongs to another configuration or data set"));
            }
            found.push((target, tensor));
        }
        no_grad(|| found.iter_mut().for_each(|(target, tensor)| target.copy_(tensor)));
        Ok(())
    }

    /// The attribute tables that are not trained, which SASRecD alone has, under the goldens' names.
    pub fn named_tables(&self) -> Vec<(String, Tensor)> {
        let layers = self.feature_embed_layer_list().iter().enumerate();
        layers
            .zip(&self.features)
            .map(|((i, layer), feature)| (names::attribute_table(i, feature.kind), layer.table.shallow_clone()))
            .collect()
    }

    /// RecBole's count of trained parameters: the notebook's `Trainable parameters` line.
    pub fn trainable_parameters(&self) -> usize {
        let here: usize = self.named_parameters().iter().map(|(_, parameter)| parameter.numel()).sum();
        let Embedding { weight, rows, .. } = &self.item_embedding;
        here - weight.numel() + (rows * weight.size()[1]) as usize
    }

    /// The module tree, which prints as PyTorch prints the model.
    pub fn tree(&self) -> Tree {
        let mut children = vec![
            (names::ITEM_EMBEDDING, self.item_embedding.tree()),
            (names::POSITION_EMBEDDING, self.position_embedding.tree()),
        ];
        match &self.attributes {
            Attributes::Nowhere => {}
            Attributes::Input(layer) => children.push((names::FEATURE_EMBED_LAYER, layer.feature_embed_layer())),
            Attributes::Scores(layers) => {
                let layers = Tree::list("ModuleList", layers.iter().map(FeatureSeqEmbLayer::tree));
                children.push((names::FEATURE_EMBED_LAYER_LIST, layers));
            }
        }
        children.push((names::TRM_ENCODER, self.trm_encoder.tree()));
        if let Attributes::Input(layer) = &self.attributes {
            children.push((names::CONCAT_LAYER, layer.concat_layer()));
        }
        children.extend(self.ap.as_ref().map(|ap| (names::AP, ap.tree())));
        children.extend([(names::LAYER_NORM, self.layer_norm.tree()), ("dropout", self.dropout.tree())]);
        match self.config.loss_type {
            Loss::Ce => children.push(("loss_fct", Tree::inert("CrossEntropyLoss()"))),
            Loss::Bpr => children.push(("loss_fct", Tree::inert("BPRLoss()"))),
        }
        if (self.config.model, self.config.loss_type) == (Architecture::SasRecD, Loss::Ce) {
            children.push(("attribute_loss_fct", Tree::inert("BCEWithLogitsLoss()")));
        }
        Tree::node(self.config.model.name(), children)
    }
}

/// 0 where a query may see a key, −10000 where the key is padding or comes later (`get_attention_mask` of the authors'
/// `SASRecD`).
///
/// # Shapes
/// `[B, L]` → `[B, 1, L, L]`
fn attention_mask(item_seq: &Tensor, kind: Kind) -> Tensor {
    let length = item_seq.size()[1];
    let true_items = item_seq.gt(0).to_kind(Kind::Int64).unsqueeze(1).unsqueeze(2);
    let causal = Tensor::ones([1, length, length], (Kind::Float, item_seq.device())).triu(1).eq(0);
    let visible = (true_items * causal.unsqueeze(1).to_kind(Kind::Int64)).to_kind(kind);
    (1.0 - visible) * -10000.0
}

/// The output at the last item of each sequence (RecBole's `gather_indexes`).
///
/// # Shapes
/// output `[B, L, H]`, item_seq_len `[B]` → `[B, H]`
fn last_position(output: &Tensor, item_seq_len: &Tensor) -> Tensor {
    let index = (item_seq_len - 1).view([-1, 1, 1]).expand([-1, -1, output.size()[2]], false);
    output.gather(1, &index, false).squeeze_dim(1)
}
