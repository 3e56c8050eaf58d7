//! Cross-entropy over a vocabulary without its logits ever being there all at once.

use std::ops::Range;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, D, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::cpu::{self, with_float, zeros_if};
use super::cuda::{self, View};
use super::embedding::check_ids;
use super::kernels::{Float, Mat, MatMut, Precision, Stored, Threads, Update, matmul};
use super::log_softmax::{log_sum_exp, probabilities};
use super::pool::Pool;
use super::{fused, linear};

/// Bytes of logits held at a time.
const CHUNK_BYTES: usize = 8 << 20;
/// Rows a chunk has at least: each chunk reads the whole weight and adds to its whole gradient.
const MIN_CHUNK_ROWS: usize = 64;
/// Bytes of logits held at a time by [`loss_and_gradients`].
const PART_BYTES: usize = 16 << 20;
/// Columns a part has at least.
const MIN_PART_COLUMNS: usize = 256;

/// The negative log-likelihood of each target under softmax(`hidden` * `weight`^T).
///
/// # Shapes
/// - `hidden`: (n, hidden)
/// - `weight`: (vocab, hidden)
/// - `targets`: n ids
/// - output: (n)
///
/// `precision` is that of the products, as in [`linear`].
///
/// # Errors
/// Shapes that do not fit, or a target that is not below the vocabulary size.
pub fn cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    precision: Precision,
) -> Result<Tensor> {
    let ((n, width), (vocab, weight_width)) = (hidden.dims2()?, weight.dims2()?);
    if width != weight_width || n != targets.len() {
        bail!(
            "cross_entropy: hidden {:?}, weight {:?} and {} targets",
            hidden.dims(),
            weight.dims(),
            targets.len()
        );
    }
    check_ids("cross_entropy", targets, vocab)?;
    if fused(&[hidden, weight]) {
        let op = CrossEntropy { targets: targets.into(), precision };
        hidden.contiguous()?.apply_op2(&weight.contiguous()?, op)
    } else {
        composed_cross_entropy(hidden, weight, targets)
    }
}

fn composed_cross_entropy(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let logits = linear(hidden, weight, Precision::Full)?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let total = shifted.exp()?.sum(D::Minus1)?.log()?;
    total - shifted.gather(&targets, 1)?.squeeze(1)?
}

struct CrossEntropy {
    targets: Arc<[u32]>,
    precision: Precision,
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (vocab, width) = weight_layout.shape().dims2()?;
        with_float!(hidden.dtype(), T => {
            let hidden = cpu::slice::<T>(hidden, hidden_layout)?;
            let weight = Mat::new(cpu::slice(weight, weight_layout)?, vocab, width);
            let losses = self.forward(hidden, weight, (vocab, width));
            Ok((T::to_cpu_storage_owned(losses), self.targets.len().into()))
        })
    }

    fn cuda_fwd(
        &self,
        hidden: &CudaStorage,
        hidden_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (hidden, weight) = (View::new(hidden, hidden_layout), View::new(weight, weight_layout));
        let losses = cuda::cross_entropy(hidden, weight, &self.targets, self.precision)?;
        Ok((losses, self.targets.len().into()))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        losses: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            let inputs = [hidden, weight, losses, &grad];
            return cuda::cross_entropy_backward(inputs, &self.targets, self.precision);
        }
        let inputs =
            [cpu::values(hidden), cpu::values(weight), cpu::values(losses), cpu::values(&grad)];
        with_float!(hidden.dtype(), T => {
            let mut hidden_grad = zeros_if(hidden.track_op(), hidden.elem_count());
            let mut weight_grad = zeros_if(weight.track_op(), weight.elem_count());
            let [hidden_values, weight_values, losses, grad] = &inputs;
            self.backward::<T>(
                [hidden_values.slice()?, weight_values.slice()?, losses.slice()?, grad.slice()?],
                weight.dims2()?,
                hidden_grad.as_deref_mut(),
                weight_grad.as_deref_mut(),
            );
            Ok((
                hidden_grad.map(|g| cpu::tensor(g, hidden.shape())).transpose()?,
                weight_grad.map(|g| cpu::tensor(g, weight.shape())).transpose()?,
            ))
        })
    }
}

