//! The distinct vectors of an attribute: many items share one.
//!
//! The 12,101 items of Amazon_Beauty have some 240 sets of categories. An attribute's query and key are functions of its
//! vector, so that they are computed once for each distinct one.

use std::collections::HashMap;

/// The most scores of a table that serves a whole step, 1 MiB: more would not stay in a core's cache.
const TABLE_LIMIT: usize = 1 << 18;

/// An attribute of all items.
#[derive(Debug)]
pub struct Attribute {
    /// The distinct vectors, `[classes, dᵢ]`.
    pub vectors: Vec<f32>,
    /// dᵢ.
    pub size: usize,
    /// The class of every item: the index of its vector.
    pub class: Vec<u32>,
    /// Whether one table of the scores between all classes serves a whole step.
    pub tabulated: bool,
}

impl Attribute {
    /// From the vectors of all items, some of them at a time, `[items, dᵢ]`.
    pub fn new(vectors_of_items: impl Iterator<Item = Vec<f32>>, size: usize, heads: usize) -> Self {
        let (mut vectors, mut classes, mut class) = (Vec::new(), HashMap::new(), Vec::new());
        for some in vectors_of_items {
            class.extend(some.chunks_exact(size).map(|vector| {
                let bits: Vec<u32> = vector.iter().map(|x| x.to_bits()).collect();
                let new = classes.len() as u32;
                *classes.entry(bits).or_insert_with(|| {
                    vectors.extend_from_slice(vector);
                    new
                })
            }));
        }
        let tabulated = classes.len().pow(2) * heads <= TABLE_LIMIT;
        Self { vectors, size, class, tabulated }
    }

    pub fn n_classes(&self) -> usize {
        self.vectors.len() / self.size
    }
}
