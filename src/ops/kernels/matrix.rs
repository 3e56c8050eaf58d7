//! Matrices over slices, and their product by the `gemm` crate.

use std::marker::PhantomData;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Float, Stored};

/// A matrix to read; element (i, j) lies at `i * row_stride + j * col_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a, T> {
    pub(super) data: &'a [T],
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// The (rows, cols) matrix whose rows follow each other in `data`.
    pub(in crate::ops) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "a ({rows}, {cols}) matrix");
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same layout over other values.
    pub(super) fn over<U>(self, data: &[U]) -> Mat<'_, U> {
        let Self { rows, cols, row_stride, col_stride, .. } = self;
        Mat { data, rows, cols, row_stride, col_stride }
    }

    /// The lines of a range of rows.
    pub(in crate::ops) fn lines(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        // No further than the last of them: a kernel may widen all that it is given.
        let place = |row: usize, col: usize| row * self.row_stride + col * self.col_stride;
        let range = if rows.is_empty() || self.cols == 0 {
            0..0
        } else {
            place(rows.start, 0)..place(rows.end - 1, self.cols - 1) + 1
        };
        Self { data: &self.data[range], rows: rows.len(), ..self }
    }

    /// The columns from `first` on.
    pub(in crate::ops) fn columns_from(self, first: usize) -> Self {
        assert!(first <= self.cols, "column {first} of {}", self.cols);
        let data = &self.data[(first * self.col_stride).min(self.data.len())..];
        Self { data, cols: self.cols - first, ..self }
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
pub(crate) struct MatMut<'a, T> {
    pub(super) start: *mut T,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    Overwrite,
    Add,
}

/// Who computes a [`matmul`].
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    /// All threads of the current pool.
    All,
    /// The calling one, for use inside a parallel loop.
    One,
}

/// What the values of a product are rounded to before they are multiplied. Sums are not rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Nothing: full precision.
    #[default]
    #[serde(rename = "f32")]
    Full,
    /// bf16, for f32 values on a GPU and on processors with AVX512-BF16; elsewhere as [`Precision::Full`].
    Bf16,
}

impl Precision {
    /// Whether asking for it makes a difference on this processor.
    pub(crate) fn takes_effect(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let can = super::packed::available();
        #[cfg(not(target_arch = "x86_64"))]
        let can = false;
        self == Self::Bf16 && can
    }
}

/// `out = lhs * rhs`, or `out += lhs * rhs`, with the same bits on any number of threads.
///
/// Sums are in the wide type, and rounded once where `out` is narrower.
pub(in crate::ops) fn matmul<T, A, B, O>(
    out: &mut MatMut<'_, O>,
    lhs: Mat<'_, A>,
    rhs: Mat<'_, B>,
    update: Update,
    threads: Threads,
    precision: Precision,
) where
    T: Float,
    A: Stored<Wide = T>,
    B: Stored<Wide = T>,
    O: Stored<Wide = T>,
{
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
                out.row(i).fill(O::default());
            }
        }
        return;
    }
    T::matmul(out, lhs, rhs, update, threads, precision);
}

