//! Score tables: the scores of an attribute or of the positions between all of their vectors, once for a step.
//!
//! With Q = X W_Qᵀ + b_Q and K = X W_Kᵀ + b_K of the n vectors X, a head's scores are Q Kᵀ, unscaled. Positions have L
//! vectors, an attribute its distinct ones ([`crate::fast::cpu::batch::attribute`]).

use crate::config::Precision;
use crate::fast::cpu::gemm::{Epilogue, MatRef, gemm};
use crate::fast::cpu::params::layout::LinearRange;
use crate::fast::cpu::params::linear::Weights;

/// The scores between n vectors in one layer. They are float32 under either precision, as the item's are.
#[derive(Debug)]
pub struct ScoreTable {
    /// Query, then key of every vector, `[n, 2, d]`.
    projections: Vec<f32>,
    /// By query and key, `[n, n, heads]`.
    pub scores: Vec<f32>,
    pub n: usize,
    d: usize,
    heads: usize,
}

impl ScoreTable {
    /// The table of `vectors`, whose query and key layers are `linear`.
    ///
    /// # Shapes
    /// vectors `[n, d]`
    pub fn new(weights: &Weights, linear: &LinearRange, vectors: &[f32], heads: usize) -> Self {
        let (n, d) = (vectors.len() / linear.inputs, linear.inputs);
        let mut table = Self { projections: Vec::new(), scores: vec![0.0; n * n * heads], n, d, heads };
        weights.forward(linear, vectors, &mut table.projections);
        let mut of_head = vec![0.0; n * n];
        for head in 0..heads {
            let [query, key] = table.sides(head);
            gemm(Precision::Float32, query, &key.t().into(), &mut of_head, Epilogue::Overwrite);
            table.scores[head..].iter_mut().step_by(heads).zip(&of_head).for_each(|(score, &x)| *score = x);
        }
        table
    }

    /// The gradient of the projections, `[n, 2, d]`, from that of the scores: dQ = dS K and dK = dSᵀ Q.
    ///
    /// # Shapes
    /// dscores `[n, n, heads]`
    pub fn backward(&self, dscores: &[f32]) -> Vec<f32> {
        let (n, d, width) = (self.n, self.d, self.d / self.heads);
        let (mut of_head, mut dside) = (Vec::new(), vec![0.0; n * width]);
        let mut dprojections = vec![0.0; self.projections.len()];
        for head in 0..self.heads {
            of_head.clear();
            of_head.extend(dscores[head..].iter().step_by(self.heads));
            let dscores = MatRef::new(&of_head, n);
            let [query, key] = self.sides(head);
            let products = [(dscores, key), (dscores.t(), query)];
            for (side, (dscores, other)) in products.into_iter().enumerate() {
                gemm(Precision::Float32, dscores, &other.into(), &mut dside, Epilogue::Overwrite);
                for (dprojections, dside) in dprojections.chunks_exact_mut(2 * d).zip(dside.chunks_exact(width)) {
                    dprojections[side * d + head * width..][..width].copy_from_slice(dside);
                }
            }
        }
        dprojections
    }

    /// The queries and the keys of a head, `[n, d / heads]` each.
    fn sides(&self, head: usize) -> [MatRef<'_>; 2] {
        let width = self.d / self.heads;
        [0, self.d].map(|side| MatRef::new(&self.projections, 2 * self.d).column_range(side + head * width, width))
    }
}
