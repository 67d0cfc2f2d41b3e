//! Dropout masks that the backward pass draws again instead of keeping them.
//!
//! A mask is a function of the seed, the training step, the dropout layer and the row of the batch: it depends neither
//! on threads nor on the order in which rows are computed.

use crate::splitmix::{self, GAMMA, mix};

/// A stream of random numbers with substreams: of a step, of a dropout layer in it, of a row in that. Each is a
/// SplitMix64 stream of period 2⁶⁴ from a start that is itself a SplitMix64 output.
#[derive(Debug, Clone, Copy)]
pub struct Stream(u64);

impl Stream {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(GAMMA)))
    }

    /// The substream with the number `index`.
    pub fn substream(self, index: u64) -> Self {
        Self(mix(self.0 ^ mix(index.wrapping_add(GAMMA))))
    }

    fn next(&mut self) -> u64 {
        splitmix::next(&mut self.0)
    }
}

/// Inverted dropout: each element is zeroed with probability p, the others are scaled by 1 / (1 − p).
///
/// DIFFERENCE: PyTorch draws a float an element from one generator. Here p = 0.5 takes one random bit an element; any
/// other p takes 16, and is rounded to a multiple of 2⁻¹⁶. The scale belongs to the rounded p, so that the mean is kept.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// How many of 2¹⁶ values keep an element.
    keep: u32,
    scale: f32,
}

impl Dropout {
    /// `None` where nothing is dropped.
    pub fn new(p: f64) -> Option<Self> {
        let keep = ((1.0 - p) * 65_536.0).round().max(1.0);
        (p > 0.0).then_some(Self { keep: keep as u32, scale: (65_536.0 / keep) as f32 })
    }

    /// Writes a mask: 0 or the scale for each element.
    #[inline(always)]
    pub fn mask(self, mut stream: Stream, mask: &mut [f32]) {
        if self.keep == 32_768 {
            for block in mask.chunks_mut(32) {
                let bits = (stream.next() >> 32) as u32;
                for (i, m) in block.iter_mut().enumerate() {
                    *m = ((bits >> i) & 1) as f32 * self.scale;
                }
            }
        } else {
            for block in mask.chunks_mut(4) {
                let bits = stream.next();
                for (i, m) in block.iter_mut().enumerate() {
                    *m = if (bits >> (16 * i)) as u16 as u32 >= self.keep { 0.0 } else { self.scale };
                }
            }
        }
    }
}

/// One dropout layer of the model in one step, row by row.
#[derive(Debug, Clone, Copy)]
pub struct RowDropout<'a> {
    /// `None` drops nothing.
    pub dropout: Option<Dropout>,
    /// The stream of the layer.
    pub stream: Stream,
    /// The number of every row in the whole batch.
    pub row_numbers: &'a [u64],
}

impl RowDropout<'_> {
    /// Writes the mask of a row; `false` where nothing is dropped.
    #[inline(always)]
    pub fn mask(self, row: usize, mask: &mut [f32]) -> bool {
        let Some(dropout) = self.dropout else { return false };
        dropout.mask(self.stream.substream(self.row_numbers[row]), mask);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_keep_with_probability_one_minus_p_and_keep_the_mean() {
        for p in [0.1, 0.3, 0.5, 0.9] {
            let dropout = Dropout::new(p).unwrap();
            let mut mask = vec![0.0; 400_000];
            let rows = Stream::new(212).substream(7);
            mask.chunks_mut(250).enumerate().for_each(|(row, mask)| dropout.mask(rows.substream(row as u64), mask));
            let kept = mask.iter().filter(|&&m| m > 0.0).count() as f64 / mask.len() as f64;
            // Four standard deviations of a binomial.
            assert!((kept - (1.0 - p)).abs() < 4.0 * (p * (1.0 - p) / 400_000.0).sqrt(), "p {p}: {kept}");
            let mean = kept * f64::from(dropout.scale);
            assert!((mean - 1.0).abs() < 0.02, "p {p}: {mean}");
        }
        assert!(Dropout::new(0.0).is_none());
    }

    #[test]
    fn neighbouring_rows_layers_and_steps_have_unrelated_masks() {
        let dropout = Dropout::new(0.5).unwrap();
        let draw = |stream: Stream| {
            let mut mask = vec![0.0; 4096];
            dropout.mask(stream, &mut mask);
            mask
        };
        let base = Stream::new(0);
        let streams = [
            base,
            base.substream(0),
            base.substream(1),
            base.substream(0).substream(1),
            base.substream(1).substream(0),
            Stream::new(1),
        ];
        let masks = streams.map(draw);
        for (i, a) in masks.iter().enumerate() {
            for b in &masks[..i] {
                let equal = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64;
                // Five standard deviations of a binomial with n = 4096 and p = 1/2.
                assert!((equal - 2048.0).abs() < 160.0, "{equal} of 4096");
            }
            assert_eq!(draw(streams[i]), *a, "the same stream gives the same mask");
        }
    }
}
