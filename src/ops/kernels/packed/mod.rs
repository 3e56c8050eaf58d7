//! Products of matrices rounded to bf16, on AVX512-BF16 or AMX; sums are f32.
//!
//! Both operands become 32-bit words: two bf16 values that are neighbours along the inner dimension. The
//! left one becomes rows of words, the right one panels of [`PANEL`] columns, word by word. A [`Kernel`]
//! multiplies them block by block. The order of every sum is fixed, however the work is split between
//! threads.

mod amx;
mod avx512;
mod words;

use std::cell::RefCell;

use rayon::prelude::*;

use super::matrix::{Mat, MatMut, Threads, Update};
use super::{Stored, vectorize};
use amx::Amx;
use avx512::Avx512;

/// Values of a word.
const VALUES: usize = 2;
/// Columns of a panel.
const PANEL: usize = 64;
/// Words of a line of the cache.
const LINE_WORDS: usize = 16;
/// Rows of a task: their part of the left operand stays in the second cache.
const TASK_ROWS: usize = 192;
/// Tasks for each thread, at least, where there is work enough.
const TASKS: usize = 16;
/// Words of the right operand that are rewritten at a time.
const RIGHT_WORDS: usize = 1 << 21;

/// A way to multiply words.
trait Kernel {
    /// The inner dimension is filled up with zeros to a multiple of this many words.
    const DEPTH_STEP: usize;

    /// Computes one block of the output.
    ///
    /// # Safety
    /// The machine has the kernel's instructions; the block lies inside the operands and the output.
    #[expect(unsafe_code, reason = "operands that tasks share are pointers")]
    unsafe fn multiply(
        left: Left,
        right: &[u32],
        output: Output<f32>,
        update: Update,
        block: &Block,
    );

    /// As [`Kernel::multiply`], with sums that are rounded to what the output holds.
    ///
    /// # Safety
    /// As [`Kernel::multiply`].
    #[expect(unsafe_code, reason = "operands that tasks share are pointers")]
    unsafe fn multiply_rounded<O: Stored<Wide = f32>>(
        left: Left,
        right: &[u32],
        output: Output<O>,
        update: Update,
        block: &Block,
    ) where
        Self: Sized,
    {
        // SAFETY: as the caller says.
        unsafe { output.by_sums::<Self>(left, right, update, block) }
    }
}

/// Whether this machine has what the functions here need.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// Whether [`matmul`] takes an operand of these strides: one dimension has to be contiguous.
pub(super) fn takes<T>(operand: &Mat<'_, T>) -> bool {
    operand.row_stride == 1 || operand.col_stride == 1
}

/// `out = lhs * rhs` or `out += lhs * rhs`, the values rounded to bf16 first.
///
/// The shapes fit, the machine is [`available`], and [`takes`] holds of both operands.
pub(super) fn matmul<A: Stored<Wide = f32>, B: Stored<Wide = f32>, O: Stored<Wide = f32>>(
    out: &mut MatMut<'_, O>,
    lhs: Mat<'_, A>,
    rhs: Mat<'_, B>,
    update: Update,
    threads: Threads,
) {
    assert!(available() && takes(&lhs) && takes(&rhs), "the machine or the strides forbid it");
    if amx::available() {
        matmul_by::<Amx, A, B, O>(out, lhs, rhs, update, threads);
    } else {
        matmul_by::<Avx512, A, B, O>(out, lhs, rhs, update, threads);
    }
}

thread_local! {
    /// The words of the left and the right operand; each product reuses those of the one before.
    static WORDS: RefCell<[Vec<u32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    /// The sums of a task's part of one panel, where the output is narrower.
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn matmul_by<K: Kernel, A, B, O>(
    out: &mut MatMut<'_, O>,
    lhs: Mat<'_, A>,
    rhs: Mat<'_, B>,
    update: Update,
    threads: Threads,
) where
    A: Stored<Wide = f32>,
    B: Stored<Wide = f32>,
    O: Stored<Wide = f32>,
{
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    let words = k.div_ceil(VALUES).next_multiple_of(K::DEPTH_STEP);
    let output = Output { start: out.start, stride: out.row_stride };
    let [mut left, mut right] = WORDS.take();
    let left_words = if let Some(words) = Left::in_place(&lhs, words) {
        words
    } else {
        // An odd number of cache lines apart, rows do not compete for the same place in the cache.
        let stride = (words.div_ceil(LINE_WORDS) | 1) * LINE_WORDS;
        let left = aligned(&mut left, m * stride);
        let blocks = left.par_chunks_mut(PANEL * stride);
        run(blocks.enumerate(), threads, |(block, to)| {
            #[expect(unsafe_code, reason = "calls a function for the machine that was checked for")]
            // SAFETY: `available` was asserted; the block lies inside the matrix.
            unsafe {
                words::pack_left(lhs, block * PANEL, (words, stride), to);
            }
        });
        Left { start: left.as_ptr(), stride }
    };
    let chunk = (RIGHT_WORDS / (words * PANEL)).max(1) * PANEL;
    for first in (0..n).step_by(chunk) {
        let columns = chunk.min(n - first);
        let panels = columns.div_ceil(PANEL);
        let size = panels * words * PANEL;
        let right = aligned(&mut right, size);
        let blocks = right.par_chunks_mut(words * PANEL);
        run(blocks.enumerate(), threads, |(panel, to)| {
            #[expect(unsafe_code, reason = "calls a function for the machine that was checked for")]
            // SAFETY: `available` was asserted; the panel begins inside the matrix.
            unsafe {
                words::pack_right(rhs, first + panel * PANEL, words, to);
            }
        });
        let row_blocks = m.div_ceil(TASK_ROWS);
        // A task takes as many columns as leave each thread a few tasks: the rows, far away at first, then
        // serve more of them.
        let task_panels =
            (panels * row_blocks / (TASKS * rayon::current_num_threads())).clamp(1, panels);
        let tasks = panels.div_ceil(task_panels) * row_blocks;
        let right = &*right;
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
                output.column(first).multiply::<K>(left_words, right, update, &block);
            }
        });
    }
    WORDS.set([left, right]);
}

