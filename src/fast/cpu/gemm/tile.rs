//! A tile of the output: the block of at most some rows by [`NR`] columns that a microkernel computes.

use std::arch::x86_64::{__m512i, __mmask16, _mm512_mask_storeu_epi32, _mm512_maskz_loadu_epi32};

use super::element::{Element, REGISTER};
use super::matrix::Epilogue;
use super::pack::{NR, lane_mask};

/// Words along k that are summed before the epilogue: the panel of the right operand, 32 KiB of them, stays in the
/// L1 cache while it meets every panel of the left one; with AMX two panels of the left operand while they meet every
/// panel of the right one.
pub const KC: usize = 256;

/// The sums of a row.
pub type Sums = [__m512i; NR / REGISTER];

/// A tile of the output, and what is done with its sums.
pub struct OutputTile<'a, T> {
    /// The output from the tile's first element on.
    pub out: &'a mut [T],
    /// From a row of the output to the next.
    pub stride: usize,
    pub rows: usize,
    /// Which of the [`NR`] columns there are.
    masks: [__mmask16; NR / REGISTER],
    /// A bias from the tile's first column on.
    epilogue: Epilogue<'a, T>,
}

impl<'a, T: Copy> OutputTile<'a, T> {
    /// The tile of an output of n columns from row i and column j on: as many rows as there are, and `rows` at most.
    pub fn new(out: &'a mut [T], n: usize, [i, j]: [usize; 2], rows: usize, epilogue: Epilogue<'a, T>) -> Self {
        let epilogue = epilogue.from_column(j);
        let rows = rows.min(out.len() / n - i);
        let masks = [lane_mask(n - j), lane_mask((n - j).saturating_sub(REGISTER))];
        Self { out: &mut out[i * n + j..], stride: n, rows, masks, epilogue }
    }

    /// Applies the epilogue to the sums of ROWS rows from `first` on, and writes those that the tile has.
    ///
    /// # Safety
    /// A bias has a number for every column; the tile is as [`OutputTile::new`] made it; the processor has the
    /// instructions.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    pub unsafe fn store<E: Element<Acc = T>, const ROWS: usize>(&mut self, first: usize, sums: [Sums; ROWS]) {
        // SAFETY: a value is read at its own place in the output or in the bias, through the mask; the caller's promise.
        unsafe {
            match self.epilogue {
                Epilogue::Overwrite => self.store_sums(first, sums, |_, _, _, sum| sum),
                Epilogue::Accumulate => {
                    self.store_sums(first, sums, |at, mask, _, sum| E::add(_mm512_maskz_loadu_epi32(mask, at), sum))
                }
                Epilogue::Bias(row) => self.store_sums(first, sums, |_, mask, part, sum| {
                    E::add(_mm512_maskz_loadu_epi32(mask, row.as_ptr().wrapping_add(part * REGISTER).cast()), sum)
                }),
            }
        }
    }

    /// Writes what `value` makes of the place, mask and part of each sum. Short enough to be unrolled, so that the sums stay
    /// in their registers.
    ///
    /// # Safety
    /// As [`OutputTile::store`]; `value` reads through its mask alone.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
    unsafe fn store_sums<const ROWS: usize>(
        &mut self,
        first: usize,
        sums: [Sums; ROWS],
        value: impl Fn(*const i32, __mmask16, usize, __m512i) -> __m512i,
    ) {
        for (row, sums) in sums.into_iter().enumerate() {
            if first + row < self.rows {
                for (part, (sum, mask)) in sums.into_iter().zip(self.masks).enumerate() {
                    let at: *mut i32 =
                        self.out.as_mut_ptr().wrapping_add((first + row) * self.stride + part * REGISTER).cast();
                    // SAFETY: the mask lets through columns of this row alone, and a register holds 16 numbers.
                    unsafe { _mm512_mask_storeu_epi32(at, mask, value(at, mask, part, sum)) };
                }
            }
        }
    }
}
