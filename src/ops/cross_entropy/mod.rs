//! Cross-entropy over a vocabulary without its logits ever being there all at once.

use std::any::Any;
use std::sync::{Arc, Mutex};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor, WithDType,
    bail,
};
use rayon::prelude::*;

use super::activation::{sigmoid_of, softplus, softplus_of};
use super::cpu::{self, with_float, zeros_if};
use super::cuda::{self, View};
use super::embedding::check_ids;
use super::kernels::{Float, Mat, MatMut, Precision, Threads, Update, matmul, sum_of, vectorize};
use super::log_softmax::{log_sum_exp, probabilities};
use super::{fused, fused_on_cpu, linear};

/// Bytes of logits held at a time.
const CHUNK_BYTES: usize = 8 << 20;
/// Rows a chunk has at least: each chunk reads the whole weight and adds to its whole gradient.
const MIN_CHUNK_ROWS: usize = 64;

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
    let vocab = check_shapes("cross_entropy", hidden, weight, targets.len(), "targets")?;
    check_ids("cross_entropy", targets, vocab)?;
    if fused(&[hidden, weight]) {
        let op = CrossEntropy::new(Truth::One(targets.into()), precision, &[hidden, weight]);
        hidden.contiguous()?.apply_op2(&weight.contiguous()?, op)
    } else {
        composed_cross_entropy(hidden, weight, targets)
    }
}

/// [`cross_entropy`] under softmax(`hidden` * `weight`^T + `bias`).
///
/// # Shapes
/// - `bias`: (vocab)
/// - the others as there
///
/// # Errors
/// As there.
pub fn biased_cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    targets: &[u32],
    precision: Precision,
) -> Result<Tensor> {
    let vocab = check_shapes("cross_entropy", hidden, weight, targets.len(), "targets")?;
    if bias.dims() != [vocab] {
        bail!("cross_entropy: weight {:?} and bias {:?}", weight.dims(), bias.dims());
    }
    if fused_on_cpu(&[hidden, weight, bias]) {
        check_ids("cross_entropy", targets, vocab)?;
        let tensors = [hidden, weight, bias];
        let op = CrossEntropy::new(Truth::One(targets.into()), precision, &tensors);
        return hidden.contiguous()?.apply_op3(
            &weight.contiguous()?,
            &bias.contiguous()?,
            Biased(op),
        );
    }
    // One column more, in which the bias is held against ones.
    let ones = Tensor::ones((targets.len(), 1), hidden.dtype(), hidden.device())?;
    let weight = Tensor::cat(&[weight, &bias.unsqueeze(1)?], 1)?;
    cross_entropy(&Tensor::cat(&[hidden, &ones], 1)?, &weight, targets, precision)
}

/// The negative log-likelihood of each row's choice among the whole vocabulary, where an id is chosen with the
/// probability sigmoid(`hidden` * `weight`^T) whatever else is.
///
/// # Shapes
/// - `hidden`: (n, hidden)
/// - `weight`: (vocab, hidden)
/// - `chosen`: n sets of ids, each id once
/// - output: (n)
///
/// `precision` is that of the products, as in [`linear`].
///
/// # Errors
/// Shapes that do not fit, or an id that is not below the vocabulary size.
pub fn binary_cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    chosen: Vec<Vec<u32>>,
    precision: Precision,
) -> Result<Tensor> {
    let vocab = check_shapes("binary_cross_entropy", hidden, weight, chosen.len(), "sets of ids")?;
    for ids in &chosen {
        check_ids("binary_cross_entropy", ids, vocab)?;
    }
    if fused_on_cpu(&[hidden, weight]) {
        let op = CrossEntropy::new(Truth::Several(chosen.into()), precision, &[hidden, weight]);
        hidden.contiguous()?.apply_op2(&weight.contiguous()?, op)
    } else {
        composed_binary_cross_entropy(hidden, weight, &chosen, precision)
    }
}

/// The size of the vocabulary, where `hidden` (n, hidden) and `weight` (vocab, hidden) fit each other and the n `count`.
fn check_shapes(
    name: &str,
    hidden: &Tensor,
    weight: &Tensor,
    count: usize,
    of_what: &str,
) -> Result<usize> {
    let ((n, width), (vocab, weight_width)) = (hidden.dims2()?, weight.dims2()?);
    if width != weight_width || n != count {
        let (hidden, weight) = (hidden.dims(), weight.dims());
        bail!("{name}: hidden {hidden:?}, weight {weight:?} and {count} {of_what}");
    }
    Ok(vocab)
}

fn composed_binary_cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    chosen: &[Vec<u32>],
    precision: Precision,
) -> Result<Tensor> {
    let logits = linear(hidden, weight, precision)?;
    let mut truth = vec![0f32; logits.elem_count()];
    for (row, ids) in truth.chunks_mut(weight.dim(0)?.max(1)).zip(chosen) {
        for &id in ids {
            row[id as usize] = 1.0;
        }
    }
    let truth = Tensor::from_vec(truth, logits.shape(), logits.device())?;
    (softplus(&logits)? - (logits * truth.to_dtype(hidden.dtype())?)?)?.sum(D::Minus1)
}