/// Room for `size` words that begins with a line of the cache.
fn aligned(words: &mut Vec<u32>, size: usize) -> &mut [u32] {
    words.resize(words.len().max(size + LINE_WORDS), 0);
    let start = words.as_ptr().align_offset(LINE_WORDS * size_of::<u32>());
    &mut words[start..start + size]
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

impl Left {
    /// The rows of `lhs` themselves, where they are rows of this many words already.
    fn in_place<A>(lhs: &Mat<'_, A>, words: usize) -> Option<Self> {
        let start = lhs.data.as_ptr().cast::<u32>();
        let fits = VALUES * size_of::<A>() == size_of::<u32>()
            && lhs.col_stride == 1
            && lhs.cols == words * VALUES
            && lhs.row_stride.is_multiple_of(VALUES)
            && start.is_aligned();
        fits.then_some(Self { start, stride: lhs.row_stride / VALUES })
    }
}

/// Where the product goes.
struct Output<O> {
    start: *mut O,
    stride: usize,
}

impl<O> Clone for Output<O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<O> Copy for Output<O> {}

impl<O: Stored<Wide = f32>> Output<O> {
    fn column(self, first: usize) -> Self {
        Self { start: self.start.wrapping_add(first), ..self }
    }

    /// Computes one block.
    ///
    /// # Safety
    /// As [`Kernel::multiply`].
    #[expect(unsafe_code, reason = "operands that tasks share are pointers")]
    unsafe fn multiply<K: Kernel>(self, left: Left, right: &[u32], update: Update, block: &Block) {
        // SAFETY: as the caller says; of the types that widen to f32, f32 is the one of this size.
        unsafe {
            if size_of::<O>() == size_of::<f32>() {
                let output = Output { start: self.start.cast::<f32>(), stride: self.stride };
                K::multiply(left, right, output, update, block);
            } else {
                K::multiply_rounded(left, right, self, update, block);
            }
        }
    }

    /// Computes one block in f32, panel by panel, and rounds it.
    ///
    /// # Safety
    /// As [`Kernel::multiply`].
    #[expect(unsafe_code, reason = "operands that tasks share are pointers")]
    unsafe fn by_sums<K: Kernel>(self, left: Left, right: &[u32], update: Update, block: &Block) {
        let mut sums = SUMS.take();
        sums.resize(TASK_ROWS * PANEL, 0.0);
        for panel in block.panels.clone() {
            let columns = PANEL.min(block.columns - panel * PANEL);
            let corner = block.rows.start * PANEL + panel * PANEL;
            let output = Output { start: sums.as_mut_ptr().wrapping_sub(corner), stride: PANEL };
            let part = Block { panels: panel..panel + 1, rows: block.rows.clone(), ..*block };
            // SAFETY: as the caller says; the sums of the part begin where `sums` does.
            unsafe { K::multiply(left, right, output, Update::Overwrite, &part) };
            for (row, sums) in block.rows.clone().zip(sums.chunks_exact(PANEL)) {
                let to = self.start.wrapping_add(row * self.stride + panel * PANEL);
                // SAFETY: these columns of the row lie inside the block.
                let to = unsafe { std::slice::from_raw_parts_mut(to, columns) };
                vectorize(
                    #[inline(always)]
                    || {
                        for (to, &sum) in to.iter_mut().zip(sums) {
                            let old = if update == Update::Add { to.widen() } else { 0.0 };
                            *to = O::narrow(old + sum);
                        }
                    },
                );
            }
        }
        SUMS.set(sums);
    }
}

#[expect(unsafe_code, reason = "raw pointers are not shared by default")]
// SAFETY: it is only read through, and what it points to is borrowed for as long as the tasks run.
unsafe impl Sync for Left {}
#[expect(unsafe_code, reason = "raw pointers are not shared by default")]
// SAFETY: every task writes elements of its own.
unsafe impl<O> Sync for Output<O> {}

/// The part of a product that one task computes.
struct Block {
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    /// Columns of the whole product; the last panel may be wider.
    columns: usize,
    words: usize,
}
