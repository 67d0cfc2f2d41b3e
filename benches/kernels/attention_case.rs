//! Attention of one micro-batch with an attribute and positions, by the fast path's kernel and by libtorch's
//! operations.

use dif_sr::config::{Fusion as FusionType, Precision};
use dif_sr::fast::kernels::*;
use dif_sr::model::FusionLayer;
use tch::{Device, Kind, Tensor};

use super::floats;

const SEQUENCES: usize = 64;
const LENGTH: usize = 7;
const HEADS: usize = 4;
const H: usize = 256;
/// Distinct vectors of the attribute.
const CLASSES: usize = 224;

/// Sequences of full length, without dropout.
pub struct AttentionCase {
    batch: MicroBatch,
    layer: FusionLayer,
    /// The fusion's parameters, and of their gradient as many lanes.
    fusion: Vec<Vec<f32>>,
    dfusion: Vec<Lanes>,
    /// `[B, L, H]`
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dcontext: Tensor,
    /// The class of every position's item, `[B, L]`.
    classes: Tensor,
    /// `[n, n, heads]` of the attribute and of the positions.
    tables: [Tensor; 2],
    /// The same as rows of the micro-batch, query, key and value of a row side by side.
    rows: OperandBuffer,
    dcontext_rows: Vec<f32>,
    class_rows: Vec<u32>,
    table_rows: [Vec<f32>; 2],
    dtables: [Vec<f32>; 2],
    saved: SavedScores,
    context: OperandBuffer,
    drows: OperandBuffer,
}

impl AttentionCase {
    pub fn new(fusion: FusionType) -> Self {
        let layer = FusionLayer::new(fusion, 1, LENGTH as i64, Kind::Float);
        let parameters = match &layer {
            FusionLayer::Sum => Vec::new(),
            FusionLayer::Concat(linear) => vec![&linear.weight, &linear.bias],
            FusionLayer::Gate { hidden, energy } => vec![&hidden.weight, &hidden.bias, &energy.weight, &energy.bias],
        };
        tch::no_grad(|| parameters.iter().for_each(|parameter| _ = parameter.shallow_clone().normal_(0.0, 0.1)));
        let fusion: Vec<Vec<f32>> = parameters.into_iter().map(floats).collect();
        let batch = full_sequences();
        let n_rows = batch.n_rows();
        let dense = || {
            Tensor::randn([SEQUENCES as i64, LENGTH as i64, H as i64], (Kind::Float, Device::Cpu))
                .set_requires_grad(true)
        };
        let [query, key, value, dcontext] = [(); 4].map(|()| dense());
        let classes = Tensor::randint(CLASSES as i64, [SEQUENCES as i64, LENGTH as i64], (Kind::Int64, Device::Cpu));
        let table = |n: usize| Tensor::randn([n as i64, n as i64, HEADS as i64], (Kind::Float, Device::Cpu));
        let tables = [table(CLASSES), table(LENGTH)];
        let of_rows = |tensor: &Tensor| rows_of(&batch, &floats(tensor), H);
        let class_rows = rows_of(&batch, &Vec::<i64>::try_from(classes.flatten(0, -1)).expect("int64"), 1);
        let parts = [&query, &key, &value].map(of_rows);
        let rows: Vec<f32> =
            (0..n_rows).flat_map(|row| parts.iter().flat_map(move |part| &part[row * H..][..H])).copied().collect();
        Self {
            rows: operand(&rows),
            dcontext_rows: of_rows(&dcontext),
            class_rows: class_rows.into_iter().map(|class| class as u32).collect(),
            table_rows: [0, 1].map(|i| floats(&tables[i])),
            dtables: [0, 1].map(|i| vec![0.0; tables[i].numel()]),
            dfusion: vec![[0.0; LANES]; fusion.iter().map(Vec::len).sum()],
            saved: SavedScores::default(),
            context: operand(&vec![0.0; n_rows * H]),
            drows: operand(&vec![0.0; n_rows * 3 * H]),
            batch,
            layer,
            fusion,
            query,
            key,
            value,
            dcontext,
            classes,
            tables,
        }
    }

    /// Scores of every query by every key in every head.
    pub fn n_scores(&self) -> u64 {
        (SEQUENCES * LENGTH * LENGTH * HEADS) as u64
    }

    pub fn forward(&mut self) {
        let parts: Vec<&[f32]> = self.fusion.iter().map(|part| &part[..]).collect();
        let attention = attention(&self.batch, Fusion::new(&parts));
        let side_scores = side_scores(&self.batch, &self.class_rows, &self.table_rows);
        let inputs = AttentionInputs {
            sequences: &self.batch.sequences,
            rows: &self.rows,
            query: &[],
            query_bias: &[],
            side_scores: &side_scores,
        };
        attention_forward(attention, inputs, &mut self.saved, Context::All(&mut self.context));
    }

