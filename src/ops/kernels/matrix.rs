//! Matrices over slices, and their product by the `gemm` crate.

use std::marker::PhantomData;
use std::ops::Range;

use super::Float;

/// A matrix to read; element (i, j) lies at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Mat<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// The (rows, cols) matrix whose rows follow each other in `data`.
    pub(in crate::ops) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a ({rows}, {cols}) matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose.
    pub(in crate::ops) fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// A matrix to write: contiguous rows, `row_stride` apart. The blocks of one matrix can be written at the
/// same time by several threads.
pub(in crate::ops) struct MatMut<'a, T> {
    start: *mut T,
    rows: usize,
    cols: usize,
    row_stride: usize,
    data: PhantomData<&'a mut [T]>,
}

#[expect(unsafe_code, reason = "the pointer inside makes it !Send")]
// SAFETY: it is an exclusive borrow of its own elements, as `&mut [T]` is.
unsafe impl<T: Send> Send for MatMut<'_, T> {}

impl<'a, T> MatMut<'a, T> {
    /// The (rows, cols) matrix whose rows follow each other in `data`.
    pub(in crate::ops) fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a ({rows}, {cols}) matrix");
        Self { start: data.as_mut_ptr(), rows, cols, row_stride: cols, data: PhantomData }
    }

    /// Splits off the blocks at each row range and each group of `width` columns, row ranges outermost.
    ///
    /// The ranges ascend without overlap.
    pub(in crate::ops) fn into_blocks(
        self,
        row_ranges: impl Iterator<Item = Range<usize>>,
        width: usize,
    ) -> Vec<Self> {
        assert!(width > 0 && self.cols.is_multiple_of(width), "blocks of {width} columns");
        let mut blocks = Vec::new();
        let mut free_from = 0;
        for range in row_ranges {
            assert!(free_from <= range.start && range.start <= range.end && range.end <= self.rows);
            free_from = range.end;
            for col in (0..self.cols).step_by(width) {
                blocks.push(Self {
                    start: self.start.wrapping_add(range.start * self.row_stride + col),
                    rows: range.len(),
                    cols: width,
                    row_stride: self.row_stride,
                    data: PhantomData,
                });
            }
        }
        blocks
    }

    /// Row `i`.
    #[expect(
        unsafe_code,
        reason = "a row of a block cannot be had from the whole slice, which others write"
    )]
    pub(in crate::ops) fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: `new` and `into_blocks` give every matrix elements inside the borrowed slice that no
        // other matrix has, and `&mut self` keeps a second row from being held at the same time.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(i * self.row_stride), self.cols) }
    }
}

/// What [`matmul`] does with the values already there.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::ops) enum Update {
    Overwrite,
    Add,
}

/// Who computes a [`matmul`].
#[derive(Clone, Copy)]
pub(in crate::ops) enum Threads {
    /// All threads of the current pool.
    All,
    /// The calling one, for use inside a parallel loop.
    One,
}

/// `out = lhs * rhs`, or `out += lhs * rhs`, with the same bits on any number of threads.
pub(in crate::ops) fn matmul<T: Float>(
    out: &mut MatMut<'_, T>,
    lhs: Mat<'_, T>,
    rhs: Mat<'_, T>,
    update: Update,
    threads: Threads,
) {
    let shapes = ((out.rows, out.cols), (lhs.rows, lhs.cols), (rhs.rows, rhs.cols));
    assert_eq!(
        ((lhs.rows, rhs.cols), rhs.rows),
        ((out.rows, out.cols), lhs.cols),
        "matrix product shapes {shapes:?}"
    );
    // gemm divides by the inner size.
    if out.rows == 0 || out.cols == 0 || lhs.cols == 0 {
        if update == Update::Overwrite {
            for i in 0..out.rows {
                out.row(i).fill(T::zero());
            }
        }
        return;
    }
    let parallelism = match threads {
        Threads::All => gemm::Parallelism::Rayon(rayon::current_num_threads()),
        Threads::One => gemm::Parallelism::None,
    };
    #[expect(unsafe_code, reason = "the gemm crate takes pointers")]
    // SAFETY: the assertions above and in the constructors keep every element that the strides reach
    // inside its slice; `out` is borrowed exclusively, so it overlaps neither input; `Float` is f32 or
    // f64, which gemm takes.
    unsafe {
        gemm::gemm(
            out.rows,
            out.cols,
            lhs.cols,
            out.start,
            1,
            out.row_stride.cast_signed(),
            update == Update::Add,
            lhs.data.as_ptr(),
            lhs.col_stride.cast_signed(),
            lhs.row_stride.cast_signed(),
            rhs.data.as_ptr(),
            rhs.col_stride.cast_signed(),
            rhs.row_stride.cast_signed(),
            T::one(),
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        rng::normal(&mut rng::stream(seed, "matrix", &[]), n, 1.0)
    }

    fn product(m: usize, n: usize, k: usize, update: Update, threads: Threads) -> Vec<f32> {
        let (a, b, mut c) = (random(m * k, 1), random(n * k, 2), random(m * n, 3));
        let (lhs, rhs) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
        matmul(&mut MatMut::new(&mut c, m, n), lhs, rhs, update, threads);
        c
    }

    #[test]
    fn products_equal_the_definition() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (1, 40, 33), (40, 1, 33), (70, 90, 1100), (4, 4, 0)]
        {
            let (a, b, c) = (random(m * k, 1), random(n * k, 2), random(m * n, 3));
            let fresh = product(m, n, k, Update::Overwrite, Threads::One);
            let added = product(m, n, k, Update::Add, Threads::All);
            for i in 0..m {
                for j in 0..n {
                    let exact: f64 = (0..k).map(|l| f64::from(a[i * k + l] * b[j * k + l])).sum();
                    assert!((f64::from(fresh[i * n + j]) - exact).abs() < 1e-4);
                    let with_old = exact + f64::from(c[i * n + j]);
                    assert!((f64::from(added[i * n + j]) - with_old).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        for (m, n, k) in [(700, 130, 300), (97, 1031, 1200), (3, 5000, 256), (4000, 50, 65)] {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| product(m, n, k, Update::Overwrite, Threads::All))
            };
            let one = on(1);
            assert!(one == on(2) && one == on(3), "({m}, {n}, {k})");
            assert!(one == product(m, n, k, Update::Overwrite, Threads::One), "({m}, {n}, {k})");
        }
    }

    #[test]
    fn blocks_write_only_their_own_elements() {
        let mut data = vec![0; 5 * 4];
        let blocks = MatMut::new(&mut data, 5, 4).into_blocks([0..2, 3..4].into_iter(), 2);
        for (b, mut block) in blocks.into_iter().enumerate() {
            for i in 0..block.rows {
                block.row(i).fill(b + 1);
            }
        }
        let expected = [[1, 1, 2, 2], [1, 1, 2, 2], [0; 4], [3, 3, 4, 4], [0; 4]];
        assert_eq!(data, expected.concat());
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn overlapping_blocks_are_refused() {
        MatMut::new(&mut [0; 12], 3, 4).into_blocks([0..2, 1..3].into_iter(), 2);
    }
}