fn composed_cross_entropy(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let logits = linear(hidden, weight, Precision::Full)?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let total = shifted.exp()?.sum(D::Minus1)?.log()?;
    total - shifted.gather(&targets, 1)?.squeeze(1)?
}

struct CrossEntropy {
    truth: Truth,
    precision: Precision,
    /// Whether a backward pass may follow.
    tracked: bool,
    /// For such a pass, where all logits were there at once: the gradient that each row's loss has in its logits, a
    /// vector of the type of the inputs.
    kept: Mutex<Option<Box<dyn Any + Send>>>,
}

/// With a bias as its third input, on the CPU.
struct Biased(CrossEntropy);

/// What is true of each row.
enum Truth {
    /// One id of all.
    One(Arc<[u32]>),
    /// Any ids.
    Several(Arc<[Vec<u32>]>),
}

impl Truth {
    fn rows(&self) -> usize {
        match self {
            Self::One(targets) => targets.len(),
            Self::Several(chosen) => chosen.len(),
        }
    }

    /// The loss of a row with these logits.
    fn loss<T: Float>(&self, row: usize, logits: &[T]) -> T {
        match self {
            Self::One(targets) => log_sum_exp(logits) - logits[targets[row] as usize],
            Self::Several(chosen) => {
                let all = vectorize(
                    #[inline(always)]
                    || sum_of(logits, softplus_of),
                );
                chosen[row].iter().fold(all, |loss, &id| loss - logits[id as usize])
            }
        }
    }

    /// Turns logits into `grad` times the gradient that the loss of a row has in them.
    fn gradient<T: Float>(&self, row: usize, logits: &mut [T], loss: T, grad: T) {
        match self {
            Self::One(targets) => {
                let target = targets[row] as usize;
                // The loss is log-sum-exp minus the target's logit, so it need not be summed again.
                probabilities(logits, loss + logits[target], grad);
                logits[target] -= grad;
            }
            Self::Several(chosen) => {
                vectorize(
                    #[inline(always)]
                    || {
                        for logit in logits.iter_mut() {
                            *logit = grad * sigmoid_of(*logit);
                        }
                    },
                );
                chosen[row].iter().for_each(|&id| logits[id as usize] -= grad);
            }
        }
    }

    /// The one true id of each row: what the paths of a GPU serve.
    fn targets(&self) -> Result<&[u32]> {
        match self {
            Self::One(targets) => Ok(targets),
            Self::Several(_) => bail!("binary-cross-entropy is fused on the CPU alone"),
        }
    }
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        match self.truth {
            Truth::One(_) => "cross-entropy",
            Truth::Several(_) => "binary-cross-entropy",
        }
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
            let losses = self.forward(hidden, weight, None);
            Ok((T::to_cpu_storage_owned(losses), self.truth.rows().into()))
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
        let losses = cuda::cross_entropy(hidden, weight, self.truth.targets()?, self.precision)?;
        Ok((losses, self.truth.rows().into()))
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
            return cuda::cross_entropy_backward(inputs, self.truth.targets()?, self.precision);
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
                None,
                [hidden_grad.as_deref_mut(), weight_grad.as_deref_mut(), None],
            );
            Ok((
                hidden_grad.map(|g| cpu::tensor(g, hidden.shape())).transpose()?,
                weight_grad.map(|g| cpu::tensor(g, weight.shape())).transpose()?,
            ))
        })
    }
}

impl CustomOp3 for Biased {
    fn name(&self) -> &'static str {
        "biased-cross-entropy"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Self(op) = self;
        let (vocab, width) = weight_layout.shape().dims2()?;
        with_float!(hidden.dtype(), T => {
            let hidden = cpu::slice::<T>(hidden, hidden_layout)?;
            let weight = Mat::new(cpu::slice(weight, weight_layout)?, vocab, width);
            let losses = op.forward(hidden, weight, Some(cpu::slice(bias, bias_layout)?));
            Ok((T::to_cpu_storage_owned(losses), op.truth.rows().into()))
        })
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        losses: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let held = [hidden, weight, losses, &grad].map(cpu::values);
        let bias_values = cpu::values(bias);
        with_float!(hidden.dtype(), T => {
            let mut grads = [hidden, weight, bias].map(|t| zeros_if(t.track_op(), t.elem_count()));
            let [hidden_values, weight_values, losses, grad] = &held;
            self.0.backward::<T>(
                [hidden_values.slice()?, weight_values.slice()?, losses.slice()?, grad.slice()?],
                weight.dims2()?,
                Some(bias_values.slice()?),
                grads.each_mut().map(Option::as_deref_mut),
            );
            let [hidden_grad, weight_grad, bias_grad] = grads;
            Ok((
                hidden_grad.map(|g| cpu::tensor(g, hidden.shape())).transpose()?,
                weight_grad.map(|g| cpu::tensor(g, weight.shape())).transpose()?,
                bias_grad.map(|g| cpu::tensor(g, bias.shape())).transpose()?,
            ))
        })
    }
}

