//! The fused operations over plain slices, for a pass that keeps its own memory instead of a graph.
//!
//! Activations are slices with one line a token, in f32 or in a narrower [`Stored`] type; weights are f32 or
//! bf16 tensors on the CPU, read in place. What adds to a gradient says so; the rest overwrites.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::Rows;
use super::attention::{Inputs, fused};
use super::cpu::{BLOCK, with_stored};
use super::dropout::Mask;
use super::kernels::{self, Mat, MatMut, Precision, Threads, dot, matmul};

pub(crate) use super::attention::HeadShape;
pub(crate) use super::kernels::{Stored, Update, vectorize};
pub(crate) use super::log_softmax::log_sum_exp;
pub(crate) use super::pool::{Buffer, Pool};
pub(crate) use super::soft_cross_entropy::{Shifts, SoftTargets, WeightGrad};

/// What an activation is kept in: computed with in f32.
pub(crate) trait Activation: Stored<Wide = f32> {}
impl<S: Stored<Wide = f32>> Activation for S {}

/// Random bits for [`Stored::narrow_randomly`], a function of a key and a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    key: u32,
}

impl Noise {
    pub(crate) fn new(step: u64, parameter: u64) -> Self {
        let key = step.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ parameter.wrapping_mul(0xd129_0b26_88b4_a2b3);
        Self { key: (key >> 32) as u32 ^ key as u32 }
    }

    /// Three draws for the place: `MurmurHash3`'s finaliser of its number.
    #[inline(always)]
    pub(crate) fn of(self, place: usize) -> [u16; 3] {
        let mix = |mut z: u32| {
            z = (z ^ (z >> 16)).wrapping_mul(0x85eb_ca6b);
            z = (z ^ (z >> 13)).wrapping_mul(0xc2b2_ae35);
            z ^ (z >> 16)
        };
        let first = mix((place as u32).wrapping_mul(0x9e37_79b9) ^ self.key);
        [first as u16, (first >> 16) as u16, mix(first ^ 0x5bd1_e995) as u16]
    }
}

/// `values`, in f32, as `dtype`; where that is bf16 by [`Stored::narrow_randomly`], whatever the device.
pub(crate) fn narrowed(values: &Tensor, dtype: DType, noise: Noise) -> Result<Tensor> {
    if dtype != DType::BF16 {
        return values.to_dtype(dtype);
    }
    let all: Vec<f32> = values.flatten_all()?.to_vec1()?;
    let narrow = |(place, value)| bf16::narrow_randomly(value, noise.of(place)[0]);
    let all: Vec<bf16> = all.into_iter().enumerate().map(narrow).collect();
    Tensor::from_vec(all, values.shape(), values.device())
}

/// Whether every tensor is a weight these functions take, and nothing has forced the composed path.
pub(crate) fn serve(tensors: &[&Tensor]) -> bool {
    super::allow_fused()
        && tensors
            .iter()
            .all(|t| t.device().is_cpu() && matches!(t.dtype(), DType::F32 | DType::BF16))
}

/// The values of a weight vector.
fn vector(weight: &Tensor) -> Result<Vec<f32>> {
    weight.to_dtype(DType::F32)?.to_vec1()
}

/// `out` (tokens, out) from `x` (tokens, in): `x w^T`, or added to what is there.
pub(crate) fn linear<X: Activation, O: Activation>(
    out: &mut [O],
    x: &[X],
    weight: &Tensor,
    update: Update,
    precision: Precision,
) -> Result<()> {
    let (rows, inner) = weight.dims2()?;
    let tokens = x.len() / inner;
    with_stored!(weight, w => {
        let (x, w) = (Mat::new(x, tokens, inner), Mat::new(w, rows, inner));
        let mut out = MatMut::new(out, tokens, rows);
        matmul(&mut out, x, w.t(), update, Threads::All, precision);
    });
    Ok(())
}

/// The gradient of the input of [`linear`], (tokens, in), from that of its output, (tokens, out).
pub(crate) fn linear_input_grad<G: Activation, O: Activation>(
    x_grad: &mut [O],
    grad: &[G],
    weight: &Tensor,
    update: Update,
    precision: Precision,
) -> Result<()> {
    let (rows, inner) = weight.dims2()?;
    let tokens = grad.len() / rows;
    with_stored!(weight, w => {
        let (grad, w) = (Mat::new(grad, tokens, rows), Mat::new(w, rows, inner));
        let mut x_grad = MatMut::new(x_grad, tokens, inner);
        matmul(&mut x_grad, grad, w, update, Threads::All, precision);
    });
    Ok(())
}