/// Rows of a chunk. The number of threads has no part in it: chunks are summed one after another.
fn chunk_rows<T>(vocab: usize) -> usize {
    (CHUNK_BYTES / (vocab * size_of::<T>()).max(1)).max(MIN_CHUNK_ROWS)
}

impl CrossEntropy {
    fn forward<T: Float>(
        &self,
        hidden: &[T],
        weight: Mat<'_, T>,
        (vocab, width): (usize, usize),
    ) -> Vec<T> {
        let rows = chunk_rows::<T>(vocab);
        let mut losses = vec![T::zero(); self.targets.len()];
        let mut logits = vec![T::zero(); rows.min(losses.len()) * vocab];
        for (chunk, losses) in losses.chunks_mut(rows).enumerate() {
            let (first, n) = (chunk * rows, losses.len());
            let logits = &mut logits[..n * vocab];
            let hidden = Mat::new(&hidden[first * width..(first + n) * width], n, width);
            let mut view = MatMut::new(logits, n, vocab);
            matmul(&mut view, hidden, weight.t(), Update::Overwrite, Threads::All, self.precision);
            let rows = logits.par_chunks(vocab).zip(&self.targets[first..first + n]);
            losses.par_iter_mut().zip(rows).for_each(|(loss, (row, &target))| {
                *loss = log_sum_exp(row) - row[target as usize];
            });
        }
        losses
    }

    /// Adds to both gradients, where wanted. The logits are computed again, chunk by chunk.
    fn backward<T: Float>(
        &self,
        [hidden, weight, losses, grad]: [&[T]; 4],
        (vocab, width): (usize, usize),
        mut hidden_grad: Option<&mut [T]>,
        weight_grad: Option<&mut [T]>,
    ) {
        let rows = chunk_rows::<T>(vocab);
        let count = self.targets.len();
        let weight = Mat::new(weight, vocab, width);
        let mut weight_grad = weight_grad.map(|g| MatMut::new(g, vocab, width));
        let mut logits = vec![T::zero(); rows.min(count) * vocab];
        for first in (0..count).step_by(rows) {
            let n = rows.min(count - first);
            let logits = &mut logits[..n * vocab];
            let hidden = Mat::new(&hidden[first * width..(first + n) * width], n, width);
            let mut view = MatMut::new(logits, n, vocab);
            matmul(&mut view, hidden, weight.t(), Update::Overwrite, Threads::All, self.precision);
            logits.par_chunks_mut(vocab).enumerate().for_each(|(i, row)| {
                let target = self.targets[first + i] as usize;
                logits_gradient(row, target, losses[first + i], grad[first + i]);
            });
            let change = Mat::new(logits, n, vocab);
            if let Some(hidden_grad) = &mut hidden_grad {
                let part = &mut hidden_grad[first * width..(first + n) * width];
                let mut part = MatMut::new(part, n, width);
                matmul(&mut part, change, weight, Update::Overwrite, Threads::All, self.precision);
            }
            if let Some(weight_grad) = &mut weight_grad {
                matmul(weight_grad, change.t(), hidden, Update::Add, Threads::All, self.precision);
            }
        }
    }
}

/// Distributions that probabilities are drawn to beside their targets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SoftTargets<'a> {
    /// Their share of what is drawn to; the targets have the rest.
    pub(crate) weight: f32,
    /// The first id of the vocabulary at hand.
    pub(crate) first: u32,
    /// A distribution a row: ids, ascending, with their shares.
    pub(crate) rows: &'a [Vec<(u32, f32)>],
}

