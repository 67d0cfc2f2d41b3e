//! Products of bfloat16 by the matrix unit of x86 processors that have one (AMX).
//!
//! Its eight registers hold 16 lines of 64 bytes each: a square of the left factor is 16 rows of 32 numbers, one of the right
//! factor 16 pairs of rows of 16 columns, and four squares of sums are 32 × 32. An instruction adds 16 × 32 · 32 × 16 numbers.

use std::arch::asm;
use std::arch::x86_64::{_mm512_load_si512, _mm512_setzero_si512, _mm512_store_si512};

use super::avx512::{DEPTH, Tile};
use super::pack::{BFloat16, Element, FACTORS, Packed, RIGHT, Source, WORDS, transpose};
use super::{Factor, Matrix, To};

/// Rows of a tile of the output, two squares.
const ROWS: usize = 2 * WORDS;

/// A tile of the output.
#[repr(C, align(64))]
struct Sums([[f32; RIGHT]; ROWS]);

/// What the registers are: of the first palette, all of 16 lines of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    lines: [u8; 16],
}

static SQUARES: Configuration = Configuration {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Packs a right factor.
///
/// # Safety
/// The processor has the instructions, as [`MATRIX_UNIT`](super::pack::MATRIX_UNIT) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn right(matrix: Matrix) -> Packed {
    // SAFETY: the caller's promise.
    unsafe { Packed::right::<BFloat16, WORDS>(matrix) }
}

/// Packs a left factor in panels of [`WORDS`] rows, an even number of them: squares of 16 words of each row, row by row.
///
/// # Safety
/// The processor has the instructions, as [`MATRIX_UNIT`](super::pack::MATRIX_UNIT) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
unsafe fn pack(left: &mut Packed, matrix: Matrix) {
    let [m, k] = matrix.size();
    let source = Source { matrix, count: m, k, along: !matrix.transposed };
    let panels = 2 * m.div_ceil(ROWS);
    let to = left.make_room(&source, panels * WORDS, k.div_ceil(BFloat16::STEPS).next_multiple_of(WORDS));
    let blocks = left.words / WORDS;
    for i in 0..panels * blocks {
        // Along the memory, as in `Packed::pack`.
        let (panel, block) = if source.along { (i / blocks, i % blocks) } else { (i % panels, i / panels) };
        let (first, word) = (panel * WORDS, block * WORDS);
        // SAFETY: the caller's promise.
        let square = unsafe {
            if source.along {
                source.lines::<BFloat16>(first, WORDS, word)
            } else {
                let mut square = [_mm512_setzero_si512(); WORDS];
                for (j, words) in square.iter_mut().enumerate() {
                    *words = source.word::<BFloat16>(first, WORDS, word + j);
                }
                transpose(square)
            }
        };
        for (j, words) in square.into_iter().enumerate() {
            // SAFETY: a line of this panel.
            unsafe { _mm512_store_si512(to.add((panel * left.words + word + j) * WORDS).cast(), words) };
        }
    }
}

/// As [`super::product`].
///
/// # Safety
/// The processor has the instructions, as [`MATRIX_UNIT`](super::pack::MATRIX_UNIT) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn product(a: Matrix, b: &Factor, out: &mut [f32], to: To) {
    let ([m, k], [height, n]) = (a.size(), b.size());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(to, To::Row(row) if row.len() != n));
    FACTORS.with_borrow_mut(|[left, right]| {
        // SAFETY: the caller's promise.
        let right = unsafe {
            pack(left, a);
            right.packed::<BFloat16, WORDS>(b)
        };
        assert_eq!(left.words, right.words, "a factor that was packed for other elements");
        let mut sums = Sums([[0.0; RIGHT]; ROWS]);
        // SAFETY: the processor has the unit, and 64 bytes say what its registers are.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &SQUARES, options(nostack, preserves_flags)) };
        for start in (0..left.words).step_by(DEPTH) {
            let words = DEPTH.min(left.words - start);
            let to = if start > 0 { To::Old } else { to };
            for j in (0..n).step_by(RIGHT) {
                let right = right.panel::<RIGHT>(j / RIGHT, start);
                for i in (0..m).step_by(ROWS) {
                    let panels = [0, 1].map(|panel| left.panel::<WORDS>(i / WORDS + panel, start));
                    // SAFETY: all panels hold so many more words of each lane, whole squares; the caller's promise.
                    unsafe {
                        sum(words / WORDS, panels, right, &mut sums);
                        let mut tile = Tile::new(out, n, [i, j], ROWS, to);
                        for row in 0..tile.rows {
                            let sums = sums.0[row].as_ptr();
                            let sums = [sums, sums.add(WORDS)].map(|half| _mm512_load_si512(half.cast()));
                            tile.put::<BFloat16>(row, sums);
                        }
                    }
                }
            }
        }
        // SAFETY: the registers are free again.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    });
}

/// Sums over so many squares along k, one at least.
///
/// # Safety
/// The panels hold so many squares from here on, and the registers are configured as [`SQUARES`] says.
#[inline]
unsafe fn sum(squares: usize, [a, b]: [*const i32; 2], right: *const i32, sums: &mut Sums) {
    // SAFETY: the caller's promise; a square of the left factor is 1 KiB of lines of 64 bytes, the two of the right one and
    // those of the sums lie side by side in lines of 128.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {line}*1]",
            "tileloadd tmm6, [{right} + {lines}*1]",
            "tileloadd tmm7, [{right} + {lines}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{b} + {line}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 1024",
            "add {b}, 1024",
            "add {right}, 2048",
            "dec {squares}",
            "jnz 2b",
            "tilestored [{sums} + {lines}*1], tmm0",
            "tilestored [{sums} + {lines}*1 + 64], tmm1",
            "tilestored [{sums} + {lines}*1 + 2048], tmm2",
            "tilestored [{sums} + {lines}*1 + 2112], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            right = inout(reg) right => _,
            squares = inout(reg) squares => _,
            sums = in(reg) sums,
            line = in(reg) 64_usize,
            lines = in(reg) 128_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::avx512::{self, tests::holds};
    use super::super::pack::MATRIX_UNIT;
    use super::*;
    use crate::splitmix;

    fn supported() -> bool {
        if !*MATRIX_UNIT {
            println!("left out: this processor has no matrix unit");
        }
        *MATRIX_UNIT
    }

    #[test]
    fn products_of_small_integers_are_exact_in_every_shape() {
        if supported() {
            // SAFETY: the instructions are there.
            holds(|x| x as f32, |b| unsafe { right(b) }, |a, b, out, to| unsafe { product(a, b, out, to) });
        }
    }

    /// The same factors, rounded to bfloat16: float32's sums in another order.
    #[test]
    fn its_products_are_those_of_the_vectors() {
        if !supported() {
            return;
        }
        let mut state = 1;
        let mut numbers = |n: usize| -> Vec<f32> {
            (0..n).map(|_| (splitmix::next(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
        };
        let (m, k, n) = (75, 700, 45);
        let (x, y) = (numbers(m * k), numbers(k * n));
        let (a, b) = (Matrix::new(&x, k), Factor::from(Matrix::new(&y, n)));
        let mut out = [vec![0.0_f32; m * n], vec![0.0; m * n]];
        // SAFETY: the instructions are there.
        unsafe {
            product(a, &b, &mut out[0], To::Nothing);
            avx512::product::<BFloat16>(a, &b, &mut out[1], To::Nothing);
        }
        for (one, other) in out[0].iter().zip(&out[1]) {
            assert!((one - other).abs() <= 1e-4, "{one} {other}");
        }
    }
}