    pub fn backward(&mut self) {
        let parts: Vec<&[f32]> = self.fusion.iter().map(|part| &part[..]).collect();
        let attention = attention(&self.batch, Fusion::new(&parts));
        let side_scores = side_scores(&self.batch, &self.class_rows, &self.table_rows);
        let inputs = AttentionInputs {
            sequences: &self.batch.sequences,
            rows: &self.rows,
            query: &[],
            query_bias: &[],
            side_scores: &side_scores,
        };
        let dcontext = ContextGrad { rows: &self.dcontext_rows, prob_sums: &[] };
        let [of_attribute, of_positions] = &mut self.dtables;
        let grads = AttentionGrads {
            rows: RowGrads::All(&mut self.drows),
            side_scores: &mut [&mut of_attribute[..], &mut of_positions[..]],
            fusion: &mut self.dfusion,
        };
        attention_backward(attention, inputs, &self.saved, dcontext, grads);
    }

    /// The context by libtorch's operations, `[B, L, H]`.
    pub fn reference_forward(&self) -> Tensor {
        let heads = |x: &Tensor| {
            let shape = [SEQUENCES as i64, LENGTH as i64, HEADS as i64, (H / HEADS) as i64];
            x.view(shape).transpose(1, 2)
        };
        let [query, key, value] = [&self.query, &self.key, &self.value].map(heads);
        let flat = self.classes.flatten(0, -1);
        let of_class =
            self.tables[0].index_select(0, &flat).view([SEQUENCES as i64, LENGTH as i64, CLASSES as i64, -1]);
        let keys = self.classes.view([SEQUENCES as i64, 1, LENGTH as i64, 1]);
        let keys = keys.expand([SEQUENCES as i64, LENGTH as i64, LENGTH as i64, HEADS as i64], false);
        let attribute = of_class.gather(2, &keys, false).permute([0, 3, 1, 2]);
        let positions = self.tables[1].permute([2, 0, 1]).unsqueeze(0).expand_as(&attribute);
        let scores = self.layer.forward(&[attribute], &query.matmul(&key.transpose(-1, -2)), &positions);
        let future = Tensor::ones([LENGTH as i64; 2], (Kind::Float, Device::Cpu)).triu(1) * -10_000.0;
        let probs = (scores / ((H / HEADS) as f64).sqrt() + future).softmax(-1, None::<Kind>);
        probs.matmul(&value).transpose(1, 2).reshape([SEQUENCES as i64, LENGTH as i64, H as i64])
    }

    /// The context, and the gradients of queries, keys and values side by side.
    pub fn reference(&self) -> (Tensor, Tensor) {
        let context = self.reference_forward();
        let inputs = [&self.query, &self.key, &self.value];
        let gradients = Tensor::run_backward(&[&context * self.dcontext.detach()], &inputs, false, false);
        // The first position's query chooses among one key.
        (context, Tensor::cat(&gradients, -1))
    }

    /// The context, `[B, L, H]`.
    pub fn context(&self) -> Vec<f32> {
        self.dense(&self.context, H)
    }

    /// The gradients of queries, keys and values, `[B, L, 3 H]`.
    pub fn gradients(&self) -> Vec<f32> {
        self.dense(&self.drows, 3 * H)
    }

    /// Rows as `[B, L, width]`.
    fn dense(&self, rows: &OperandBuffer, width: usize) -> Vec<f32> {
        let mut dense = vec![0.0; SEQUENCES * LENGTH * width];
        let positions = self.batch.sequences.iter().flat_map(|sequence| (0..LENGTH).map(|i| sequence.keys.row(i)));
        positions.zip(dense.chunks_exact_mut(width)).for_each(|(row, out)| rows.load(row * width, out));
        dense
    }
}

fn operand(values: &[f32]) -> OperandBuffer {
    let mut rows = OperandBuffer::default();
    rows.resize(Precision::Float32, values.len());
    rows.store(0, values);
    rows
}

fn attention<'a>(batch: &'a MicroBatch, fusion: Fusion<'a>) -> Attention<'a> {
    Attention {
        geometry: Geometry { h: H, heads: HEADS, length: LENGTH, queries: Queries::All, n_first: batch.n_first },
        fusion,
        dropout: RowDropout { dropout: None, stream: Stream::new(0), row_numbers: &batch.row_numbers },
    }
}

fn side_scores<'a>(batch: &'a MicroBatch, classes: &'a [u32], tables: &'a [Vec<f32>; 2]) -> [SideScores<'a>; 2] {
    [
        SideScores::Table { scores: &tables[0], n: CLASSES, vector_index: classes },
        SideScores::Table { scores: &tables[1], n: LENGTH, vector_index: &batch.positions },
    ]
}

/// The rows of sequences of full length, as training has them.
fn full_sequences() -> MicroBatch {
    let (items, len) = (vec![1; SEQUENCES * LENGTH], vec![LENGTH as i64; SEQUENCES]);
    let view = BatchView { items: &items, len: &len, padding: Padding::Masked, share_first: false };
    let mut batch = MicroBatch::default();
    batch.fill(view, 0..SEQUENCES, &[], &mut ClassIndex::new(&[]));
    batch
}

/// From `[B, L, width]` to the rows of a micro-batch.
fn rows_of<T: Copy + Default>(batch: &MicroBatch, dense: &[T], width: usize) -> Vec<T> {
    let mut rows = vec![T::default(); dense.len()];
    for (sequence, dense) in batch.sequences.iter().zip(dense.chunks_exact(LENGTH * width)) {
        for (i, from) in dense.chunks_exact(width).enumerate() {
            rows[sequence.keys.row(i) * width..][..width].copy_from_slice(from);
        }
    }
    rows
}
