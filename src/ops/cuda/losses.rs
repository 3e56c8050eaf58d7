//! Losses over a vocabulary, whose logits are there for some rows at a time.

use candle_core::{CudaStorage, Result, Tensor};

use super::linear::Factor;
use super::product::Product;
use super::{Call, THREADS, View, tensor, with_views};
use crate::ops::kernels::Precision;

/// Bytes of logits held at a time; in tests so few that there are several parts.
const LOGIT_BYTES: usize = if cfg!(test) { 1 << 12 } else { 256 << 20 };
/// Rows that are computed together at least: all of the weight is read each time.
const MIN_ROWS: usize = 64;

/// The rows of each part, by its first and number.
fn parts(rows: usize, vocab: usize, bytes: usize) -> impl Iterator<Item = (usize, usize)> {
    let size = (LOGIT_BYTES / (vocab * bytes)).max(MIN_ROWS);
    (0..rows).step_by(size).map(move |first| (first, size.min(rows - first)))
}

/// As [`crate::ops::cross_entropy`].
pub(in crate::ops) fn cross_entropy(
    hidden: View<'_>,
    weight: View<'_>,
    targets: &[u32],
    precision: Precision,
) -> Result<CudaStorage> {
    let (vocab, width) = weight.dims2()?;
    let call = Call::like(hidden);
    let (losses, out) = call.fresh(targets.len())?;
    let bytes = call.dtype.size_in_bytes();
    let targets_there = call.ids(targets)?;
    let (hidden, weight) = (Factor::new(hidden, precision)?, Factor::new(weight, precision)?);
    with_views([&targets_there], |[ids]| {
        for (first, rows) in parts(targets.len(), vocab, bytes) {
            let (_logits, logits) = call.fresh(rows * vocab)?;
            let (left, right) = (hidden.lines(first, width), weight.lines(0, width).transposed());
            Product::new(logits, (rows, vocab, width), left, right).run(&call)?;
            let losses = out + (first * bytes) as u64;
            let arguments = [losses, logits, ids.address()? + 4 * first as u64, vocab as u64];
            call.blocks("row_losses", [rows, 1], THREADS, &arguments)?;
        }
        Ok(())
    })?;
    Ok(losses)
}

/// The gradients of [`cross_entropy`]'s inputs that are tracked; logits are computed again.
pub(in crate::ops) fn cross_entropy_backward(
    [hidden, weight, losses, grad]: [&Tensor; 4],
    targets: &[u32],
    precision: Precision,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (vocab, width) = weight.dims2()?;
    let views = [hidden, weight, losses, grad];
    with_views(views, |[hidden_view, weight_view, losses, grad]| {
        let call = Call::like(grad);
        let bytes = call.dtype.size_in_bytes();
        let targets_there = call.ids(targets)?;
        let of_hidden = Factor::new(hidden_view, precision)?;
        let of_weight = Factor::new(weight_view, precision)?;
        let (hidden_grad, hidden_out) = call.fresh_if(hidden.track_op(), targets.len() * width)?;
        let (weight_grad, weight_out) = call.fresh_if(weight.track_op(), vocab * width)?;
        with_views([&targets_there], |[ids]| {
            for (first, rows) in parts(targets.len(), vocab, bytes) {
                let (changes, logits) = call.fresh(rows * vocab)?;
                let (left, right) =
                    (of_hidden.lines(first, width), of_weight.lines(0, width).transposed());
                Product::new(logits, (rows, vocab, width), left, right).run(&call)?;
                let later = (first * bytes) as u64;
                let arguments = [
                    logits,
                    ids.address()? + 4 * first as u64,
                    losses.address()? + later,
                    grad.address()? + later,
                    vocab as u64,
                ];
                call.blocks("row_gradients", [rows, 1], THREADS, &arguments)?;
                let changes = Factor::computed(changes, rows * vocab, precision)?;
                if hidden_grad.is_some() {
                    let out = hidden_out + (first * width * bytes) as u64;
                    let (left, right) = (changes.lines(0, vocab), of_weight.lines(0, width));
                    Product::new(out, (rows, width, vocab), left, right).run(&call)?;
                }
                if weight_grad.is_some() {
                    let left = changes.lines(0, vocab).transposed();
                    let right = of_hidden.lines(first, width);
                    let product = Product::new(weight_out, (vocab, width, rows), left, right);
                    product.adding(first > 0).run(&call)?;
                }
            }
            Ok(())
        })?;
        Ok((
            hidden_grad.map(|g| tensor(g, hidden.shape())),
            weight_grad.map(|g| tensor(g, weight.shape())),
        ))
    })
}

/// As [`crate::ops::log_softmax_rows`].
pub(in crate::ops) fn log_softmax_rows(logits: View<'_>) -> Result<CudaStorage> {
    over_rows("log_softmax_rows", logits, logits.count())
}

/// As [`crate::ops::log_sum_exp_rows`].
pub(in crate::ops) fn log_sum_exp_rows(logits: View<'_>) -> Result<CudaStorage> {
    over_rows("log_sum_exp_rows", logits, logits.dims2()?.0)
}

/// Runs a kernel that takes logits row by row and writes `count` values.
fn over_rows(kernel: &str, logits: View<'_>, count: usize) -> Result<CudaStorage> {
    let (rows, choices) = logits.dims2()?;
    let call = Call::like(logits);
    let (written, out) = call.fresh(count)?;
    let arguments = [out, logits.address()?, choices as u64];
    call.blocks(kernel, [rows, 1], THREADS, &arguments)?;
    Ok(written)
}
