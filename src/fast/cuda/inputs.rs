//! What the operations of a step read besides parameters: made of a batch on its device, without a wait for the device.

use tch::{Kind, Tensor};

use super::classes::Classes;

/// Rows behind the item embedding's, to which the gradients of padded positions go. They would make one sum of most of
/// the positions, which a GPU takes in one thread.
pub const SPREAD: i64 = 4096;
/// Added to the scores of keys that a query does not see.
const MASKED: f64 = -10000.0;

/// The sequences of a batch.
#[derive(Debug)]
pub struct Inputs {
    /// B and L.
    pub shape: [i64; 2],
    /// `[B, L]`
    pub items: Tensor,
    /// The row of the gradient of each position, `[B · L]`: its item's, behind the table where it is padding.
    pub rows: Tensor,
    /// 0 where a query sees a key, −10000 elsewhere, `[B, 1, L, L]`.
    pub mask: Tensor,
    /// The last query's row of it, `[B, 1, 1, L]`.
    pub last_mask: Tensor,
    /// 1 at the last item of each sequence, 0 elsewhere, `[B, L]`.
    pub last: Tensor,
    /// The class of each position in each attribute, `[B, L]`, int32.
    pub classes: Vec<Tensor>,
}

impl Inputs {
    /// # Shapes
    /// item_seq `[B, L]`, right-padded with 0, item_seq_len `[B]`
    pub fn new(item_seq: &Tensor, item_seq_len: &Tensor, n_items: i64, classes: &[&Classes], kind: Kind) -> Self {
        let (b, l) = item_seq.size2().expect("sequences are [B, L]");
        let device = item_seq.device();
        let places = Tensor::arange(l, (Kind::Int64, device));
        let number = Tensor::arange(b * l, (Kind::Int, device)).view([b, l]);
        let real = item_seq.gt(0);
        let causal = places.unsqueeze(0).le_tensor(&places.unsqueeze(1)); // [L, L]
        let visible = real.view([b, 1, l]).logical_and(&causal);
        let mask = |visible: Tensor| (visible.to_kind(kind) - 1.0) * -MASKED;
        Self {
            shape: [b, l],
            items: item_seq.shallow_clone(),
            rows: item_seq.where_self(&real, &(number.remainder(SPREAD) + n_items)).flatten(0, -1),
            mask: mask(visible.unsqueeze(1)),
            last_mask: mask(real.view([b, 1, 1, l])),
            last: places.unsqueeze(0).eq_tensor(&(item_seq_len - 1).unsqueeze(1)).to_kind(kind),
            classes: classes.iter().map(|classes| classes.of(item_seq, &real, &number)).collect(),
        }
    }

    /// The row of `x` at the last item of each sequence, as a masked sum of one term: on a GPU the gradient of a look-up
    /// sorts its indices. It is no matrix product, which autocasting would round.
    ///
    /// # Shapes
    /// x `[B · L, H]` → `[B, H]`
    pub fn at_last(&self, x: &Tensor) -> Tensor {
        let [b, l] = self.shape;
        (x.view([b, l, -1]) * self.last.unsqueeze(2)).sum_dim_intlist(1, false, None::<Kind>)
    }
}
