//! Products of f32 matrices on AVX-512: multiplied in f32, or rounded to bf16 first; sums are f32.
//!
//! Both operands are rewritten as 32-bit words: one f32 value, or two bf16 values that are neighbours
//! along the inner dimension. The left one becomes rows of words, the right one panels of [`PANEL`]
//! columns, word by word. A micro-kernel multiplies up to [`TILE`] rows with one panel and keeps all their
//! sums in registers. The order of every sum is fixed, however the work is split between threads.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::cell::RefCell;
use std::mem::transmute;

use rayon::prelude::*;

use super::matrix::{Mat, MatMut, Threads, Update};

/// Values in a vector.
const LANES: usize = 16;
/// Columns of a panel.
const PANEL: usize = 64;
/// Rows the micro-kernel takes at a time: with 4 vectors a row, 24 sums stay in registers.
const TILE: usize = 6;
/// Words along the inner dimension that one pass covers: their part of a panel stays in the first cache.
const DEPTH: usize = 128;
/// Rows of a task: their part of the left operand stays in the second cache.
const TASK_ROWS: usize = 32 * TILE;
/// Words of the right operand that are rewritten at a time.
const RIGHT_WORDS: usize = 1 << 21;

/// Whether this machine has what the functions here need.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Whether [`matmul`] takes operands of these strides: one dimension of each has to be contiguous.
pub(super) fn takes(lhs: &Mat<'_, f32>, rhs: &Mat<'_, f32>) -> bool {
    [lhs, rhs].iter().all(|m| m.row_stride == 1 || m.col_stride == 1)
}

thread_local! {
    /// The words of the left and the right operand; each product reuses those of the one before.
    static WORDS: RefCell<[Vec<u32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `out = lhs * rhs` or `out += lhs * rhs`, the values rounded to bf16 first if `BF16`.
///
/// The shapes fit, the machine is [`available`], and the strides are such that it [`takes`] them.
pub(super) fn matmul<const BF16: bool>(
    out: &mut MatMut<'_, f32>,
    lhs: Mat<'_, f32>,
    rhs: Mat<'_, f32>,
    update: Update,
    threads: Threads,
) {
    assert!(available() && takes(&lhs, &rhs), "a product that the machine or the strides forbid");
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    let words = if BF16 { k.div_ceil(2) } else { k };
    let output = Output { start: out.start, stride: out.row_stride, update };
    let [mut left, mut right] = WORDS.take();
    // f32 rows are rows of words already.
    let (left_rows, left_stride) = if !BF16 && lhs.col_stride == 1 {
        (lhs.data.as_ptr().cast::<u32>(), lhs.row_stride)
    } else {
        left.resize(left.len().max(m * words), 0);
        let blocks = left[..m * words].par_chunks_mut(PANEL * words);
        run(blocks.enumerate(), threads, |(block, to)| {
            #[expect(unsafe_code, reason = "calls a function for the machine that was checked for")]
            // SAFETY: `available` was asserted; the block lies inside the matrix.
            unsafe {
                pack_left::<BF16>(lhs, block * PANEL, words, to);
            }
        });
        (left.as_ptr(), words)
    };
    let left_words = Left { start: left_rows, stride: left_stride };
    let chunk = (RIGHT_WORDS / (words * PANEL)).max(1) * PANEL;
    for first in (0..n).step_by(chunk) {
        let columns = chunk.min(n - first);
        let panels = columns.div_ceil(PANEL);
        let size = panels * words * PANEL;
        right.resize(right.len().max(size), 0);
        let blocks = right[..size].par_chunks_mut(words * PANEL);
        run(blocks.enumerate(), threads, |(panel, to)| {
            #[expect(unsafe_code, reason = "calls a function for the machine that was checked for")]
            // SAFETY: `available` was asserted; the panel begins inside the matrix.
            unsafe {
                pack_right::<BF16>(rhs, first + panel * PANEL, words, to);
            }
        });
        // Columns of a task: at least as many tasks as keep a few threads busy to the end.
        let row_blocks = m.div_ceil(TASK_ROWS);
        let task_panels = (panels * row_blocks / 64).clamp(1, panels);
        let tasks = panels.div_ceil(task_panels) * row_blocks;
        let right = &right[..size];
        run((0..tasks).into_par_iter(), threads, |task| {
            let panel = task / row_blocks * task_panels;
            let row = task % row_blocks * TASK_ROWS;
            let block = Block {
                rows: row..m.min(row + TASK_ROWS),
                panels: panel..panels.min(panel + task_panels),
                columns,
                words,
            };
            #[expect(unsafe_code, reason = "calls a function for the machine that was checked for")]
            // SAFETY: `available` was asserted; the blocks of the tasks do not overlap and lie inside
            // the output, whose exclusive borrow `out` outlives the loop.
            unsafe {
                multiply::<BF16>(left_words, right, output.column(first), &block);
            }
        });
    }
    WORDS.set([left, right]);
}

/// Runs `f` over the items on the threads asked for.
fn run<I: IndexedParallelIterator>(items: I, threads: Threads, f: impl Fn(I::Item) + Sync + Send) {
    match threads {
        Threads::All => items.for_each(f),
        Threads::One => {
            let all = items.len().max(1);
            items.with_min_len(all).for_each(f);
        }
    }
}

/// Rows of words.
#[derive(Clone, Copy)]
struct Left {
    start: *const u32,
    stride: usize,
}

/// Where the product goes.
#[derive(Clone, Copy)]
struct Output {
    start: *mut f32,
    stride: usize,
    update: Update,
}

impl Output {
    fn column(self, first: usize) -> Self {
        Self { start: self.start.wrapping_add(first), ..self }
    }
}

#[expect(unsafe_code, reason = "raw pointers are not shared by default")]
// SAFETY: it is only read through, and what it points to is borrowed for as long as the tasks run.
unsafe impl Sync for Left {}
#[expect(unsafe_code, reason = "raw pointers are not shared by default")]
// SAFETY: every task writes elements of its own.
unsafe impl Sync for Output {}

/// The part of a product that one task computes.
struct Block {
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    /// Columns of the whole product; the last panel may be wider.
    columns: usize,
    words: usize,
}

/// The first `n` lanes.
fn lanes(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

/// Lane-wise `n` values from `from`, zero behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn load(from: *const f32, n: usize) -> __m512 {
    // SAFETY: the caller has `n` values there, and no masked lane is read.
    unsafe { _mm512_maskz_loadu_ps(lanes(n), from) }
}

/// 16 words along a contiguous inner dimension that still has `n` values from `from` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn words_along<const BF16: bool>(from: *const f32, n: usize) -> __m512i {
    // SAFETY: the caller has `n` values there; those behind are masked.
    unsafe {
        if BF16 {
            let second = load(from.wrapping_add(LANES), n.saturating_sub(LANES));
            transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load(from, n)))
        } else {
            _mm512_castps_si512(load(from, n))
        }
    }
}

