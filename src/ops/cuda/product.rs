//! A product of matrices, as it is asked of cuBLAS.

use candle_core::DType;

/// A matrix in memory, line after line.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the driver reads it"))]
pub(super) struct Matrix {
    pub(super) address: u64,
    /// Values of a line as it is stored.
    pub(super) width: usize,
    pub(super) transposed: bool,
    pub(super) dtype: DType,
}

impl Matrix {
    pub(super) fn transposed(self) -> Self {
        Self { transposed: true, ..self }
    }
}

/// `out = scale * left * right`, or `out += …`: (rows, columns), sums over `inner`.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "the driver reads it"))]
pub(super) struct Product {
    pub(super) out: u64,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) inner: usize,
    pub(super) left: Matrix,
    pub(super) right: Matrix,
    pub(super) scale: f64,
    pub(super) add: bool,
}

impl Product {
    /// `out = left * right`.
    pub(super) fn new(
        out: u64,
        (rows, columns, inner): (usize, usize, usize),
        left: Matrix,
        right: Matrix,
    ) -> Self {
        Self { out, rows, columns, inner, left, right, scale: 1.0, add: false }
    }

    /// Multiplied by so much.
    pub(super) fn times(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// Adds to what is there, if so.
    pub(super) fn adding(self, add: bool) -> Self {
        Self { add, ..self }
    }
}
