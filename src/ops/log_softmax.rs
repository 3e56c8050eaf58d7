//! Log-probabilities for inference.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, Layout, Result, Shape, Tensor, WithDType,
};
use rayon::prelude::*;

use super::cpu::{self, with_float};
use super::cuda::{self, View};
use super::fused;
use super::kernels::{Float, max, sum_of, vectorize};

/// The logarithm of the softmax over each row. Takes no part in the gradient.
///
/// # Shapes
/// - `logits`, output: (rows, choices)
pub fn log_softmax_rows(logits: &Tensor) -> Result<Tensor> {
    logits.dims2()?;
    let logits = logits.detach();
    if fused(&[&logits]) {
        logits.contiguous()?.apply_op1(LogSoftmax)
    } else {
        composed_log_softmax_rows(&logits)
    }
}

fn composed_log_softmax_rows(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// The logarithm of the sum of each row's exponentials. Takes no part in the gradient.
///
/// # Shapes
/// - `logits`: (rows, choices), at least one choice
/// - output: (rows, 1)
pub fn log_sum_exp_rows(logits: &Tensor) -> Result<Tensor> {
    logits.dims2()?;
    let logits = logits.detach();
    if fused(&[&logits]) {
        logits.contiguous()?.apply_op1(LogSumExp)
    } else {
        logits.log_sum_exp(D::Minus1)?.unsqueeze(1)
    }
}

struct LogSumExp;

impl CustomOp1 for LogSumExp {
    fn name(&self) -> &'static str {
        "log-sum-exp"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, choices) = layout.shape().dims2()?;
        with_float!(logits.dtype(), T => {
            let logits = cpu::slice::<T>(logits, layout)?;
            let sums = logits.par_chunks(choices.max(1)).map(log_sum_exp).collect();
            Ok((T::to_cpu_storage_owned(sums), (rows, 1).into()))
        })
    }

    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (rows, _) = layout.shape().dims2()?;
        Ok((cuda::log_sum_exp_rows(View::new(logits, layout))?, (rows, 1).into()))
    }
}

struct LogSoftmax;

impl CustomOp1 for LogSoftmax {
    fn name(&self) -> &'static str {
        "log-softmax"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, choices) = layout.shape().dims2()?;
        with_float!(logits.dtype(), T => {
            let mut out = cpu::slice::<T>(logits, layout)?.to_vec();
            if choices > 0 {
                out.par_chunks_mut(choices).for_each(|row| {
                    let total = log_sum_exp(row);
                    for v in row.iter_mut() {
                        *v -= total;
                    }
                });
            }
            Ok((T::to_cpu_storage_owned(out), layout.shape().clone()))
        })
    }

    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((cuda::log_softmax_rows(View::new(logits, layout))?, layout.shape().clone()))
    }
}

/// The logarithm of the sum of the exponentials.
pub(crate) fn log_sum_exp<T: Float>(row: &[T]) -> T {
    vectorize(
        #[inline(always)]
        || {
            let largest = max(row);
            largest
                + sum_of(
                    row,
                    #[inline(always)]
                    |v| (v - largest).exp(),
                )
                .ln()
        },
    )
}

/// Turns logits into `scale * probabilities`, from the logarithm of their summed exponentials.
pub(super) fn probabilities<T: Float>(row: &mut [T], total: T, scale: T) {
    vectorize(
        #[inline(always)]
        || {
            for v in row.iter_mut() {
                *v = scale * (*v - total).exp();
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{random, untrained, values};

    #[test]
    fn fused_equals_composed_and_sums_to_one() {
        for choices in [1, 7, 16, 257] {
            let logits = (random((5, choices), 1) * 10.0).unwrap();
            let fused = values(&log_softmax_rows(&logits).unwrap());
            for row in fused.chunks(choices) {
                assert!((row.iter().map(|v| v.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
            }
            untrained(&[logits], |t| log_softmax_rows(&t[0]));
        }
    }

    #[test]
    fn sums_of_exponentials_are_what_log_softmax_takes_away() {
        let t = (random((5, 37), 1) * 10.0).unwrap();
        let sums = values(&log_sum_exp_rows(&t).unwrap());
        let (shifted, logits) = (values(&log_softmax_rows(&t).unwrap()), values(&t));
        for (i, sum) in sums.iter().enumerate() {
            assert!((logits[i * 37] - shifted[i * 37] - sum).abs() < 1e-12);
        }
        untrained(&[t], |t| log_sum_exp_rows(&t[0]));
    }
}
