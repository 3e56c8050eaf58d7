//! Root-mean-square normalisation (Zhang and Sennrich, 2019, equation 4).

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, D, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::cpu::{self, with_float, zeros_if};
use super::cuda::{self, View};
use super::fused;
use super::kernels::{Float, Stored, dot, vectorize};

/// Rows a task works on. Fixed, as the weight gradient is summed by blocks.
const BLOCK: usize = 64;

/// `weight * x / sqrt(mean(x^2) + eps)`, the mean over each row.
///
/// # Shapes
/// - `x`: (tokens, hidden)
/// - `weight`: (hidden)
/// - output: (tokens, hidden)
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let ((_, hidden), weights) = (x.dims2()?, weight.dims1()?);
    if hidden != weights || hidden == 0 {
        bail!("rms_norm: rows of {hidden} values and {weights} weights");
    }
    if fused(&[x, weight]) {
        x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })
    } else {
        composed_rms_norm(x, weight, eps)
    }
}

fn composed_rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)
}

struct RmsNorm {
    eps: f64,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_float!(x.dtype(), T => {
            let (x, weight) = (cpu::slice::<T>(x, x_layout)?, cpu::slice(weight, weight_layout)?);
            let mut y = vec![T::default(); x.len()];
            forward(&mut y, x, weight, T::from_f64(self.eps));
            Ok((T::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (x, weight) = (View::new(x, x_layout), View::new(weight, weight_layout));
        Ok((cuda::rms_norm(x, weight, self.eps)?, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            return cuda::rms_norm_backward(x, weight, &grad, self.eps);
        }
        let (x_values, weight_values, grad) =
            (cpu::values(x), cpu::values(weight), cpu::values(&grad));
        with_float!(x.dtype(), T => {
            let mut x_grad = zeros_if(x.track_op(), x.elem_count());
            let weight_grad = backward::<T>(
                [x_values.slice()?, weight_values.slice()?, grad.slice()?],
                T::from_f64(self.eps),
                x_grad.as_deref_mut(),
                weight.track_op(),
            );
            Ok((
                x_grad.map(|g| cpu::tensor(g, x.shape())).transpose()?,
                weight_grad.map(|g| cpu::tensor(g, weight.shape())).transpose()?,
            ))
        })
    }
}

pub(super) fn forward<S: Stored>(y: &mut [S], x: &[S::Wide], weight: &[S::Wide], eps: S::Wide) {
    let hidden = weight.len();
    y.par_chunks_mut(BLOCK * hidden).zip(x.par_chunks(BLOCK * hidden)).for_each(|(y, x)| {
        vectorize(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
                    let scale = inverse_rms(x, eps);
                    for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
                        *y = S::narrow(x * scale * w);
                    }
                }
            },
        );
    });
}

#[inline(always)]
fn inverse_rms<T: Float>(x: &[T], eps: T) -> T {
    T::one() / (dot(x, x) / T::from_f64(x.len() as f64) + eps).sqrt()
}

/// Adds to the gradient of `x` and returns that of the weight, where wanted.
pub(super) fn backward<T: Float>(
    [x, weight, grad]: [&[T]; 3],
    eps: T,
    x_grad: Option<&mut [T]>,
    weight_tracked: bool,
) -> Option<Vec<T>> {
    let hidden = weight.len();
    let size = BLOCK * hidden;
    let partials: Vec<Option<Vec<T>>> = if let Some(x_grad) = x_grad {
        x_grad
            .par_chunks_mut(size)
            .zip(x.par_chunks(size).zip(grad.par_chunks(size)))
            .map(|(x_grad, (x, grad))| {
                x_backward([x, weight, grad], eps, x_grad);
                weight_tracked.then(|| weight_backward([x, grad], hidden, eps))
            })
            .collect()
    } else {
        x.par_chunks(size)
            .zip(grad.par_chunks(size))
            .map(|(x, grad)| weight_tracked.then(|| weight_backward([x, grad], hidden, eps)))
            .collect()
    };
    weight_tracked.then(|| {
        let mut total = vec![T::zero(); hidden];
        for partial in partials.iter().flatten() {
            for (t, &p) in total.iter_mut().zip(partial) {
                *t += p;
            }
        }
        total
    })
}

fn x_backward<T: Float>([x, weight, grad]: [&[T]; 3], eps: T, x_grad: &mut [T]) {
    let hidden = weight.len();
    vectorize(
        #[inline(always)]
        || {
            let mut weighted = vec![T::zero(); hidden];
            let rows = x.chunks_exact(hidden).zip(grad.chunks_exact(hidden));
            for (x_grad, (x, grad)) in x_grad.chunks_exact_mut(hidden).zip(rows) {
                let scale = inverse_rms(x, eps);
                for ((wg, &w), &g) in weighted.iter_mut().zip(weight).zip(grad) {
                    *wg = w * g;
                }
                let pull = dot(&weighted, x) * scale * scale / T::from_f64(hidden as f64);
                for ((out, &wg), &x) in x_grad.iter_mut().zip(&weighted).zip(x) {
                    *out += scale * (wg - x * pull);
                }
            }
        },
    );
}

fn weight_backward<T: Float>([x, grad]: [&[T]; 2], hidden: usize, eps: T) -> Vec<T> {
    let mut total = vec![T::zero(); hidden];
    vectorize(
        #[inline(always)]
        || {
            for (x, grad) in x.chunks_exact(hidden).zip(grad.chunks_exact(hidden)) {
                let scale = inverse_rms(x, eps);
                for ((t, &x), &g) in total.iter_mut().zip(x).zip(grad) {
                    *t += g * x * scale;
                }
            }
        },
    );
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check, random, same_on_any_threads};

    #[test]
    fn values_and_gradients() {
        for (tokens, hidden) in [(3, 7), (1, 33), (70, 5)] {
            check(&[random((tokens, hidden), 1), random(hidden, 2)], |t| {
                rms_norm(&t[0], &t[1], 1e-5)
            });
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        same_on_any_threads(&[random((301, 24), 1), random(24, 2)], |t| {
            rms_norm(&t[0], &t[1], 1e-5)
        });
    }

    #[test]
    fn a_row_of_equal_values_becomes_the_weight() {
        let y = rms_norm(
            &Tensor::full(3.0, (1, 4), &candle_core::Device::Cpu).unwrap(),
            &random(4, 2),
            0.0,
        );
        let gap = (y.unwrap().squeeze(0).unwrap() - random(4, 2)).unwrap().abs().unwrap();
        assert!(gap.max_all().unwrap().to_scalar::<f64>().unwrap() < 1e-12);
    }
}
