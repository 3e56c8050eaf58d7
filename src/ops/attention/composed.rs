//! Attention by candle's own differentiable operations, row by row.

use candle_core::{D, Result, Tensor};

use super::rows::{Row, Rows};

pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, rows: &Rows) -> Result<Tensor> {
    let (_, heads, head_dim) = q.dims3()?;
    if q.dim(0)? == 0 {
        return q.reshape((0, heads * head_dim));
    }
    let scaled = (q / (head_dim as f64).sqrt())?;
    let mut outputs = Vec::new();
    for row in rows.rows().iter().filter(|row| !row.queries.is_empty()) {
        let context: Vec<u32> = rows.visible(&row.context).map(|key| key as u32).collect();
        let length = row.queries.len();
        // (length, heads, head_dim) -> (heads, length, head_dim)
        let q = scaled.narrow(0, row.queries.start, length)?.transpose(0, 1)?.contiguous()?;
        let k = row_heads(k, row, &context, heads)?;
        let v = row_heads(v, row, &context, heads)?;
        let scores = q.matmul(&k.t()?)?.broadcast_add(&mask(rows, row, context.len(), &q)?)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let probabilities = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        // (heads, length, head_dim) -> (length, heads * head_dim)
        let output = probabilities.matmul(&v)?.transpose(0, 1)?.contiguous()?;
        outputs.push(output.reshape((length, heads * head_dim))?);
    }
    Tensor::cat(&outputs, 0)
}

/// The keys or values a row sees, repeated for the query heads that share them: (heads, n, `head_dim`).
fn row_heads(t: &Tensor, row: &Row, context: &[u32], heads: usize) -> Result<Tensor> {
    let mut rows = t.narrow(0, row.own.start, row.own.len())?;
    if !context.is_empty() {
        let earlier = t.contiguous()?.index_select(&Tensor::new(context, t.device())?, 0)?;
        rows = Tensor::cat(&[&earlier, &rows], 0)?;
    }
    let (n, kv_heads, head_dim) = rows.dims3()?;
    rows.unsqueeze(2)?
        .broadcast_as((n, kv_heads, heads / kv_heads, head_dim))?
        .reshape((n, heads, head_dim))?
        .transpose(0, 1)?
        .contiguous()
}

/// (queries, context + own keys): 0 where the query sees the key, else minus infinity.
fn mask(rows: &Rows, row: &Row, context: usize, like: &Tensor) -> Result<Tensor> {
    let (length, keys) = (row.queries.len(), context + row.own.len());
    let mut mask = vec![0f32; length * keys];
    for (i, line) in mask.chunks_mut(keys).enumerate() {
        let place = row.offset() + i;
        for (j, value) in line[context..].iter_mut().enumerate() {
            if j > place || (j < place && rows.is_private(row.own.start + j)) {
                *value = f32::NEG_INFINITY;
            }
        }
    }
    Tensor::from_vec(mask, (length, keys), like.device())?.to_dtype(like.dtype())
}
