//! Products of bfloat16 by AMX, the matrix unit of some x86 processors.
//!
//! Its eight tile registers hold 16 lines of 64 bytes each. A square of the left operand is 16 rows of 32 numbers, a
//! square of the right one 16 pairs of rows of 16 columns; an instruction adds the product of the two, 16 × 32 · 32 ×
//! 16, to a square of sums. The microkernel keeps four squares of sums, 32 × 32 numbers of the output.

use std::arch::asm;
use std::arch::x86_64::{__m512i, _mm512_load_si512, _mm512_store_si512};

use half::bf16;

use super::element::{Bf16, Element, Number, REGISTER};
use super::matrix::{Epilogue, MatRef};
use super::operand::{Operand, packed_rhs};
use super::pack::{NR, PACK_BUFFERS, Packed, Source, transpose};
use super::rows::Numbers;
use super::tile::{KC, OutputTile};

/// Rows of a tile of the output: two squares.
pub const TILE_ROWS: usize = 2 * REGISTER;

/// The sums of a tile, `[rows, columns]`.
#[repr(C, align(64))]
struct TileSums([[f32; NR]; TILE_ROWS]);

/// The operand of `ldtilecfg`: palette 1, eight registers of 16 lines of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    lines: [u8; 16],
}

static TILE_CONFIG: TileConfig = TileConfig {
    palette: 1,
    start: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    lines: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Packs a left operand in an even number of panels of [`REGISTER`] rows: squares of 16 words of each row, row by row.
///
/// # Safety
/// The processor has the instructions, as [`AMX`](super::features::AMX) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
unsafe fn pack_lhs(left: &mut Packed, matrix: MatRef) {
    let ([count, k], MatRef { data, stride, transposed, .. }) = (matrix.shape(), matrix);
    // SAFETY: the caller's promise.
    unsafe {
        match data {
            Numbers::Float32(data) => {
                pack_source(left, Source { data, stride, count, k, k_contiguous: !transposed });
            }
            Numbers::Bf16(data) => pack_source(left, Source { data, stride, count, k, k_contiguous: !transposed }),
        }
    }
}

/// As [`pack_lhs`].
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
unsafe fn pack_source<T: Number>(left: &mut Packed, source: Source<T>) {
    let (m, k) = (source.count, source.k);
    let panels = 2 * m.div_ceil(TILE_ROWS);
    let to = left.reserve(&source, panels * REGISTER, k.div_ceil(Bf16::K_PER_WORD).next_multiple_of(REGISTER));
    let blocks = left.words / REGISTER;
    for i in 0..panels * blocks {
        // Along the memory, as in `Packed::pack`.
        let (panel, block) = if source.k_contiguous { (i / blocks, i % blocks) } else { (i % panels, i / panels) };
        let (first, word) = (panel * REGISTER, block * REGISTER);
        let put = |square: [__m512i; REGISTER]| {
            for (j, words) in square.into_iter().enumerate() {
                // SAFETY: a line of this panel.
                unsafe { _mm512_store_si512(to.add((panel * left.words + word + j) * REGISTER).cast(), words) };
            }
        };
        // SAFETY: `has` says that all is there; the caller's promise.
        unsafe {
            match (source.has::<Bf16, REGISTER>(first, word + REGISTER), source.k_contiguous) {
                (true, true) => put(source.row_words::<Bf16, REGISTER, true>(first, word)),
                (false, true) => put(source.row_words::<Bf16, REGISTER, false>(first, word)),
                (true, false) => put(transpose(source.column_words::<Bf16, REGISTER, true>(first, word))),
                (false, false) => put(transpose(source.column_words::<Bf16, REGISTER, false>(first, word))),
            }
        }
    }
}

/// How many rows of a left operand the unit can load where they lie, and where they begin: the whole tiles of one in
/// bfloat16 whose rows are whole squares.
fn rows_in_place(matrix: MatRef) -> (usize, *const bf16) {
    match (matrix.shape(), matrix) {
        ([m, k], MatRef { data: Numbers::Bf16(data), stride, transposed: false, .. })
            if m > 0 && k.is_multiple_of(Bf16::K_PER_WORD * REGISTER) =>
        {
            assert!(data.len() >= (m - 1) * stride + k);
            (m - m % TILE_ROWS, data.as_ptr())
        }
        _ => (0, std::ptr::null()),
    }
}

/// As [`super::gemm`]. The last bits of an output depend on whether it lies in a whole tile: there its sum starts from the
/// bias or the output, in a part of one these are added at the end.
///
/// # Safety
/// The processor has the instructions, as [`AMX`](super::features::AMX) says.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vnni")]
pub unsafe fn gemm(a: MatRef, b: &Operand, out: &mut [f32], epilogue: Epilogue) {
    let ([m, k], [height, n]) = (a.shape(), b.shape());
    assert!(height == k && k > 0 && out.len() == m * n && !matches!(epilogue, Epilogue::Bias(row) if row.len() != n));
    PACK_BUFFERS.with_borrow_mut(|[left, right]| {
        let (in_place, data) = rows_in_place(a);
        // SAFETY: the caller's promise.
        let right = unsafe {
            if in_place < m {
                pack_lhs(left, if in_place > 0 { a.row_range(in_place..m) } else { a });
            }
            packed_rhs::<Bf16, REGISTER>(right, b)
        };
        let words_of_lane = k.div_ceil(Bf16::K_PER_WORD).next_multiple_of(REGISTER);
        assert_eq!(words_of_lane, right.words, "an operand that was packed for another element");
        let mut sums = TileSums([[0.0; NR]; TILE_ROWS]);
        // SAFETY: the processor has the unit, and 64 bytes say what its registers are.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &TILE_CONFIG, options(nostack, preserves_flags)) };
        for start in (0..words_of_lane).step_by(KC) {
            let words = KC.min(words_of_lane - start);
            let epilogue = if start > 0 { Epilogue::Accumulate } else { epilogue };
            for i in (0..m).step_by(TILE_ROWS) {
                let left = if i < in_place {
                    let at = |row: usize| data.wrapping_add(row * a.stride + start * Bf16::K_PER_WORD).cast();
                    LeftTile { panels: [i, i + REGISTER].map(at), line: 2 * a.stride, square: 4 * REGISTER }
                } else {
                    let panel = (i - in_place) / REGISTER;
                    let panels = [0, 1].map(|other| left.panel::<REGISTER>(panel + other, start));
                    LeftTile { panels, line: 4 * REGISTER, square: 4 * REGISTER * REGISTER }
                };
                for j in (0..n).step_by(NR) {
                    let right = right.panel::<NR>(j / NR, start);
                    let mut tile = OutputTile::new(out, n, [i, j], TILE_ROWS, epilogue);
                    // SAFETY: all panels hold this many more words of each lane, in whole squares; a whole tile lies in
                    // the output, and another one goes through `sums`; the caller's promise.
                    unsafe {
                        if tile.rows == TILE_ROWS && j + NR <= n {
                            let (to, stride) = (tile.out.as_mut_ptr(), 4 * n);
                            let from = match epilogue {
                                Epilogue::Overwrite => (std::ptr::null(), 0),
                                Epilogue::Accumulate => (to.cast_const(), stride),
                                Epilogue::Bias(row) => (row[j..].as_ptr(), 0),
                            };
                            multiply_tiles(words / REGISTER, left, right, from, (to, stride));
                        } else {
                            let to = (sums.0.as_mut_ptr().cast(), 4 * NR);
                            multiply_tiles(words / REGISTER, left, right, (std::ptr::null(), 0), to);
                            for row in 0..tile.rows {
                                let sums = sums.0[row].as_ptr();
                                let sums = [sums, sums.add(REGISTER)].map(|half| _mm512_load_si512(half.cast()));
                                tile.store::<Bf16, 1>(row, [sums]);
                            }
                        }
                    }
                }
            }
        }
        // SAFETY: the registers are free again.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    });
}

/// Two panels of 16 rows of the left operand.
#[derive(Clone, Copy)]
struct LeftTile {
    panels: [*const i32; 2],
    /// Bytes from a row to the next.
    line: usize,
    /// Bytes from a square to the next along k.
    square: usize,
}

/// Adds the products of `squares` squares along k, at least one, to the tile at `start`, or to zeros if that is null, and
/// stores it at `to`. Strides are in bytes; with stride 0 every row starts from the same one.
///
/// # Safety
/// The panels hold that many squares from here on, `start` is null or readable and `to` writable for all rows, and the
/// registers are configured as [`TILE_CONFIG`] says.
#[inline]
unsafe fn multiply_tiles(
    squares: usize,
    LeftTile { panels: [a, b], line, square }: LeftTile,
    right: *const i32,
    (start, start_stride): (*const f32, usize),
    (to, to_stride): (*mut f32, usize),
) {
    // SAFETY: the caller's promise; the two squares of the right operand lie side by side in lines of 128 bytes.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {start}, {start}",
            "jz 2f",
            "tileloadd tmm0, [{start} + {start_stride}*1]",
            "tileloadd tmm1, [{start} + {start_stride}*1 + 64]",
            "lea {start}, [{start} + {start_stride}*8]",
            "lea {start}, [{start} + {start_stride}*8]",
            "tileloadd tmm2, [{start} + {start_stride}*1]",
            "tileloadd tmm3, [{start} + {start_stride}*1 + 64]",
            "2:",
            "tileloadd tmm4, [{a} + {line}*1]",
            "tileloadd tmm6, [{right} + {lines}*1]",
            "tileloadd tmm7, [{right} + {lines}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{b} + {line}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, {square}",
            "add {b}, {square}",
            "add {right}, 2048",
            "dec {squares}",
            "jnz 2b",
            "tilestored [{to} + {to_stride}*1], tmm0",
            "tilestored [{to} + {to_stride}*1 + 64], tmm1",
            "lea {to}, [{to} + {to_stride}*8]",
            "lea {to}, [{to} + {to_stride}*8]",
            "tilestored [{to} + {to_stride}*1], tmm2",
            "tilestored [{to} + {to_stride}*1 + 64], tmm3",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            right = inout(reg) right => _,
            squares = inout(reg) squares => _,
            start = inout(reg) start => _,
            start_stride = in(reg) start_stride,
            to = inout(reg) to => _,
            to_stride = in(reg) to_stride,
            line = in(reg) line,
            square = in(reg) square,
            lines = in(reg) 128_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::avx512::{self, tests::products_are_exact};
    use super::super::features::{AMX, can_run};
    use super::super::operand::pack_rhs;
    use super::super::rows::OperandBuffer;
    use super::*;
    use crate::config::Precision;
    use crate::splitmix;

    fn supported() -> bool {
        can_run("DIF_SR_AMX", &AMX)
    }

    #[test]
    fn products_of_small_integers_are_exact_in_every_shape() {
        if supported() {
            // SAFETY: the instructions are there.
            products_are_exact(
                |x| x as f32,
                |b| unsafe { pack_rhs::<Bf16, REGISTER>(b) },
                |a, b, out, epilogue| unsafe { gemm(a, b, out, epilogue) },
            );
        }
    }

    #[test]
    fn rows_in_place_may_be_some_columns_of_a_matrix() {
        if !supported() {
            return;
        }
        let (m, n) = (70, 40);
        for (k, wide) in [(32, 40), (64, 73)] {
            let small: Vec<f32> = (0..m * wide).map(|i| (i % 19) as f32 - 9.0).collect();
            let copied: Vec<f32> = small.chunks_exact(wide).flat_map(|row| &row[7..7 + k]).copied().collect();
            let [whole, part] = [&small, &copied].map(|values| {
                let mut buffer = OperandBuffer::default();
                buffer.resize(Precision::Bf16, values.len());
                buffer.store(0, values);
                buffer
            });
            let b = Operand::from(MatRef::new(&small[..k * n], n));
            let of = |a: MatRef| {
                let mut out = vec![0.0; m * n];
                // SAFETY: the instructions are there.
                unsafe { gemm(a, &b, &mut out, Epilogue::Overwrite) };
                out
            };
            let expected = of(MatRef::new(&copied, k));
            assert_eq!(of(MatRef::new(&part, k)), expected, "{k}");
            assert_eq!(of(MatRef::new(&whole, wide).column_range(7, k)), expected, "{k} of {wide}");
        }
    }

    /// The same operands, rounded to bfloat16: float32's sums in another order.
    #[test]
    fn its_products_are_those_of_avx512() {
        if !supported() {
            return;
        }
        let mut state = 1;
        let mut numbers = |n: usize| -> Vec<f32> {
            (0..n).map(|_| (splitmix::next(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
        };
        let (m, k, n) = (75, 700, 45);
        let (x, y) = (numbers(m * k), numbers(k * n));
        let (a, b) = (MatRef::new(&x, k), Operand::from(MatRef::new(&y, n)));
        let mut out = [vec![0.0_f32; m * n], vec![0.0; m * n]];
        // SAFETY: the instructions are there.
        unsafe {
            gemm(a, &b, &mut out[0], Epilogue::Overwrite);
            avx512::gemm::<Bf16>(a, &b, &mut out[1], Epilogue::Overwrite);
        }
        for (one, other) in out[0].iter().zip(&out[1]) {
            assert!((one - other).abs() <= 1e-4, "{one} {other}");
        }
    }
}
