//! Loops over plain slices, and the only unsafe code of the operations.

mod float;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod packed;

pub(super) use float::{Float, dot, max, softmax, sum_of};
pub(crate) use float::{Stored, vectorize};
pub use matrix::Precision;
pub(crate) use matrix::Update;
pub(super) use matrix::{Mat, MatMut, Threads, matmul};