/// [`matmul`] by the `gemm` crate.
pub(super) fn gemm<T: Float>(
    out: &mut MatMut<'_, T>,
    lhs: Mat<'_, T>,
    rhs: Mat<'_, T>,
    update: Update,
    threads: Threads,
) {
    let parallelism = match threads {
        Threads::All => gemm::Parallelism::Rayon(rayon::current_num_threads()),
        Threads::One => gemm::Parallelism::None,
    };
    #[expect(unsafe_code, reason = "the gemm crate takes pointers")]
    // SAFETY: `matmul` and the constructors keep every element that the strides reach inside its
    // slice; `out` is borrowed exclusively, so it overlaps neither input; `Float` is f32 or f64,
    // which gemm takes.
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
    use half::bf16;

    use super::*;
    use crate::rng;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        rng::normal(&mut rng::stream(seed, "matrix", &[]), n, 1.0)
    }

    /// The product of (m, k) and (k, n), each operand stored as its transpose where `layout` says so.
    fn product(
        (m, n, k): (usize, usize, usize),
        layout: [bool; 2],
        update: Update,
        threads: Threads,
        precision: Precision,
    ) -> Vec<f32> {
        let (a, b, mut c) = (random(m * k, 1), random(n * k, 2), random(m * n, 3));
        let lhs = if layout[0] { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
        let rhs = if layout[1] { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
        matmul(&mut MatMut::new(&mut c, m, n), lhs, rhs, update, threads, precision);
        c
    }

    #[test]
    fn lines_reach_no_further_than_their_last_value() {
        let values: Vec<usize> = (0..12).collect();
        let matrix = Mat::new(&values, 4, 3);
        assert_eq!(matrix.lines(1..3).data, [3, 4, 5, 6, 7, 8]);
        assert_eq!(matrix.columns_from(1).lines(1..2).data, [4, 5]);
        // The second of three columns.
        assert_eq!(matrix.t().lines(1..2).data, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(matrix.lines(2..2).data.is_empty());
    }

    const LAYOUTS: [[bool; 2]; 4] = [[false, false], [false, true], [true, false], [true, true]];

    #[test]
    fn products_equal_the_definition() {
        let shapes = [
            (1, 1, 1),
            (3, 5, 7),
            (1, 40, 33),
            (40, 1, 33),
            (70, 90, 1100),
            (205, 130, 63),
            (4, 4, 0),
        ];
        for ((m, n, k), layout) in shapes.iter().flat_map(|&s| LAYOUTS.map(|l| (s, l))) {
            let (a, b, c) = (random(m * k, 1), random(n * k, 2), random(m * n, 3));
            for precision in [Precision::Full, Precision::Bf16] {
                let run = |update, threads| product((m, n, k), layout, update, threads, precision);
                let fresh = run(Update::Overwrite, Threads::One);
                let added = run(Update::Add, Threads::All);
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let terms = (0..k).map(|l| {
                        let a = if layout[0] { a[l * m + i] } else { a[i * k + l] };
                        let b = if layout[1] { b[j * k + l] } else { b[l * n + j] };
                        f64::from(a) * f64::from(b)
                    });
                    let (exact, size) =
                        terms.fold((0.0, 0.0), |(s, t), term| (s + term, t + term.abs()));
                    // bf16 has 8 bits: each of two factors is off by at most 2^-9 of itself.
                    let rounding = if precision == Precision::Bf16 { size / 250.0 } else { 0.0 };
                    let gap = (f64::from(fresh[i * n + j]) - exact).abs();
                    assert!(gap <= rounding + 1e-4, "{m} {n} {k} {layout:?} at {i}, {j}: {gap}");
                    let change = f64::from(added[i * n + j] - c[i * n + j]);
                    assert!((change - exact).abs() <= rounding + 2e-4, "{m} {n} {k} {layout:?}");
                }
            }
        }
    }

    #[test]
    fn operands_in_bf16_are_multiplied_as_what_they_widen_to() {
        // Rows and inner sizes that fill tiles and that do not.
        for (m, n, k) in
            [(64, 64, 64), (70, 90, 96), (17, 33, 128), (33, 70, 75), (5, 3, 7), (9, 70, 700)]
        {
            let rounded = |n, seed| -> Vec<bf16> {
                random(n, seed).into_iter().map(Stored::narrow).collect()
            };
            let (a, b) = (rounded(m * k, 1), rounded(k * n, 2));
            let (wide_a, wide_b) = (bf16::widen_all(&a), bf16::widen_all(&b));
            for (layout, precision) in
                LAYOUTS.into_iter().flat_map(|l| [Precision::Full, Precision::Bf16].map(|p| (l, p)))
            {
                let lhs = if layout[0] { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
                let rhs = if layout[1] { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
                let (update, threads) = (Update::Overwrite, Threads::All);
                let (mut plain, mut wide) = (vec![0.0f32; m * n], vec![0.0f32; m * n]);
                matmul(&mut MatMut::new(&mut plain, m, n), lhs, rhs, update, threads, precision);
                let widened = (lhs.over(&wide_a), rhs.over(&wide_b));
                let view = &mut MatMut::new(&mut wide, m, n);
                matmul(view, widened.0, widened.1, update, threads, precision);
                assert_eq!(plain, wide, "{m} {n} {k} {layout:?}");
                let mut narrow = vec![bf16::ONE; m * n];
                matmul(&mut MatMut::new(&mut narrow, m, n), lhs, rhs, update, threads, precision);
                let expected: Vec<bf16> = wide.iter().map(|&v| Stored::narrow(v)).collect();
                assert_eq!(narrow, expected, "{m} {n} {k} {layout:?}");
                let view = &mut MatMut::new(&mut narrow, m, n);
                matmul(view, lhs, rhs, Update::Add, threads, precision);
                for (sum, (once, exact)) in narrow.iter().zip(expected.iter().zip(&wide)) {
                    assert_eq!(*sum, bf16::narrow(once.widen() + exact));
                }
            }
        }
    }

    #[test]
    fn values_that_bf16_holds_are_multiplied_exactly() {
        let (m, n, k) = (13, 70, 301);
        let value = |i: usize| (i * 37 % 29) as f32 - 14.0;
        let (a, b): (Vec<f32>, Vec<f32>) =
            ((0..m * k).map(value).collect(), (0..k * n).map(|i| value(i + 5)).collect());
        let on = |precision| {
            let mut c = vec![0.0f32; m * n];
            let (lhs, rhs) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            let out = &mut MatMut::new(&mut c, m, n);
            matmul(out, lhs, rhs, Update::Overwrite, Threads::All, precision);
            c
        };
        assert_eq!(on(Precision::Full), on(Precision::Bf16));
    }

    #[test]
    fn products_do_not_depend_on_the_number_of_threads() {
        let shapes = [(700, 130, 300), (97, 1031, 1200), (3, 5000, 256), (4000, 50, 65)];
        for (shape, precision) in
            shapes.iter().flat_map(|&s| [(s, Precision::Full), (s, Precision::Bf16)])
        {
            let run =
                |threads| product(shape, [false, true], Update::Overwrite, threads, precision);
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| run(Threads::All))
            };
            let one = on(1);
            assert!(one == on(2) && one == on(3), "{shape:?}");
            assert!(one == run(Threads::One), "{shape:?}");
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
