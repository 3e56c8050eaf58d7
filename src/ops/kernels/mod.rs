//! Loops over plain slices, and the only unsafe code of the operations.

mod float;
mod matrix;

pub(super) use float::{Float, dot, max, sum_of, vectorize};
pub(super) use matrix::{Mat, MatMut, Threads, Update, matmul};