impl<'a> SoftTargets<'a> {
    /// The ids of `part` in the distribution of a row, counted from its first, with their shares.
    fn of_part(&self, row: usize, part: &Range<usize>) -> impl Iterator<Item = (usize, f32)> + 'a {
        let place = |id: u32| (id - self.first) as usize;
        let row = self.rows[row].as_slice();
        let from = row.partition_point(|&(id, _)| place(id) < part.start);
        let to = row.partition_point(|&(id, _)| place(id) < part.end);
        let (first, start) = (self.first, part.start);
        row[from..to].iter().map(move |&(id, share)| ((id - first) as usize - start, share))
    }
}

/// The sum of the losses of rows `hidden`, and the gradients of `scale` times that sum: `hidden_grad` is
/// overwritten, `weight_grad` overwritten or added to.
///
/// Logits are there for a part of the vocabulary at a time. Where that is not all of it, a first pass sums
/// their exponentials and a second computes them again: one more product, but the weight and its gradient
/// are gone through only once a pass.
#[expect(clippy::too_many_arguments, reason = "what a loss reads and what it writes")]
pub(super) fn loss_and_gradients<S: Stored<Wide = f32>, W: Stored<Wide = f32>>(
    hidden: Mat<'_, S>,
    weight: Mat<'_, W>,
    targets: &[u32],
    soft: Option<SoftTargets<'_>>,
    scale: f32,
    hidden_grad: &mut [f32],
    mut weight_grad: Option<WeightGrad<'_>>,
    precision: Precision,
    pool: &Pool<f32>,
) -> f64 {
    if targets.is_empty() {
        return 0.0;
    }
    let (rows, width, vocab) = (targets.len(), weight.cols, weight.rows);
    let columns = part_columns(rows, vocab);
    let parts: Vec<_> =
        (0..vocab).step_by(columns).map(|first| first..vocab.min(first + columns)).collect();
    let mut logits = pool.take(rows * columns);
    let fill = |logits: &mut [f32], part: &Range<usize>| {
        let part = weight.lines(part.clone());
        let mut view = MatMut::new(logits, rows, part.rows);
        matmul(&mut view, hidden, part.t(), Update::Overwrite, Threads::All, precision);
    };
    let hard = 1.0 - soft.map_or(0.0, |soft| soft.weight);
    // The logarithm of the summed exponentials, and the logit that is drawn to, a mean of logits.
    let mut sums = vec![(f32::NEG_INFINITY, 0.0f32); rows];
    for part in &parts {
        let logits = &mut logits[..rows * part.len()];
        fill(logits, part);
        let lines = logits.par_chunks(part.len()).zip(targets).enumerate();
        lines.zip(&mut sums).for_each(|((row, (line, &target)), (total, picked))| {
            *total = log_add_exp(*total, log_sum_exp(line));
            if part.contains(&(target as usize)) {
                *picked += hard * line[target as usize - part.start];
            }
            if let Some(soft) = &soft {
                let drawn_to = soft.of_part(row, part).map(|(at, share)| share * line[at]);
                *picked += soft.weight * drawn_to.sum::<f32>();
            }
        });
    }
    // Backwards: the logits of the last part are still there.
    for (i, part) in parts.iter().enumerate().rev() {
        let logits = &mut logits[..rows * part.len()];
        let last = i + 1 == parts.len();
        if !last {
            fill(logits, part);
        }
        let lines = logits.par_chunks_mut(part.len()).zip(targets).enumerate();
        lines.zip(&sums).for_each(|((row, (line, &target)), &(total, _))| {
            probabilities(line, total, scale);
            if part.contains(&(target as usize)) {
                line[target as usize - part.start] -= hard * scale;
            }
            if let Some(soft) = &soft {
                for (at, share) in soft.of_part(row, part) {
                    line[at] -= soft.weight * scale * share;
                }
            }
        });
        let change = Mat::new(logits, rows, part.len());
        let update = if last { Update::Overwrite } else { Update::Add };
        let weight = weight.lines(part.clone());
        let mut view = MatMut::new(hidden_grad, rows, width);
        matmul(&mut view, change, weight, update, Threads::All, precision);
        if let Some(grad) = &mut weight_grad {
            let first = part.start.max(grad.first_row).min(part.end);
            let trained = change.columns_from(first - part.start);
            let lines =
                first.saturating_sub(grad.first_row)..part.end.saturating_sub(grad.first_row);
            let values = &mut grad.values[lines.start * width..lines.end * width];
            let mut view = MatMut::new(values, lines.len(), width);
            matmul(&mut view, trained.t(), hidden, grad.update, Threads::All, precision);
        }
    }
    sums.iter().map(|&(total, picked)| f64::from(total - picked)).sum()
}