/// One word of each of `n` (up to 16) neighbours, whose inner dimension is `stride` apart and still has
/// `left` values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn words_across<const BF16: bool>(
    from: *const f32,
    stride: usize,
    left: usize,
    n: usize,
) -> __m512i {
    // SAFETY: the caller has `n` values in each of the lines that are left; no other is read.
    unsafe {
        if !BF16 {
            return _mm512_castps_si512(load(from, n));
        }
        let second =
            if left > 1 { load(from.wrapping_add(stride), n) } else { _mm512_setzero_ps() };
        // The first line's values lie in the lower half, the second line's in the upper one.
        let halves = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, load(from, n)));
        let mut order = [0u16; 2 * LANES];
        for (i, at) in order.iter_mut().enumerate() {
            *at = (i / 2 + i % 2 * LANES) as u16;
        }
        _mm512_permutexvar_epi16(_mm512_loadu_si512(order.as_ptr().cast()), halves)
    }
}

/// Turns 16 rows of 16 words into columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transpose(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = *rows;
    for i in (0..LANES).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // quads[4 g + c] holds, in lane l, column 4 l + c of rows 4 g .. 4 g + 4.
    let mut quads = pairs;
    for i in (0..LANES).step_by(4) {
        quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut columns = quads;
    for c in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(quads[c], quads[4 + c]);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(quads[c], quads[4 + c]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(quads[8 + c], quads[12 + c]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(quads[8 + c], quads[12 + c]);
        columns[c] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        columns[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        columns[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        columns[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    columns
}

/// Writes the words of up to [`PANEL`] rows of `lhs` from `row` on, one row after the other.
///
/// Here and in [`pack_right`], what lies together is read together: the groups of 16 are the inner loop.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
unsafe fn pack_left<const BF16: bool>(lhs: Mat<'_, f32>, row: usize, words: usize, to: &mut [u32]) {
    let per_word = 1 + usize::from(BF16);
    let all_rows = to.len() / words;
    let start = lhs.data.as_ptr();
    for word in (0..words).step_by(LANES) {
        let (at, store) = (word * per_word, lanes(words - word));
        for group in (0..all_rows).step_by(LANES) {
            let (row, rows) = (row + group, LANES.min(all_rows - group));
            let mut block = [_mm512_setzero_si512(); LANES];
            // SAFETY: row + rows and at stay below the sizes of `lhs`; loads are masked behind them, and
            // stores end with the row of words.
            unsafe {
                if lhs.col_stride == 1 {
                    for (i, out) in block.iter_mut().enumerate().take(rows) {
                        let from = start.add((row + i) * lhs.row_stride + at);
                        *out = words_along::<BF16>(from, lhs.cols - at);
                    }
                } else {
                    for (i, out) in block.iter_mut().enumerate().take(words - word) {
                        let inner = at + i * per_word;
                        let from = start.add(inner * lhs.col_stride + row);
                        let left = lhs.cols - inner;
                        *out = words_across::<BF16>(from, lhs.col_stride, left, rows);
                    }
                    block = transpose(&block);
                }
                for (i, &line) in block.iter().enumerate().take(rows) {
                    let to = to.as_mut_ptr().add((group + i) * words + word);
                    _mm512_mask_storeu_epi32(to.cast(), store, line);
                }
            }
        }
    }
}

/// Writes the words of up to [`PANEL`] columns of `rhs` from `column` on, zeros for those it lacks.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "vector loads and stores take pointers")]
unsafe fn pack_right<const BF16: bool>(
    rhs: Mat<'_, f32>,
    column: usize,
    words: usize,
    to: &mut [u32],
) {
    let per_word = 1 + usize::from(BF16);
    let start = rhs.data.as_ptr();
    for word in (0..words).step_by(LANES) {
        let at = word * per_word;
        for group in (0..PANEL).step_by(LANES) {
            let column = column + group;
            let columns = rhs.cols.saturating_sub(column).min(LANES);
            let mut block = [_mm512_setzero_si512(); LANES];
            // SAFETY: the columns and the inner positions read lie inside `rhs`; loads are masked behind
            // them, and only words of this panel are stored.
            unsafe {
                if rhs.row_stride == 1 {
                    for (i, out) in block.iter_mut().enumerate().take(columns) {
                        let from = start.add((column + i) * rhs.col_stride + at);
                        *out = words_along::<BF16>(from, rhs.rows - at);
                    }
                    block = transpose(&block);
                } else if columns > 0 {
                    for (i, out) in block.iter_mut().enumerate().take(words - word) {
                        let inner = at + i * per_word;
                        let from = start.add(inner * rhs.row_stride + column);
                        let left = rhs.rows - inner;
                        *out = words_across::<BF16>(from, rhs.row_stride, left, columns);
                    }
                }
                for (i, &line) in block.iter().enumerate().take(words - word) {
                    let to = to.as_mut_ptr().add((word + i) * PANEL + group);
                    _mm512_storeu_si512(to.cast(), line);
                }
            }
        }
    }
}

/// Computes one block of the output.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[expect(unsafe_code, reason = "the micro-kernel takes pointers")]
unsafe fn multiply<const BF16: bool>(left: Left, right: &[u32], output: Output, block: &Block) {
    for word in (0..block.words).step_by(DEPTH) {
        let depth = DEPTH.min(block.words - word);
        let add = word > 0 || output.update == Update::Add;
        for panel in block.panels.clone() {
            let columns = block.columns - panel * PANEL;
            let panel_words = &right[(panel * block.words + word) * PANEL..][..depth * PANEL];
            for row in block.rows.clone().step_by(TILE) {
                // SAFETY: the rows and columns lie inside the operands and the output.
                unsafe {
                    let tile = Tile {
                        left: left.start.add(row * left.stride + word),
                        stride: left.stride,
                        right: panel_words.as_ptr(),
                        depth,
                        output: output.start.add(row * output.stride + panel * PANEL),
                        output_stride: output.stride,
                        columns,
                        add,
                    };
                    match block.rows.end - row {
                        1 => tile.compute::<BF16, 1>(),
                        2 => tile.compute::<BF16, 2>(),
                        3 => tile.compute::<BF16, 3>(),
                        4 => tile.compute::<BF16, 4>(),
                        5 => tile.compute::<BF16, 5>(),
                        _ => tile.compute::<BF16, TILE>(),
                    }
                }
            }
        }
    }
}

/// What the micro-kernel multiplies: some rows of words with a panel.
struct Tile {
    left: *const u32,
    stride: usize,
    right: *const u32,
    depth: usize,
    output: *mut f32,
    output_stride: usize,
    columns: usize,
    add: bool,
}

impl Tile {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[expect(unsafe_code, reason = "vector loads and stores take pointers")]
    unsafe fn compute<const BF16: bool, const ROWS: usize>(&self) {
        let mut sums = [[_mm512_setzero_ps(); PANEL / LANES]; ROWS];
        // SAFETY: `depth` words of ROWS rows and of the panel can be read; stores are masked to the
        // columns that exist.
        unsafe {
            for word in 0..self.depth {
                let mut panel = [_mm512_setzero_si512(); PANEL / LANES];
                for (j, vector) in panel.iter_mut().enumerate() {
                    *vector = _mm512_loadu_si512(self.right.add(word * PANEL + j * LANES).cast());
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = *self.left.add(i * self.stride + word);
                    let value = _mm512_set1_epi32(value.cast_signed());
                    for (sum, vector) in sums.iter_mut().zip(panel) {
                        *sum = if BF16 {
                            let a = transmute::<__m512i, __m512bh>(value);
                            let b = transmute::<__m512i, __m512bh>(vector);
                            _mm512_dpbf16_ps(*sum, a, b)
                        } else {
                            let (a, b) = (_mm512_castsi512_ps(value), _mm512_castsi512_ps(vector));
                            _mm512_fmadd_ps(a, b, *sum)
                        };
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    let Some(columns) = self.columns.checked_sub(j * LANES) else { break };
                    let to = self.output.add(i * self.output_stride + j * LANES);
                    let sum = if self.add { _mm512_add_ps(load(to, columns), sum) } else { sum };
                    _mm512_mask_storeu_ps(to, lanes(columns), sum);
                }
            }
        }
    }
}
