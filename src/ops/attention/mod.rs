//! Softmax attention over packed rows, for training and for decoding with cached keys.
//!
//! No (tokens x keys) matrix of the batch exists at any time: every (row, key-value head) is a task of its
//! own that holds the scores of at most 64 queries, and the backward computes them again.

mod biased;
mod composed;
pub(super) mod fused;
mod rows;
mod task;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use candle_core::{Result, Tensor, bail};

pub use biased::biased_attention;
pub use rows::{Row, Rows};
pub(crate) use task::HeadShape;
pub(super) use task::Inputs;

/// `softmax(q * k^T / sqrt(head_dim)) * v` for each head, over the keys that `rows` lets each query see.
///
/// Query head `h` reads key-value head `h / (heads / kv_heads)` (grouped-query attention).
///
/// # Shapes
/// - `q`: (tokens, heads, `head_dim`)
/// - `k`, `v`: (keys, `kv_heads`, `head_dim`), `heads` a multiple of `kv_heads`
/// - output: (tokens, heads * `head_dim`)
///
/// # Errors
/// Shapes that do not fit each other or the rows. The backward exists for training only: rows without
/// context and with keys of their own.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, rows: &Arc<Rows>) -> Result<Tensor> {
    check_shapes(q, k, v, rows)?;
    let inputs = [q, k, v];
    let serves = !q.device().is_cuda() || super::cuda::takes(q.dim(2)?, q.dtype());
    if serves && super::fused(&inputs) {
        let tracked = inputs.iter().any(|t| t.track_op());
        let op = fused::Attention { rows: Arc::clone(rows), tracked, totals: Mutex::default() };
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
    } else {
        composed::attention(q, k, v, None, rows)
    }
}

/// Refuses shapes that do not fit each other or the rows.
fn check_shapes(q: &Tensor, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<()> {
    let ((tokens, heads, head_dim), (keys, kv_heads, key_dim)) = (q.dims3()?, k.dims3()?);
    let fits = v.dims() == k.dims()
        && head_dim == key_dim
        && head_dim > 0
        && kv_heads > 0
        && heads > 0
        && heads.is_multiple_of(kv_heads);
    if !fits {
        bail!("attention: q {:?}, k {:?} and v {:?}", q.dims(), k.dims(), v.dims());
    }
    rows.check(tokens, keys)
}
