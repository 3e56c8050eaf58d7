//! Cross-entropy over a vocabulary without its logits ever being there all at once.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, D, Layout, Result, Shape, Tensor, WithDType, bail,
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
        let op = CrossEntropy { truth: Truth::One(targets.into()), precision };
        hidden.contiguous()?.apply_op2(&weight.contiguous()?, op)
    } else {
        composed_cross_entropy(hidden, weight, targets)
    }
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
    let ((n, width), (vocab, weight_width)) = (hidden.dims2()?, weight.dims2()?);
    if width != weight_width || n != chosen.len() {
        bail!(
            "binary_cross_entropy: hidden {:?}, weight {:?} and {} sets of ids",
            hidden.dims(),
            weight.dims(),
            chosen.len()
        );
    }
    for ids in &chosen {
        check_ids("binary_cross_entropy", ids, vocab)?;
    }
    if fused_on_cpu(&[hidden, weight]) {
        let op = CrossEntropy { truth: Truth::Several(chosen.into()), precision };
        hidden.contiguous()?.apply_op2(&weight.contiguous()?, op)
    } else {
        composed_binary_cross_entropy(hidden, weight, &chosen, precision)
    }
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
}

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
            let losses = self.forward(hidden, weight, (vocab, width));
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
        let mut losses = vec![T::zero(); self.truth.rows()];
        let mut logits = vec![T::zero(); rows.min(losses.len()) * vocab];
        for (chunk, losses) in losses.chunks_mut(rows).enumerate() {
            let (first, n) = (chunk * rows, losses.len());
            let logits = &mut logits[..n * vocab];
            let hidden = Mat::new(&hidden[first * width..(first + n) * width], n, width);
            let mut view = MatMut::new(logits, n, vocab);
            matmul(&mut view, hidden, weight.t(), Update::Overwrite, Threads::All, self.precision);
            let rows = losses.par_iter_mut().zip(logits.par_chunks(vocab.max(1))).enumerate();
            rows.for_each(|(i, (loss, logits))| *loss = self.truth.loss(first + i, logits));
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
        let count = self.truth.rows();
        let weight = Mat::new(weight, vocab, width);
        let mut weight_grad = weight_grad.map(|g| MatMut::new(g, vocab, width));
        let mut logits = vec![T::zero(); rows.min(count) * vocab];
        for first in (0..count).step_by(rows) {
            let n = rows.min(count - first);
            let logits = &mut logits[..n * vocab];
            let hidden = Mat::new(&hidden[first * width..(first + n) * width], n, width);
            let mut view = MatMut::new(logits, n, vocab);
            matmul(&mut view, hidden, weight.t(), Update::Overwrite, Threads::All, self.precision);
            logits.par_chunks_mut(vocab.max(1)).enumerate().for_each(|(i, logits)| {
                let row = first + i;
                self.truth.gradient(row, logits, losses[row], grad[row]);
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
    fn any_choice_of_the_vocabulary() {
        let chosen = [vec![0, 10], vec![], vec![3], vec![4, 3, 9], vec![5]];
        check(&[random((5, 7), 1), random((11, 7), 2)], |t| {
            binary_cross_entropy(&t[0], &t[1], chosen.to_vec(), Precision::Full)
        });
        let (n, vocab) = (70, 40_000);
        let mut chosen: Vec<Vec<u32>> = (0..n as u32).map(|i| vec![i, 39_999 - i * 37]).collect();
        let inputs = [random((n, 3), 1), random((vocab, 3), 2)];
        let losses =
            |t: &[Tensor]| binary_cross_entropy(&t[0], &t[1], chosen.clone(), Precision::Full);
        fused_equals_composed(&inputs, losses);
        same_on_any_threads(&inputs, losses);
        let refused = |chosen: &[Vec<u32>]| {
            let losses =
                binary_cross_entropy(&inputs[0], &inputs[1], chosen.to_vec(), Precision::Full);
            losses.unwrap_err().to_string()
        };
        assert!(refused(&chosen[1..]).contains("69 sets of ids"));
        chosen[3] = vec![vocab as u32];
        assert!(refused(&chosen).contains("id 40000"));
        let of_nothing = [random((2, 3), 1), random((0, 3), 2)];
        fused_equals_composed(&of_nothing, |t| {
            binary_cross_entropy(&t[0], &t[1], vec![vec![]; 2], Precision::Full)
        });
    }

    #[test]
    fn a_target_beyond_the_vocabulary_is_named() {
        let error = cross_entropy(&random((1, 3), 1), &random((8, 3), 2), &[8], Precision::Full)
            .unwrap_err();
        assert!(error.to_string().contains("id 8"), "{error}");
    }
}
