//! The streams that are not the item's: scores between distinct vectors instead of between the positions of a sequence.
//!
//! An attribute's query and key are functions of its vector, which many items share: the 12,101 items of Amazon_Beauty have
//! 224 sets of categories. Where they are few, one table of scores serves a whole step; else each chunk computes queries and
//! keys of its own. The position's vectors are L, the same for all sequences.

use std::collections::HashMap;

use crate::config::Precision;
use crate::fast::cpu::encoder::step::StepContext;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::fast::cpu::params::layout::Linear;

/// The most scores of a table that serves a whole step, 1 MiB: more would not stay in a core's cache.
const SHARED: usize = 1 << 18;

/// An attribute of all items.
#[derive(Debug)]
pub struct Attribute {
    /// The distinct vectors, `[classes, dᵢ]`.
    pub vectors: Vec<f32>,
    /// dᵢ.
    pub size: usize,
    /// Where every item's vector stands among them.
    pub class: Vec<u32>,
    /// Whether one table of scores serves a whole step.
    pub shared: bool,
}

impl Attribute {
    /// From the vectors of all items, `[n_items, dᵢ]`.
    pub fn new(all: &[f32], size: usize, heads: usize) -> Self {
        let (mut vectors, mut places) = (Vec::new(), HashMap::new());
        let class = all.chunks_exact(size).map(|vector| {
            let bits: Vec<u32> = vector.iter().map(|x| x.to_bits()).collect();
            let new = places.len() as u32;
            *places.entry(bits).or_insert_with(|| {
                vectors.extend_from_slice(vector);
                new
            })
        });
        let class = class.collect();
        let shared = places.len().pow(2) * heads <= SHARED;
        Self { vectors, size, class, shared }
    }

    pub fn classes(&self) -> usize {
        self.vectors.len() / self.size
    }
}

/// Queries, keys and scores of some vectors of a stream, in one layer. Scores are float32, as the item's are.
#[derive(Debug)]
pub struct ScoreTable {
    /// Queries, then keys, `[n, 2 d]`.
    sides: Vec<f32>,
    /// By query and key, `[n, n, heads]`.
    pub scores: Vec<f32>,
    pub n: usize,
}

impl ScoreTable {
    /// The pairs of `vectors`, `[n, d]`.
    pub fn new(step: &StepContext, dense: &Linear, vectors: &[f32]) -> Self {
        let n = vectors.len() / dense.inputs;
        let mut pairs = Self { sides: Vec::new(), scores: vec![0.0; n * n * step.heads], n };
        step.linear(dense, vectors, &mut pairs.sides);
        let mut of_head = vec![0.0; n * n];
        for head in 0..step.heads {
            let [query, key] = pairs.of(dense, step.heads, head);
            gemm(Precision::Float32, query, &key.t().into(), &mut of_head, Epilogue::Overwrite);
            pairs.scores[head..].iter_mut().step_by(step.heads).zip(&of_head).for_each(|(score, &x)| *score = x);
        }
        pairs
    }

    /// The gradient of queries and keys, `[n, 2 d]`, from that of the scores.
    ///
    /// # Shapes
    /// dscores `[n, n, heads]`
    pub fn backward(&self, step: &StepContext, dense: &Linear, dscores: &[f32]) -> Vec<f32> {
        let (n, d) = (self.n, dense.inputs / step.heads);
        let (mut of_head, mut dside, mut dsides) = (Vec::new(), vec![0.0; n * d], vec![0.0; self.sides.len()]);
        for head in 0..step.heads {
            of_head.clear();
            of_head.extend(dscores[head..].iter().step_by(step.heads));
            let [query, key] = self.of(dense, step.heads, head);
            let dscores = MatRef::new(&of_head, n);
            for (side, (dscores, other)) in [(dscores, key), (dscores.t(), query)].into_iter().enumerate() {
                gemm(Precision::Float32, dscores, &other.into(), &mut dside, Epilogue::Overwrite);
                for (dsides, dside) in dsides.chunks_exact_mut(2 * dense.inputs).zip(dside.chunks_exact(d)) {
                    dsides[side * dense.inputs + head * d..][..d].copy_from_slice(dside);
                }
            }
        }
        dsides
    }

    /// The queries and the keys of a head, `[n, d / heads]`.
    fn of(&self, dense: &Linear, heads: usize, head: usize) -> [MatRef<'_>; 2] {
        let d = dense.inputs / heads;
        [0, dense.inputs].map(|side| MatRef::new(&self.sides, 2 * dense.inputs).column_range(side + head * d, d))
    }
}
