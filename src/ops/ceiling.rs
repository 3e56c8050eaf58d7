//! How fast this machine multiplies matrices: what a training step is measured against.

use std::time::Instant;

use super::kernels::{Mat, MatMut, Precision, Threads, Update, matmul};

/// Times each product is repeated.
const REPEATS: usize = 10;

/// The most floating-point operations a second that `x w^T` with `x` (rows, inner) and `w` (cols, inner)
/// reaches on all threads: the best of several runs.
pub fn matmul_flops(rows: usize, cols: usize, inner: usize, precision: Precision) -> f64 {
    let values = |n: usize| (0..n).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<f32>>();
    let (x, w, mut out) = (values(rows * inner), values(cols * inner), vec![0.0f32; rows * cols]);
    let (lhs, rhs) = (Mat::new(&x, rows, inner), Mat::new(&w, cols, inner).t());
    let mut fastest = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        let out_view = &mut MatMut::new(&mut out, rows, cols);
        matmul(out_view, lhs, rhs, Update::Overwrite, Threads::All, precision);
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    2.0 * (rows * cols * inner) as f64 / fastest
}
