//! Products of f32 matrices whose operands are first rewritten for the machine's widest instructions:
//! multiplied in f32 or rounded to bf16; sums are f32.
//!
//! Both operands become 32-bit words: one f32 value, or two bf16 values that are neighbours along the inner
//! dimension. The left one becomes rows of words, the right one panels of [`PANEL`] columns, word by word.
//! A [`Kernel`] multiplies them block by block. The order of every sum is fixed, however the work is split
//! between threads.

mod amx;
mod avx512;
mod words;

use std::cell::RefCell;

use rayon::prelude::*;

use super::matrix::{Mat, MatMut, Threads, Update};
use amx::Amx;
use avx512::Avx512;

/// Columns of a panel.
const PANEL: usize = 64;
/// Rows of a task: their part of the left operand stays in the second cache.
const TASK_ROWS: usize = 192;
/// Words of the right operand that are rewritten at a time.
const RIGHT_WORDS: usize = 1 << 21;

/// A way to multiply words.
trait Kernel {
    /// Whether a word is two values in bf16 rather than one in f32.
    const BF16: bool;
    /// The inner dimension is filled up with zeros to a multiple of this many words.
    const DEPTH_STEP: usize;
    /// The kernel may read rows of the left operand up to a multiple of this, and ignores what it finds.
    const ROW_STEP: usize;

    /// Computes one block of the output.
    ///
    /// # Safety
    /// The machine has the kernel's instructions; the block lies inside the operands and the output.
    #[expect(unsafe_code, reason = "operands that tasks share are pointers")]
    unsafe fn multiply(left: Left, right: &[u32], output: Output, block: &Block);
}

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

/// `out = lhs * rhs` or `out += lhs * rhs`, the values rounded to bf16 first if `bf16`.
///
/// The shapes fit, the machine is [`available`], and the strides are such that it [`takes`] them.
pub(super) fn matmul(
    out: &mut MatMut<'_, f32>,
    lhs: Mat<'_, f32>,
    rhs: Mat<'_, f32>,
    update: Update,
    threads: Threads,
    bf16: bool,
) {
    assert!(available() && takes(&lhs, &rhs), "a product that the machine or the strides forbid");
    match bf16 {
        false => matmul_by::<Avx512<false>>(out, lhs, rhs, update, threads),
        true if amx::available() => matmul_by::<Amx>(out, lhs, rhs, update, threads),
        true => matmul_by::<Avx512<true>>(out, lhs, rhs, update, threads),
    }
}

thread_local! {
    /// The words of the left and the right operand; each product reuses those of the one before.
    static WORDS: RefCell<[Vec<u32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn matmul_by<K: Kernel>(
    out: &mut MatMut<'_, f32>,
    lhs: Mat<'_, f32>,
    rhs: Mat<'_, f32>,
    update: Update,
    threads: Threads,
) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    let words = k.div_ceil(1 + usize::from(K::BF16)).next_multiple_of(K::DEPTH_STEP);
    let output = Output { start: out.start, stride: out.row_stride, update };
    let [mut left, mut right] = WORDS.take();
    // f32 rows are rows of words already.
    let (left_rows, left_stride) = if !K::BF16 && lhs.col_stride == 1 {
        (lhs.data.as_ptr().cast::<u32>(), lhs.row_stride)
    } else {
        let size = m.next_multiple_of(K::ROW_STEP) * words;
        left.resize(left.len().max(size), 0);
        let blocks = left[..m * words].par_chunks_mut(PANEL * words);
        run(blocks.enumerate(), threads, |(block, to)| {
            #[expect(unsafe_code, reason = "calls a function for the machine that was checked for")]
            // SAFETY: `available` was asserted; the block lies inside the matrix.
            unsafe {
                words::pack_left::<K>(lhs, block * PANEL, words, to);
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
                words::pack_right::<K>(rhs, first + panel * PANEL, words, to);
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
            // SAFETY: `available` was asserted, and `amx::available` before `Amx` was chosen; the blocks
            // of the tasks do not overlap and lie inside the output, whose exclusive borrow `out`
            // outlives the loop.
            unsafe {
                K::multiply(left_words, right, output.column(first), &block);
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
