//! Loops over plain slices, and the only unsafe code of the operations.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod float;
mod matrix;

pub(super) use float::{Float, dot, max, sum_of, vectorize};
pub use matrix::Precision;
pub(crate) use matrix::Update;
pub(super) use matrix::{Mat, MatMut, Threads, gemm, matmul};
