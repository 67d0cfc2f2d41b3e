//! The tokens of an attribute, item by item.

use crate::model::ItemFeature;

/// The tokens of every item; 0 is padding.
#[derive(Debug)]
pub struct Tokens {
    /// `[n_items, width]`
    ids: Vec<i64>,
    width: usize,
}

impl Tokens {
    pub fn new(feature: &ItemFeature) -> Self {
        let ids = Vec::try_from(feature.ids.flatten(0, -1)).expect("ids are int64");
        Self { ids, width: feature.ids.size()[1] as usize }
    }

    /// The tokens of an item, padding included, `[width]`.
    pub fn padded(&self, item: usize) -> &[i64] {
        &self.ids[item * self.width..][..self.width]
    }

    /// The tokens of an item, without padding.
    pub fn of(&self, item: usize) -> impl Iterator<Item = usize> {
        self.padded(item).iter().filter(|&&token| token != 0).map(|&token| token as usize)
    }
}
