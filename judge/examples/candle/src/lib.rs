//! The attention of a DIF-SR layer in candle, with the gate that fuses its streams (equations 6 to 9 of the paper).

use candle_core::{D, Result, Tensor};

/// What a padded or later key's score is lowered by.
const MASKED: f64 = -10000.0;

/// A linear layer, as PyTorch keeps it: `[out, in]` and `[out]`.
pub struct Linear {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Linear {
    /// `[…, in]` → `[…, out]`.
    ///
    /// # Errors
    /// The last axis has another size.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (out, width) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(out);
        let rows = x.contiguous()?.reshape(((), width))?;
        rows.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?.reshape(shape)
    }
}

/// Mean 0 and variance 1 along the last axis, then weight and bias.
pub struct LayerNorm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f64,
}

impl LayerNorm {
    /// `[…, H]` → `[…, H]`.
    ///
    /// # Errors
    /// The last axis has another size.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// Queries and keys of one stream.
pub struct Stream {
    pub query: Linear,
    pub key: Linear,
}

/// Multi-head attention over items, positions and attributes, whose scores a gate fuses.
pub struct Attention {
    pub n_heads: usize,
    pub item: Stream,
    pub position: Stream,
    pub attributes: Vec<Stream>,
    /// `[L]` → `[L]`, then `[L]` → `[1]`: the energy of a row of scores.
    pub gate: [Linear; 2],
    pub value: Linear,
    pub dense: Linear,
    pub norm: LayerNorm,
}

/// What the judge looks at.
pub struct Attended {
    /// `[B, heads, L, L]`
    pub fused: Tensor,
    /// `[B, heads, L, L]`
    pub probs: Tensor,
    /// `[B, L, H]`
    pub output: Tensor,
}

impl Attention {
    /// `x` and `position` are `[B, L, H]`, each of `attributes` `[B, L, d_i]`; `item_seq` holds ids, 0 where there is none.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        position: &Tensor,
        attributes: &[Tensor],
        item_seq: &[Vec<i64>],
    ) -> Result<Attended> {
        let mut streams = Vec::new();
        for (stream, vectors) in self.attributes.iter().zip(attributes) {
            streams.push(self.scores(stream, vectors)?);
        }
        streams.push(self.scores(&self.item, x)?);
        streams.push(self.scores(&self.position, position)?);
        let fused = self.fuse(&streams)?;
        // By the item head size, whatever the stream's.
        let scale = ((x.dim(D::Minus1)? / self.n_heads) as f64).sqrt();
        let probs = softmax(&(&fused / scale)?.broadcast_add(&mask(item_seq, x)?)?)?;
        let mixed = probs.matmul(&self.heads(&self.value.forward(x)?)?)?;
        let merged = mixed.transpose(1, 2)?.contiguous()?.flatten_from(2)?;
        let output = self.norm.forward(&(self.dense.forward(&merged)? + x)?)?;
        Ok(Attended { fused, probs, output })
    }

    /// `[B, L, size]` → `[B, heads, L, L]`, not scaled yet.
    fn scores(&self, stream: &Stream, x: &Tensor) -> Result<Tensor> {
        let (query, key) = (self.heads(&stream.query.forward(x)?)?, self.heads(&stream.key.forward(x)?)?);
        query.matmul(&key.transpose(2, 3)?.contiguous()?)
    }

    /// `[B, L, size]` → `[B, heads, L, d]`.
    fn heads(&self, x: &Tensor) -> Result<Tensor> {
        let (b, l, size) = x.dims3()?;
        x.reshape((b, l, self.n_heads, size / self.n_heads))?.transpose(1, 2)?.contiguous()
    }

    /// The sum of the streams, each weighted by the softmax over streams of its rows' energies.
    fn fuse(&self, streams: &[Tensor]) -> Result<Tensor> {
        let stacked = Tensor::stack(streams, 3)?; // [B, heads, L, streams, L]
        let [first, second] = &self.gate;
        let energy = second.forward(&first.forward(&stacked)?.relu()?)?.squeeze(D::Minus1)?;
        let weights = softmax(&energy)?.unsqueeze(D::Minus1)?;
        stacked.broadcast_mul(&weights)?.sum(3)
    }
}

/// Along the last axis.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// `[B, 1, L, L]`: 0 where a query sees a key.
fn mask(item_seq: &[Vec<i64>], like: &Tensor) -> Result<Tensor> {
    let (b, l) = (item_seq.len(), item_seq[0].len());
    let mut values = Vec::new();
    for row in item_seq {
        for query in 0..l {
            values.extend((0..l).map(|key| if key > query || row[key] == 0 { MASKED } else { 0.0 }));
        }
    }
    Tensor::from_vec(values, (b, 1, l, l), like.device())
}