/// The gradient of the weight of [`linear`], (out, in), over `tokens` lines.
pub(crate) fn linear_weight_grad<G: Activation, X: Activation>(
    weight_grad: &mut [f32],
    grad: &[G],
    x: &[X],
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
pub(crate) fn rms_norm<O: Activation>(
    out: &mut [O],
    x: &[f32],
    weight: &Tensor,
    eps: f64,
) -> Result<()> {
    super::rms_norm::forward(out, x, &vector(weight)?, eps as f32);
    Ok(())
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
    let tracked = weight_grad.is_some();
    let w = vector(weight)?;
    let part = super::rms_norm::backward([x, &w, grad], eps as f32, Some(x_grad), tracked);
    if let (Some(total), Some(part)) = (weight_grad, part) {
        total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
    }
    Ok(())
}

/// Rotates `x` (tokens, heads, `head_dim`) by the angles of its tokens; back again with `inverse`.
pub(crate) fn rope<X: Activation>(
    x: &mut [X],
    angles: [&[f32]; 2],
    shape: (usize, usize),
    inverse: bool,
) {
    super::rope::rotate(x, angles, shape, if inverse { -1.0 } else { 1.0 });
}

/// As [`super::swiglu`].
pub(crate) fn swiglu<X: Activation>(out: &mut [X], gate: &[X], up: &[X]) {
    super::swiglu::forward(out, gate, up);
}

/// Replaces gate and `up` by their gradients.
pub(crate) fn swiglu_backward<X: Activation>(gate: &mut [X], up: &mut [X], grad: &[X]) {
    super::swiglu::backward_in_place(gate, up, grad);
}

/// As [`super::attention`], or with a bias as [`super::biased_attention`].
pub(crate) fn attention<X: Activation>(
    out: &mut [X],
    [q, k, v]: [&[X]; 3],
    bias: Option<&[X]>,
    heads: HeadShape,
    rows: &Rows,
    precision: Precision,
) {
    fused::forward(out, &Inputs { q, k, v, heads, bias, precision }, rows);
}

/// Overwrites `grads` with the gradients of queries, keys and values, and adds that of a bias, which comes with it.
pub(crate) fn attention_backward<X: Activation>(
    grads: [&mut [X]; 3],
    [q, k, v]: [&[X]; 3],
    bias: Option<(&[X], &mut [f32])>,
    grad: &[X],
    heads: HeadShape,
    rows: &Rows,
    precision: Precision,
) {
    let (bias, bias_grad) = bias.unzip();
    let inputs = Inputs { q, k, v, heads, bias, precision };
    fused::backward(&inputs, grad, rows, grads.map(Some), bias_grad);
}

/// `x = max(x, 0)`
pub(crate) fn relu(x: &mut [f32]) {
    x.par_chunks_mut(BLOCK).for_each(|x| {
        vectorize(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x = x.max(0.0)),
        );
    });
}

/// Turns the gradient of what [`relu`] gave into that of what it took: nothing where it gave nothing, and `factor` times
/// what is there elsewhere, by which a dropout behind it multiplies.
pub(crate) fn relu_backward(grad: &mut [f32], activated: &[f32], factor: f64) {
    let factor = factor as f32;
    grad.par_chunks_mut(BLOCK).zip(activated.par_chunks(BLOCK)).for_each(|(grad, activated)| {
        vectorize(
            #[inline(always)]
            || {
                for (grad, &activated) in grad.iter_mut().zip(activated) {
                    *grad = if activated > 0.0 { *grad * factor } else { 0.0 };
                }
            },
        );
    });
}

/// As [`super::dropout`], in place; where `x` is some lines of a matrix, they are `chosen` of it.
pub(crate) fn dropout<X: Activation>(x: &mut [X], p: f64, key: u64, chosen: Option<&[u32]>) {
    let mask = Mask { p, key };
    match chosen {
        _ if p <= 0.0 || x.is_empty() => {}
        None => mask.apply_in_place(x, 0),
        Some(chosen) => {
            let width = x.len() / chosen.len();
            for (x, &line) in x.chunks_exact_mut(width).zip(chosen) {
                mask.apply_in_place(x, line as usize * width);
            }
        }
    }
}

/// Hands on the values of a contiguous f32 tensor.
pub(crate) fn of_tensor<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    f(super::cpu::values(x).slice()?)
}

