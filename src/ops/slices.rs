//! The fused operations over plain f32 slices, for a pass that keeps its own memory instead of a graph.
//!
//! Activations are slices with one line a token; weights are tensors on the CPU, read in place. What adds
//! to a gradient says so; the rest overwrites.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::attention::{Inputs, fused};
use super::dropout::Mask;
use super::kernels::{Mat, MatMut, Precision, Threads, dot, matmul, vectorize};
use super::{Rows, cpu};

pub(crate) use super::attention::HeadShape;
pub(crate) use super::cross_entropy::WeightGrad;
pub(crate) use super::kernels::Update;

/// Values a task works on.
const BLOCK: usize = 1 << 13;

/// Whether every tensor is f32 and on the CPU, and nothing has forced the composed path.
pub(crate) fn serve(tensors: &[&Tensor]) -> bool {
    super::fused(tensors) && tensors.iter().all(|t| t.dtype() == candle_core::DType::F32)
}

/// Hands the values of a contiguous f32 tensor on the CPU to `f`.
pub(crate) fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let values = cpu::values(tensor);
    Ok(f(values.slice::<f32>()?))
}

/// `out` (tokens, out) from `x` (tokens, in): `x w^T`, or added to what is there.
pub(crate) fn linear(
    out: &mut [f32],
    x: &[f32],
    weight: &Tensor,
    update: Update,
    precision: Precision,
) -> Result<()> {
    let (rows, inner) = weight.dims2()?;
    let tokens = x.len() / inner;
    with_values(weight, |w| {
        let (x, w) = (Mat::new(x, tokens, inner), Mat::new(w, rows, inner));
        let mut out = MatMut::new(out, tokens, rows);
        matmul(&mut out, x, w.t(), update, Threads::All, precision);
    })
}

/// The gradient of the input of [`linear`], (tokens, in), from that of its output, (tokens, out).
pub(crate) fn linear_input_grad(
    x_grad: &mut [f32],
    grad: &[f32],
    weight: &Tensor,
    update: Update,
    precision: Precision,
) -> Result<()> {
    let (rows, inner) = weight.dims2()?;
    let tokens = grad.len() / rows;
    with_values(weight, |w| {
        let (grad, w) = (Mat::new(grad, tokens, rows), Mat::new(w, rows, inner));
        let mut x_grad = MatMut::new(x_grad, tokens, inner);
        matmul(&mut x_grad, grad, w, update, Threads::All, precision);
    })
}

/// The gradient of the weight of [`linear`], (out, in), over `tokens` lines.
pub(crate) fn linear_weight_grad(
    weight_grad: &mut [f32],
    grad: &[f32],
    x: &[f32],
    tokens: usize,
    update: Update,
    precision: Precision,
) {
    let (rows, inner) = (grad.len() / tokens.max(1), x.len() / tokens.max(1));
    let (grad, x) = (Mat::new(grad, tokens, rows), Mat::new(x, tokens, inner));
    let mut weight_grad = MatMut::new(weight_grad, rows, inner);
    matmul(&mut weight_grad, grad.t(), x, update, Threads::All, precision);
}

/// As [`super::rms_norm`].
pub(crate) fn rms_norm(x: &[f32], weight: &Tensor, eps: f64) -> Result<Vec<f32>> {
    with_values(weight, |w| super::rms_norm::forward(x, w, eps as f32))
}

/// Adds the gradients of [`rms_norm`] to `x_grad` and, where there is one, to `weight_grad`.
pub(crate) fn rms_norm_backward(
    x: &[f32],
    weight: &Tensor,
    grad: &[f32],
    eps: f64,
    x_grad: &mut [f32],
    weight_grad: Option<&mut [f32]>,
) -> Result<()> {
    with_values(weight, |w| {
        let tracked = weight_grad.is_some();
        let part = super::rms_norm::backward([x, w, grad], eps as f32, Some(x_grad), tracked);
        if let (Some(total), Some(part)) = (weight_grad, part) {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
    })
}

/// Rotates `x` (tokens, heads, `head_dim`) by the angles of its tokens; back again with `inverse`.
pub(crate) fn rope(x: &mut [f32], angles: [&[f32]; 2], shape: (usize, usize), inverse: bool) {
    super::rope::rotate(x, angles, shape, if inverse { -1.0 } else { 1.0 });
}

/// As [`super::swiglu`].
pub(crate) fn swiglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    super::swiglu::forward(gate, up)
}

