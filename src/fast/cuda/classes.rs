//! Items with the same tokens of an attribute are one class of it: Amazon_Beauty has some 240 for its 12,101 items.
//!
//! What the attribute adds to scores or input is a function of the class. It is computed once for each class and looked
//! up for each position, and the gradient of the look-up is a sum over the positions of a class. Most positions may be
//! padding, whose sum one thread of a GPU would take alone. So the padding's class has [`COPIES`], which positions
//! share out.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::model::ItemFeature;

/// Copies of the padding's class.
pub const COPIES: i64 = 32;

/// The classes of an attribute.
#[derive(Debug)]
pub struct Classes {
    /// The class of each item, `[n_items]`, int32: the gradient of a look-up sorts its indices, byte by byte.
    of_item: Tensor,
    /// An item of each class, the padding's copies included, `[classes]`.
    pub members: Tensor,
}

impl Classes {
    /// By the tokens of each item, whatever their order: pooling does not see it.
    pub fn new(feature: &ItemFeature) -> Self {
        let (device, width) = (feature.ids.device(), feature.ids.size()[1].max(1) as usize);
        let mut ids = vec![0_i64; feature.ids.numel()];
        feature.ids.to_device(tch::Device::Cpu).flatten(0, -1).copy_data(&mut ids, feature.ids.numel());
        let (mut members, mut classes) = (Vec::new(), HashMap::new());
        let of_item = ids.chunks_exact_mut(width).zip(0_i64..).map(|(tokens, item)| {
            tokens.sort_unstable();
            let new = members.len() as i64;
            *classes.entry(&*tokens).or_insert_with(|| {
                members.push(item);
                new
            })
        });
        let of_item: Vec<i64> = of_item.collect();
        members.extend([0; COPIES as usize]);
        let [of_item, members] = [&of_item, &members].map(|ids| Tensor::from_slice(ids).to_device(device));
        Self { of_item: of_item.to_kind(Kind::Int), members }
    }

    /// Classes, the padding's copies included.
    pub fn n(&self) -> i64 {
        self.members.size()[0]
    }

    /// The class of each position. `real` says where items are, `number`, int32, numbers the positions.
    ///
    /// # Shapes
    /// `[B, L]` each → `[B, L]`, int32
    pub fn of(&self, items: &Tensor, real: &Tensor, number: &Tensor) -> Tensor {
        let copies = number.remainder(COPIES) + (self.n() - COPIES);
        self.of_item.index_select(0, &items.flatten(0, -1)).view_as(items).where_self(real, &copies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AttributeKind;

    fn ids(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.to_kind(Kind::Int64).flatten(0, -1)).unwrap()
    }

    #[test]
    fn items_with_the_same_tokens_are_one_class_and_padding_has_copies() {
        let ids_of_items = Tensor::from_slice(&[0_i64, 0, 1, 2, 2, 1, 3, 0, 0, 0]).view([5, 2]);
        let feature =
            ItemFeature { name: "tags".to_owned(), kind: AttributeKind::TokenSeq, vocab: 4, ids: ids_of_items };
        let classes = Classes::new(&feature);
        assert_eq!(classes.n(), 3 + COPIES);
        assert_eq!(ids(&classes.members.narrow(0, 0, 3)), [0, 1, 3]);
        assert_eq!(ids(&classes.members.narrow(0, 3, COPIES)), [0; COPIES as usize]);

        let items = Tensor::from_slice(&[2_i64, 1, 0, 4, 3, 0]).view([2, 3]);
        let number = Tensor::from_slice(&[0_i32, 1, 2, 3, 4, 37]).view([2, 3]);
        let found = ids(&classes.of(&items, &items.gt(0), &number));
        assert_eq!(found, [1, 1, 3 + 2, 0, 2, 3 + 5], "item 4 has no tokens, and is no padding");
    }
}
