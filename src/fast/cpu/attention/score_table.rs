//! The streams that are not the item's: scores between distinct vectors instead of between the positions of a sequence.
//!
//! An attribute's query and key are functions of its vector, which many items share: the 12,101 items of Amazon_Beauty have
//! 224 sets of categories. Where they are few, one table of scores serves a whole step; else each chunk computes queries and
//! keys of its own. The position's vectors are L, the same for all sequences.

use std::collections::HashMap;

use crate::config::Precision;
use crate::fast::cpu::encoder::step::Frame;
use crate::fast::cpu::gemm::{Matrix, To, product};
use crate::fast::cpu::params::layout::Dense;

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
pub struct Pairs {
    /// Queries, then keys, `[n, 2 d]`.
    sides: Vec<f32>,
    /// By query and key, `[n, n, heads]`.
    pub scores: Vec<f32>,
    pub n: usize,
}

impl Pairs {
    /// The pairs of `vectors`, `[n, d]`.
    pub fn new(frame: &Frame, dense: &Dense, vectors: &[f32]) -> Self {
        let n = vectors.len() / dense.inputs;
        let mut pairs = Self { sides: Vec::new(), scores: vec![0.0; n * n * frame.heads], n };
        frame.linear(dense, vectors, &mut pairs.sides);
        let mut of_head = vec![0.0; n * n];
        for head in 0..frame.heads {
            let [query, key] = pairs.of(dense, frame.heads, head);
            product(Precision::Float32, query, &key.t().into(), &mut of_head, To::Nothing);
            pairs.scores[head..].iter_mut().step_by(frame.heads).zip(&of_head).for_each(|(score, &x)| *score = x);
        }
        pairs
    }

    /// The gradient of queries and keys, `[n, 2 d]`, from that of the scores.
    ///
    /// # Shapes
    /// dscores `[n, n, heads]`
    pub fn backward(&self, frame: &Frame, dense: &Dense, dscores: &[f32]) -> Vec<f32> {
        let (n, d) = (self.n, dense.inputs / frame.heads);
        let (mut of_head, mut dside, mut dsides) = (Vec::new(), vec![0.0; n * d], vec![0.0; self.sides.len()]);
        for head in 0..frame.heads {
            of_head.clear();
            of_head.extend(dscores[head..].iter().step_by(frame.heads));
            let [query, key] = self.of(dense, frame.heads, head);
            let dscores = Matrix::new(&of_head, n);
            for (side, (dscores, other)) in [(dscores, key), (dscores.t(), query)].into_iter().enumerate() {
                product(Precision::Float32, dscores, &other.into(), &mut dside, To::Nothing);
                for (dsides, dside) in dsides.chunks_exact_mut(2 * dense.inputs).zip(dside.chunks_exact(d)) {
                    dsides[side * dense.inputs + head * d..][..d].copy_from_slice(dside);
                }
            }
        }
        dsides
    }

    /// The queries and the keys of a head, `[n, d / heads]`.
    fn of(&self, dense: &Dense, heads: usize, head: usize) -> [Matrix<'_>; 2] {
        let d = dense.inputs / heads;
        [0, dense.inputs].map(|side| Matrix::new(&self.sides, 2 * dense.inputs).part(side + head * d, d))
    }
}