/// Replaces gate and `up` by their gradients.
pub(crate) fn swiglu_backward(gate: &mut [f32], up: &mut [f32], grad: &[f32]) {
    super::swiglu::backward_in_place(gate, up, grad);
}

/// As [`super::attention`].
pub(crate) fn attention(qkv: [&[f32]; 3], heads: HeadShape, rows: &Rows) -> Vec<f32> {
    let [q, k, v] = qkv;
    fused::forward(&Inputs { q, k, v, heads }, rows)
}

/// The gradients of queries, keys and values.
pub(crate) fn attention_backward(
    qkv: [&[f32]; 3],
    grad: &[f32],
    heads: HeadShape,
    rows: &Rows,
) -> [Vec<f32>; 3] {
    let [q, k, v] = qkv;
    let mut grads = qkv.map(|x| Some(vec![0.0; x.len()]));
    fused::backward(&Inputs { q, k, v, heads }, grad, rows, &mut grads);
    grads.map(Option::unwrap_or_default)
}

/// As [`super::dropout`], in place.
pub(crate) fn dropout(x: &mut [f32], p: f64, key: u64) {
    if p > 0.0 {
        Mask { p, key }.apply_in_place(x);
    }
}

/// As [`super::embedding`].
pub(crate) fn embedding(weight: &Tensor, ids: &[u32]) -> Result<Vec<f32>> {
    let (vocab, width) = weight.dims2()?;
    super::embedding::check_ids("embedding", ids, vocab)?;
    with_values(weight, |w| super::embedding::gather(w, width, ids))
}

/// Adds the gradient of every row of [`embedding`] from `first_row` on to `weight_grad`.
pub(crate) fn embedding_backward(
    weight_grad: &mut [f32],
    grad: &[f32],
    width: usize,
    ids: &[u32],
    first_row: usize,
) {
    super::embedding::scatter_add(weight_grad, grad, width, ids, first_row);
}

/// The sum of the cross-entropies of `hidden`, whose gradients are those of `scale` times that sum.
pub(crate) fn cross_entropy(
    hidden: &[f32],
    weight: &Tensor,
    targets: &[u32],
    scale: f64,
    hidden_grad: &mut [f32],
    weight_grad: Option<WeightGrad<'_>>,
    precision: Precision,
) -> Result<f64> {
    super::embedding::check_ids("cross_entropy", targets, weight.dim(0)?)?;
    with_values(weight, |w| {
        let inputs = [hidden, w];
        let scale = scale as f32;
        super::cross_entropy::loss_and_gradients(
            inputs,
            targets,
            scale,
            hidden_grad,
            weight_grad,
            precision,
        )
    })
}

/// `total += part`.
pub(crate) fn add(total: &mut [f32], part: &[f32]) {
    total.par_chunks_mut(BLOCK).zip(part.par_chunks(BLOCK)).for_each(|(total, part)| {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    });
}

/// `x *= factor`.
pub(crate) fn scale(x: &mut [f32], factor: f64) {
    let factor = factor as f32;
    x.par_chunks_mut(BLOCK).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
}

/// The sum of squares, in blocks of a fixed size.
pub(crate) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    with_values(x, |x| {
        let parts: Vec<f64> =
            x.par_chunks(BLOCK).map(|x| f64::from(vectorize(|| dot(x, x)))).collect();
        parts.iter().sum()
    })
}
