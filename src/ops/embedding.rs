//! Rows of a table by id.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::cpu::{self, with_float};
use super::cuda::{self, View};
use super::fused;
use super::kernels::{Float, Stored};

/// Table rows whose gradient one task sums, and output rows one task copies.
const BLOCK: usize = 64;

/// The rows of `weight` at `ids`. The gradient is dense.
///
/// # Shapes
/// - `weight`: (vocab, hidden)
/// - output: (ids, hidden)
///
/// # Errors
/// An id that is not below the vocabulary size.
pub fn embedding(weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (vocab, _) = weight.dims2()?;
    check_ids("embedding", ids, vocab)?;
    if ids.is_empty() && weight.device().is_cuda() {
        bail!("embedding: there are no ids, and CUDA has no tensor without elements");
    }
    if fused(&[weight]) {
        weight.contiguous()?.apply_op1(Embedding { ids: ids.into() })
    } else {
        composed_embedding(weight, ids)
    }
}

fn composed_embedding(weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    weight.index_select(&Tensor::new(ids, weight.device())?, 0)
}

/// Refuses ids beyond the vocabulary, naming the first.
pub(super) fn check_ids(op: &str, ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().position(|&id| id as usize >= vocab) {
        Some(at) => {
            bail!("{op}: id {} at position {at} is not below the vocabulary size {vocab}", ids[at])
        }
        None => Ok(()),
    }
}

struct Embedding {
    ids: Arc<[u32]>,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, weight: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        with_float!(weight.dtype(), T => {
            let mut rows = vec![T::default(); self.ids.len() * hidden];
            gather::<T>(&mut rows, cpu::slice(weight, layout)?, hidden, &self.ids);
            Ok((T::to_cpu_storage_owned(rows), (self.ids.len(), hidden).into()))
        })
    }

    fn cuda_fwd(&self, weight: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (_, hidden) = layout.shape().dims2()?;
        let rows = cuda::embedding(View::new(weight, layout), &self.ids)?;
        Ok((rows, (self.ids.len(), hidden).into()))
    }

    fn bwd(&self, weight: &Tensor, _rows: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (vocab, hidden) = weight.dims2()?;
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            return cuda::embedding_backward(weight, &grad, &self.ids).map(Some);
        }
        let grad = cpu::values(&grad);
        with_float!(weight.dtype(), T => {
            let mut total: Vec<T> = vec![Default::default(); vocab * hidden];
            scatter_add::<T>(&mut total, grad.slice()?, hidden, &self.ids, 0);
            cpu::tensor(total, (vocab, hidden)).map(Some)
        })
    }
}

pub(super) fn gather<S: Stored>(rows: &mut [S::Wide], table: &[S], hidden: usize, ids: &[u32]) {
    if hidden > 0 {
        rows.par_chunks_mut(BLOCK * hidden).zip(ids.par_chunks(BLOCK)).for_each(|(rows, ids)| {
            for (row, &id) in rows.chunks_exact_mut(hidden).zip(ids) {
                let start = id as usize * hidden;
                for (to, from) in row.iter_mut().zip(&table[start..start + hidden]) {
                    *to = from.widen();
                }
            }
        });
    }
}

/// Adds the gradients of each table row to `total`, in the order of the ids; `total` begins with row
/// `first_row`, and ids before it are passed over.
pub(super) fn scatter_add<T: Float>(
    total: &mut [T],
    grad: &[T],
    hidden: usize,
    ids: &[u32],
    first_row: usize,
) {
    let mut order: Vec<(u32, usize)> = ids.iter().copied().zip(0..).collect();
    order.sort_unstable();
    if hidden > 0 {
        total.par_chunks_mut(BLOCK * hidden).enumerate().for_each(|(block, rows)| {
            let first = first_row + block * BLOCK;
            let start = order.partition_point(|&(id, _)| (id as usize) < first);
            for &(id, position) in &order[start..] {
                let row = id as usize - first;
                if row >= BLOCK {
                    break;
                }
                let source = &grad[position * hidden..(position + 1) * hidden];
                for (t, &g) in rows[row * hidden..(row + 1) * hidden].iter_mut().zip(source) {
                    *t += g;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check, random, same_on_any_threads};

    #[test]
    fn values_and_gradients() {
        check(&[random((9, 5), 1)], |t| embedding(&t[0], &[3, 0, 8, 3, 3, 7]));
        check(&[random((200, 3), 1)], |t| embedding(&t[0], &[199, 64, 63, 64]));
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let ids: Vec<u32> = (0..500u32).map(|i| i * i % 150).collect();
        same_on_any_threads(&[random((150, 16), 1)], |t| embedding(&t[0], &ids));
    }

    #[test]
    fn an_id_beyond_the_vocabulary_is_named() {
        let error = embedding(&random((9, 5), 1), &[1, 9]).unwrap_err().to_string();
        assert!(error.contains("id 9 at position 1"), "{error}");
    }
}