/// Ids whose logits [`loss_and_gradients`] holds at a time.
pub(super) fn part_columns(rows: usize, vocab: usize) -> usize {
    (PART_BYTES / (rows.max(1) * size_of::<f32>())).max(MIN_PART_COLUMNS).min(vocab)
}

/// `ln(exp(a) + exp(b))` of a finite `b`.
fn log_add_exp(a: f32, b: f32) -> f32 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f32::NEG_INFINITY { high } else { high + Float::exp(low - high).ln_1p() }
}

/// The gradient of the rows of a weight from `first_row` on, and whether there is something to add to.
#[derive(Debug)]
pub(crate) struct WeightGrad<'a> {
    /// (rows - `first_row`, width)
    pub(crate) values: &'a mut [f32],
    pub(crate) first_row: usize,
    pub(crate) update: Update,
}

impl<'a> WeightGrad<'a> {
    /// The gradient of some rows of the weight, counted from the first of them.
    pub(super) fn lines(self, lines: &Range<usize>, width: usize) -> WeightGrad<'a> {
        let values = self.values;
        let part = lines.start.saturating_sub(self.first_row) * width
            ..lines.end.saturating_sub(self.first_row) * width;
        let first_row = self.first_row.saturating_sub(lines.start).min(lines.len());
        WeightGrad { values: &mut values[part], first_row, update: self.update }
    }
}

/// Turns logits into `grad * (probabilities - one_hot(target))`.
fn logits_gradient<T: Float>(row: &mut [T], target: usize, loss: T, grad: T) {
    // The loss is log-sum-exp minus the target's logit, so it need not be summed again.
    probabilities(row, loss + row[target], grad);
    row[target] -= grad;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check, fused_equals_composed, random, same_on_any_threads, values};

    #[test]
    fn values_and_gradients() {
        check(&[random((5, 7), 1), random((11, 7), 2)], |t| {
            cross_entropy(&t[0], &t[1], &[0, 10, 3, 3, 5], Precision::Full)
        });
    }

    #[test]
    fn several_chunks_add_up() {
        let (n, vocab) = (70, 40_000);
        assert!(n > chunk_rows::<f32>(vocab));
        let targets: Vec<u32> = (0..n as u32).map(|i| i * 37 % vocab as u32).collect();
        fused_equals_composed(&[random((n, 3), 1), random((vocab, 3), 2)], |t| {
            cross_entropy(&t[0], &t[1], &targets, Precision::Full)
        });
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let targets: Vec<u32> = (0..90).map(|i| i * 37 % 40_000).collect();
        same_on_any_threads(&[random((90, 16), 1), random((40_000, 16), 2)], |t| {
            cross_entropy(&t[0], &t[1], &targets, Precision::Full)
        });
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let losses = cross_entropy(
            &random((2, 3), 1),
            &(random((8, 3), 2) * 0.0).unwrap(),
            &[1, 7],
            Precision::Full,
        );
        for loss in values(&losses.unwrap()) {
            assert!((loss - 8f64.ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn a_target_beyond_the_vocabulary_is_named() {
        let error = cross_entropy(&random((1, 3), 1), &random((8, 3), 2), &[8], Precision::Full)
            .unwrap_err();
        assert!(error.to_string().contains("id 8"), "{error}");
    }
}