/// As [`super::embedding`].
pub(crate) fn embedding(out: &mut [f32], weight: &Tensor, ids: &[u32]) -> Result<()> {
    let (vocab, width) = weight.dims2()?;
    super::embedding::check_ids("embedding", ids, vocab)?;
    with_stored!(weight, w => super::embedding::gather(out, w, width, ids));
    Ok(())
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

/// Bytes of logits that [`cross_entropy`] of `rows` over `vocab` ids holds.
pub(crate) fn logit_bytes(rows: usize, vocab: usize) -> usize {
    rows * super::soft_cross_entropy::part_columns(rows, vocab) * size_of::<f32>()
}

/// The sum of the cross-entropies of `hidden` over the ids of `vocabulary` alone, whose gradients are those
/// of `scale` times that sum: `hidden_grad` is overwritten.
#[expect(clippy::too_many_arguments, reason = "what a loss reads and what it writes")]
pub(crate) fn cross_entropy<X: Activation>(
    hidden: &[X],
    weight: &Tensor,
    vocabulary: Range<u32>,
    targets: &[u32],
    soft: Option<SoftTargets<'_>>,
    shifts: Option<Shifts<'_>>,
    scale: f64,
    hidden_grad: &mut [f32],
    weight_grad: Option<WeightGrad<'_>>,
    precision: Precision,
    pool: &Pool<f32>,
) -> Result<f64> {
    let (vocab, width) = weight.dims2()?;
    if let Some(id) = targets.iter().find(|id| !vocabulary.contains(id)) {
        candle_core::bail!("cross_entropy: id {id} is not among {vocabulary:?}");
    }
    let targets: Vec<u32> = targets.iter().map(|id| id - vocabulary.start).collect();
    if let Some(soft) = &soft {
        check_rows(soft.rows, |&(id, _)| id, targets.len(), &vocabulary)?;
    }
    if let Some(shifts) = &shifts {
        check_rows(shifts.rows, |&id| id, targets.len(), &vocabulary)?;
    }
    let soft = soft.map(|soft| SoftTargets { first: vocabulary.start, ..soft });
    let shifts = shifts.map(|shifts| Shifts { first: vocabulary.start, ..shifts });
    let hidden = Mat::new(hidden, targets.len(), width);
    let lines = vocabulary.start as usize..vocabulary.end as usize;
    let weight_grad = weight_grad.map(|grad| grad.lines(&lines, width));
    Ok(with_stored!(weight, w => super::soft_cross_entropy::loss_and_gradients(
        hidden,
        Mat::new(w, vocab, width).lines(lines),
        &targets,
        soft,
        shifts,
        scale as f32,
        hidden_grad,
        weight_grad,
        precision,
        pool,
    )))
}

/// Refuses `rows` that are not one a target, and ids in them that are not of `vocabulary`.
fn check_rows<T>(
    rows: &[Vec<T>],
    id: impl Fn(&T) -> u32,
    targets: usize,
    vocabulary: &Range<u32>,
) -> Result<()> {
    if rows.len() != targets {
        candle_core::bail!("cross_entropy: {} rows of ids for {targets} targets", rows.len());
    }
    if let Some(id) = rows.iter().flatten().map(id).find(|id| !vocabulary.contains(id)) {
        candle_core::bail!("cross_entropy: id {id} in a row is not among {vocabulary:?}");
    }
    Ok(())
}

/// `total += part`.
pub(crate) fn add<X: Activation>(total: &mut [X], part: &[f32]) {
    total.par_chunks_mut(BLOCK).zip(part.par_chunks(BLOCK)).for_each(|(total, part)| {
        vectorize(
            #[inline(always)]
            || total.iter_mut().zip(part).for_each(|(t, p)| *t = X::narrow(t.widen() + p)),
        );
    });
}

/// `out = x`, rounded where `out` is narrower.
pub(crate) fn copy<X: Activation, O: Activation>(out: &mut [O], x: &[X]) {
    out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(out, x)| {
        vectorize(
            #[inline(always)]
            || out.iter_mut().zip(x).for_each(|(o, x)| *o = O::narrow(x.widen())),
        );
    });
}

/// `x *= factor`.
pub(crate) fn scale(x: &mut [f32], factor: f64) {
    let factor = factor as f32;
    x.par_chunks_mut(BLOCK).for_each(|x| x.iter_mut().for_each(|x| *x *= factor));
}

/// Turns scores into the softmax of themselves over `temperature`.
pub(crate) fn softmax(scores: &mut [f32], temperature: f32) {
    vectorize(
        #[inline(always)]
        || {
            for score in scores.iter_mut() {
                *score /= temperature;
            }
            kernels::softmax(scores);
        },
    );
}

/// The sum of squares, in blocks of a fixed size.
pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(BLOCK).map(|x| f64::from(vectorize(|| dot(x, x)))).collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_fit_a_loss_are_refused() {
        let check = |rows: &[Vec<u32>]| check_rows(rows, |&id| id, 2, &(5..8));
        assert!(check(&[vec![5, 7], vec![]]).is_ok());
        let told = |rows: &[Vec<u32>]| check(rows).unwrap_err().to_string();
        assert!(told(&[vec![5]]).contains("1 rows of ids for 2 targets"));
        for id in [4, 8] {
            assert!(told(&[vec![5], vec![6, id]]).contains(&format!("id {id} in a row")));
        }
    }
}
