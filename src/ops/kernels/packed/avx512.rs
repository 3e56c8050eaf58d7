//! The micro-kernel of AVX512-BF16.

use std::arch::x86_64::{
    __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_dpbf16_ps,
    _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
};
use std::mem::transmute;

use super::words::{LANES, load_wide, store_rounded};
use super::{Block, Kernel, LINE_WORDS, Left, Output, PANEL};
use crate::ops::kernels::Stored;
use crate::ops::kernels::matrix::Update;

/// Rows the micro-kernel takes at a time: with 4 vectors a row, 24 sums stay in registers.
const TILE: usize = 6;
/// Words along the inner dimension that one pass covers: longer ones read and write the sums less often.
const DEPTH: usize = 288;

/// Multiplies up to [`TILE`] rows with one panel and keeps all their sums in registers.
pub(super) struct Avx512;

impl Kernel for Avx512 {
    const DEPTH_STEP: usize = 1;

    #[expect(unsafe_code, reason = "the micro-kernel takes pointers")]
    unsafe fn multiply(
        left: Left,
        right: &[u32],
        output: Output<f32>,
        update: Update,
        block: &Block,
    ) {
        // SAFETY: as the caller says.
        unsafe { multiply(left, right, output, update, block) }
    }

    #[expect(unsafe_code, reason = "the micro-kernel takes pointers")]
    unsafe fn multiply_rounded<O: Stored<Wide = f32>>(
        left: Left,
        right: &[u32],
        output: Output<O>,
        update: Update,
        block: &Block,
    ) {
        // SAFETY: as the caller says.
        unsafe {
            if block.words <= DEPTH {
                multiply(left, right, output, update, block);
            } else {
                output.by_sums::<Self>(left, right, update, block);
            }
        }
    }
}

/// Computes one block of the output; sums of more than [`DEPTH`] words are rounded in between.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[expect(unsafe_code, reason = "the micro-kernel takes pointers")]
unsafe fn multiply<O: Stored<Wide = f32>>(
    left: Left,
    right: &[u32],
    output: Output<O>,
    update: Update,
    block: &Block,
) {
    for panel in block.panels.clone() {
        let columns = block.columns - panel * PANEL;
        for word in (0..block.words).step_by(DEPTH) {
            let depth = DEPTH.min(block.words - word);
            let add = word > 0 || update == Update::Add;
            let panel_words = &right[(panel * block.words + word) * PANEL..][..depth * PANEL];
            for row in block.rows.clone().step_by(TILE) {
                // SAFETY: the rows and columns lie inside the operands and the output.
                unsafe {
                    let tile = Tile {
                        left: left.start.add(row * left.stride + word),
                        stride: left.stride,
                        right: panel_words.as_ptr(),
                        depth,
                        output: output.start.wrapping_add(row * output.stride + panel * PANEL),
                        output_stride: output.stride,
                        columns,
                        add,
                    };
                    match block.rows.end - row {
                        1 => tile.compute::<1>(),
                        2 => tile.compute::<2>(),
                        3 => tile.compute::<3>(),
                        4 => tile.compute::<4>(),
                        5 => tile.compute::<5>(),
                        _ => tile.compute::<TILE>(),
                    }
                }
            }
        }
    }
}

/// What the micro-kernel multiplies: some rows of words with a panel.
struct Tile<O> {
    left: *const u32,
    stride: usize,
    right: *const u32,
    depth: usize,
    output: *mut O,
    output_stride: usize,
    columns: usize,
    add: bool,
}

impl<O: Stored<Wide = f32>> Tile<O> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    #[expect(unsafe_code, reason = "vector loads and stores take pointers")]
    unsafe fn compute<const ROWS: usize>(&self) {
        let mut sums = [[_mm512_setzero_ps(); PANEL / LANES]; ROWS];
        // The rows of the tile after this one come from afar where a task is new to them, and short rows
        // give the machine no pattern to fetch them by.
        let next = self.left.wrapping_add(ROWS * self.stride);
        // SAFETY: `depth` words of ROWS rows and of the panel can be read; stores are masked to the
        // columns that exist. Fetching in advance may miss every mark.
        unsafe {
            for i in 0..ROWS {
                for word in (0..self.depth).step_by(LINE_WORDS) {
                    let line = next.wrapping_add(i * self.stride + word);
                    _mm_prefetch::<_MM_HINT_T0>(line.cast());
                }
            }
            for word in 0..self.depth {
                let mut panel = [_mm512_setzero_si512(); PANEL / LANES];
                for (j, vector) in panel.iter_mut().enumerate() {
                    *vector = _mm512_loadu_si512(self.right.add(word * PANEL + j * LANES).cast());
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = *self.left.add(i * self.stride + word);
                    let value = _mm512_set1_epi32(value.cast_signed());
                    for (sum, vector) in sums.iter_mut().zip(panel) {
                        let a = transmute::<__m512i, __m512bh>(value);
                        let b = transmute::<__m512i, __m512bh>(vector);
                        *sum = _mm512_dpbf16_ps(*sum, a, b);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    let Some(columns) = self.columns.checked_sub(j * LANES) else { break };
                    let to = self.output.add(i * self.output_stride + j * LANES);
                    let sum =
                        if self.add { _mm512_add_ps(load_wide(to, columns), sum) } else { sum };
                    store_rounded(to, columns, sum);
                }
            }
        }
    }
}
