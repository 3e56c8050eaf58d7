//! Layer normalisation (Ba et al., 2016).

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

use super::cpu::{self, with_float, zeros_if};
use super::fused_on_cpu;
use super::kernels::{Float, dot, sum_of, vectorize};

/// Rows a task works on. Fixed, as the gradients of weight and bias are summed by blocks.
const BLOCK: usize = 64;

/// `weight * (x - mean) / sqrt(variance + eps) + bias`, mean and (biased) variance over each row.
///
/// # Shapes
/// - `x`: (tokens, hidden)
/// - `weight`, `bias`: (hidden)
/// - output: (tokens, hidden)
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let ((_, hidden), weights, biases) = (x.dims2()?, weight.dims1()?, bias.dims1()?);
    if hidden != weights || hidden != biases || hidden == 0 {
        bail!("layer_norm: rows of {hidden} values, {weights} weights and {biases} biases");
    }
    if fused_on_cpu(&[x, weight, bias]) {
        x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps })
    } else {
        composed_layer_norm(x, weight, bias, eps)
    }
}

fn composed_layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centered.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normed.broadcast_mul(weight)?.broadcast_add(bias)
}

struct LayerNorm {
    eps: f64,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_float!(x.dtype(), T => {
            let x = cpu::slice::<T>(x, x_layout)?;
            let (weight, bias) = (cpu::slice(weight, weight_layout)?, cpu::slice(bias, bias_layout)?);
            let mut y = vec![T::default(); x.len()];
            forward(&mut y, x, [weight, bias], T::from_f64(self.eps));
            Ok((T::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (x_values, weight_values, grad) =
            (cpu::values(x), cpu::values(weight), cpu::values(&grad));
        with_float!(x.dtype(), T => {
            let inputs = [x_values.slice::<T>()?, weight_values.slice()?, grad.slice()?];
            let eps = T::from_f64(self.eps);
            let mut x_grad = zeros_if(x.track_op(), x.elem_count());
            if let Some(x_grad) = &mut x_grad {
                x_backward(inputs, eps, x_grad);
            }
            let [weight_grad, bias_grad] = if weight.track_op() || bias.track_op() {
                affine_backward([inputs[0], inputs[2]], weight.elem_count(), eps).map(Some)
            } else {
                [None, None]
            };
            let like_weight = |grad: Option<Vec<T>>, of: &Tensor| {
                grad.filter(|_| of.track_op()).map(|g| cpu::tensor(g, of.shape())).transpose()
            };
            Ok((
                x_grad.map(|g| cpu::tensor(g, x.shape())).transpose()?,
                like_weight(weight_grad, weight)?,
                like_weight(bias_grad, bias)?,
            ))
        })
    }
}

/// The mean of a row and the inverse of its standard deviation.
#[inline(always)]
fn moments<T: Float>(x: &[T], eps: T) -> (T, T) {
    let count = T::from_f64(x.len() as f64);
    let mean = sum_of(x, |v| v) / count;
    let variance = sum_of(x, |v| (v - mean) * (v - mean)) / count;
    (mean, T::one() / (variance + eps).sqrt())
}

fn forward<T: Float>(y: &mut [T], x: &[T], [weight, bias]: [&[T]; 2], eps: T) {
    let hidden = weight.len();
    y.par_chunks_mut(BLOCK * hidden).zip(x.par_chunks(BLOCK * hidden)).for_each(|(y, x)| {
        vectorize(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
                    let (mean, scale) = moments(x, eps);
                    for ((y, &x), (&w, &b)) in y.iter_mut().zip(x).zip(weight.iter().zip(bias)) {
                        *y = (x - mean) * scale * w + b;
                    }
                }
            },
        );
    });
}

/// Overwrites the gradient of `x`.
fn x_backward<T: Float>([x, weight, grad]: [&[T]; 3], eps: T, x_grad: &mut [T]) {
    let hidden = weight.len();
    let size = BLOCK * hidden;
    let blocks = x_grad.par_chunks_mut(size).zip(x.par_chunks(size).zip(grad.par_chunks(size)));
    blocks.for_each(|(x_grad, (x, grad))| {
        vectorize(
            #[inline(always)]
            || {
                let count = T::from_f64(hidden as f64);
                let (mut normed, mut weighted) = (vec![T::zero(); hidden], vec![T::zero(); hidden]);
                let rows = x.chunks_exact(hidden).zip(grad.chunks_exact(hidden));
                for (x_grad, (x, grad)) in x_grad.chunks_exact_mut(hidden).zip(rows) {
                    let (mean, scale) = moments(x, eps);
                    for (n, &x) in normed.iter_mut().zip(x) {
                        *n = (x - mean) * scale;
                    }
                    for ((wg, &w), &g) in weighted.iter_mut().zip(weight).zip(grad) {
                        *wg = w * g;
                    }
                    let push = sum_of(&weighted, |v| v) / count;
                    let pull = dot(&weighted, &normed) / count;
                    for ((out, &wg), &n) in x_grad.iter_mut().zip(&weighted).zip(&normed) {
                        *out = scale * (wg - push - n * pull);
                    }
                }
            },
        );
    });
}

/// The gradients of weight and bias.
fn affine_backward<T: Float>([x, grad]: [&[T]; 2], hidden: usize, eps: T) -> [Vec<T>; 2] {
    let size = BLOCK * hidden;
    let of_block = |(x, grad): (&[T], &[T])| {
        let (mut weight, mut bias) = (vec![T::zero(); hidden], vec![T::zero(); hidden]);
        vectorize(
            #[inline(always)]
            || {
                for (x, grad) in x.chunks_exact(hidden).zip(grad.chunks_exact(hidden)) {
                    let (mean, scale) = moments(x, eps);
                    let sums = weight.iter_mut().zip(&mut bias);
                    for ((w, b), (&x, &g)) in sums.zip(x.iter().zip(grad)) {
                        *w += g * (x - mean) * scale;
                        *b += g;
                    }
                }
            },
        );
        [weight, bias]
    };
    let partials: Vec<[Vec<T>; 2]> =
        x.par_chunks(size).zip(grad.par_chunks(size)).map(of_block).collect();
    let mut totals = [vec![T::zero(); hidden], vec![T::zero(); hidden]];
    for partial in &partials {
        for (total, part) in totals.iter_mut().zip(partial) {
            for (t, &p) in total.iter_mut().zip(part) {
                *t += p;
            }
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check, random, same_on_any_threads, values};

    #[test]
    fn values_and_gradients() {
        for (tokens, hidden) in [(3, 7), (2, 33), (70, 5)] {
            check(&[random((tokens, hidden), 1), random(hidden, 2), random(hidden, 3)], |t| {
                layer_norm(&t[0], &t[1], &t[2], 1e-5)
            });
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        same_on_any_threads(&[random((301, 24), 1), random(24, 2), random(24, 3)], |t| {
            layer_norm(&t[0], &t[1], &t[2], 1e-5)
        });
    }

    #[test]
    fn rows_come_out_with_mean_zero_and_variance_one() {
        let x = ((random((4, 50), 1) * 3.0).unwrap() + 7.0).unwrap();
        let (ones, zeros) =
            (random(50, 2).ones_like().unwrap(), random(50, 2).zeros_like().unwrap());
        for row in values(&layer_norm(&x, &ones, &zeros, 0.0).unwrap()).chunks(50) {
            let mean = row.iter().sum::<f64>() / 50.0;
            let variance = row.iter().map(|v| v * v).sum::<f64>() / 50.0;
            assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12, "{mean} {variance}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let error = layer_norm(&random((2, 3), 1), &random(3, 2), &random(4, 3), 1e-5).unwrap_err();
        assert!(error.to_string().contains("3 weights and 4 biases"), "{error}");
    }
}