/// Rows of a chunk. The number of threads has no part in it: chunks are summed one after another.
fn chunk_rows<T>(vocab: usize) -> usize {
    (CHUNK_BYTES / (vocab * size_of::<T>()).max(1)).max(MIN_CHUNK_ROWS)
}

/// Multiplies a line.
fn scale<T: Float>(line: &mut [T], by: T) {
    vectorize(
        #[inline(always)]
        || line.iter_mut().for_each(|value| *value *= by),
    );
}

/// Adds a vector to a line.
fn add<T: Float>(line: &mut [T], vector: &[T]) {
    vectorize(
        #[inline(always)]
        || {
            for (value, added) in line.iter_mut().zip(vector) {
                *value += *added;
            }
        },
    );
}

impl CrossEntropy {
    fn new(truth: Truth, precision: Precision, inputs: &[&Tensor]) -> Self {
        let tracked = inputs.iter().any(|input| input.track_op());
        Self { truth, precision, tracked, kept: Mutex::default() }
    }

    /// Fills `logits` for the rows of `hidden`.
    fn logits<T: Float>(
        &self,
        logits: &mut [T],
        hidden: Mat<'_, T>,
        weight: Mat<'_, T>,
        bias: Option<&[T]>,
    ) {
        let mut view = MatMut::new(logits, hidden.rows, weight.rows);
        matmul(&mut view, hidden, weight.t(), Update::Overwrite, Threads::All, self.precision);
        if let Some(bias) = bias {
            logits.par_chunks_mut(bias.len().max(1)).for_each(|logits| add(logits, bias));
        }
    }

    fn forward<T: Float>(&self, hidden: &[T], weight: Mat<'_, T>, bias: Option<&[T]>) -> Vec<T> {
        let (vocab, width) = (weight.rows, weight.cols);
        let rows = chunk_rows::<T>(vocab);
        let mut losses = vec![T::zero(); self.truth.rows()];
        let is_kept = self.tracked && losses.len() <= rows;
        let mut logits = vec![T::zero(); rows.min(losses.len()) * vocab];
        for (chunk, losses) in losses.chunks_mut(rows).enumerate() {
            let (first, n) = (chunk * rows, losses.len());
            let logits = &mut logits[..n * vocab];
            let hidden = Mat::new(&hidden[first * width..(first + n) * width], n, width);
            self.logits(logits, hidden, weight, bias);
            let rows = losses.par_iter_mut().zip(logits.par_chunks_mut(vocab.max(1))).enumerate();
            rows.for_each(|(i, (loss, logits))| {
                *loss = self.truth.loss(first + i, logits);
                if is_kept {
                    self.truth.gradient(first + i, logits, *loss, T::one());
                }
            });
        }
        if is_kept && let Ok(mut kept) = self.kept.lock() {
            *kept = Some(Box::new(logits));
        }
        losses
    }

    /// Adds to the gradients of hidden states, weight and bias, where wanted. Logits that were not all there at once are
    /// computed again, chunk by chunk.
    fn backward<T: Float>(
        &self,
        [hidden, weight, losses, grad]: [&[T]; 4],
        (vocab, width): (usize, usize),
        bias: Option<&[T]>,
        [mut hidden_grad, weight_grad, mut bias_grad]: [Option<&mut [T]>; 3],
    ) {
        let rows = chunk_rows::<T>(vocab);
        let count = self.truth.rows();
        let weight = Mat::new(weight, vocab, width);
        let mut weight_grad = weight_grad.map(|g| MatMut::new(g, vocab, width));
        let kept = self.kept.lock().ok().and_then(|mut kept| kept.take());
        let kept = kept.and_then(|kept| kept.downcast::<Vec<T>>().ok());
        let is_kept = kept.is_some();
        let mut logits =
            kept.map_or_else(|| vec![T::zero(); rows.min(count) * vocab], |kept| *kept);
        for first in (0..count).step_by(rows) {
            let n = rows.min(count - first);
            let logits = &mut logits[..n * vocab];
            let hidden = Mat::new(&hidden[first * width..(first + n) * width], n, width);
            if !is_kept {
                self.logits(logits, hidden, weight, bias);
            }
            logits.par_chunks_mut(vocab.max(1)).enumerate().for_each(|(i, logits)| {
                let row = first + i;
                if is_kept {
                    scale(logits, grad[row]);
                } else {
                    self.truth.gradient(row, logits, losses[row], grad[row]);
                }
            });
            if let Some(bias_grad) = &mut bias_grad {
                logits.chunks(vocab.max(1)).for_each(|change| add(bias_grad, change));
            }
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

#[cfg(test)]
mod tests;
