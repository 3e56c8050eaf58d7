//! Matrix product with a weight.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail,
};

use super::cpu::{self, with_float};
use super::cuda::{self, View};
use super::fused;
use super::kernels::{Float, Mat, MatMut, Precision, Threads, Update, matmul};

/// `x * w^T`.
///
/// # Shapes
/// - `x`: (tokens, in)
/// - `w`: (out, in), as checkpoints store it
/// - output: (tokens, out)
///
/// With [`Precision::Bf16`] f32 values are rounded to bf16 before they are multiplied, on a GPU and where the processor
/// has the instructions for it; so are the values of both gradients' products.
pub fn linear(x: &Tensor, w: &Tensor, precision: Precision) -> Result<Tensor> {
    let ((_, x_in), (_, w_in)) = (x.dims2()?, w.dims2()?);
    if x_in != w_in {
        bail!("linear: x {:?} and w {:?} differ in their last dimension", x.dims(), w.dims());
    }
    if fused(&[x, w]) {
        x.contiguous()?.apply_op2(&w.contiguous()?, Linear { precision })
    } else {
        composed_linear(x, w)
    }
}

fn composed_linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

struct Linear {
    precision: Precision,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((tokens, inner), (out, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
        with_float!(x.dtype(), T => {
            let x = Mat::new(cpu::slice::<T>(x, x_layout)?, tokens, inner);
            let w = Mat::new(cpu::slice(w, w_layout)?, out, inner);
            let y = product(x, w.t(), tokens, out, self.precision);
            Ok((T::to_cpu_storage_owned(y), (tokens, out).into()))
        })
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        w: &CudaStorage,
        w_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let ((tokens, _), (out, _)) = (x_layout.shape().dims2()?, w_layout.shape().dims2()?);
        let (x, w) = (View::new(x, x_layout), View::new(w, w_layout));
        Ok((cuda::linear(x, w, self.precision)?, (tokens, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ((tokens, inner), (out, _)) = (x.dims2()?, w.dims2()?);
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            return cuda::linear_backward(x, w, &grad, self.precision);
        }
        let (x_values, w_values, grad) = (cpu::values(x), cpu::values(w), cpu::values(&grad));
        with_float!(x.dtype(), T => {
            let grad = Mat::new(grad.slice::<T>()?, tokens, out);
            let mut grads = (None, None);
            if x.track_op() {
                let w = Mat::new(w_values.slice()?, out, inner);
                grads.0 = Some(cpu::tensor(product(grad, w, tokens, inner, self.precision), (tokens, inner))?);
            }
            if w.track_op() {
                let x = Mat::new(x_values.slice()?, tokens, inner);
                grads.1 = Some(cpu::tensor(product(grad.t(), x, out, inner, self.precision), (out, inner))?);
            }
            Ok(grads)
        })
    }
}

fn product<T: Float>(
    lhs: Mat<'_, T>,
    rhs: Mat<'_, T>,
    rows: usize,
    cols: usize,
    precision: Precision,
) -> Vec<T> {
    let mut out = vec![T::zero(); rows * cols];
    let mut view = MatMut::new(&mut out, rows, cols);
    matmul(&mut view, lhs, rhs, Update::Overwrite, Threads::All, precision);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{check, random, same_on_any_threads};

    #[test]
    fn values_and_gradients() {
        for (tokens, inner, out) in [(5, 7, 3), (1, 17, 4), (19, 1, 2)] {
            let inputs = [random((tokens, inner), 1), random((out, inner), 2)];
            check(&inputs, |t| linear(&t[0], &t[1], Precision::Full));
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        same_on_any_threads(&[random((700, 130), 1), random((97, 130), 2)], |t| {
            linear(&t[0], &t[1], Precision::Full)
        });
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let x = random((150, 64), 1).to_dtype(candle_core::DType::F32).unwrap();
        let w = random((96, 64), 2).to_dtype(candle_core::DType::F32).unwrap();
        let all = linear(&x, &w, Precision::Full).unwrap().narrow(0, 40, 3).unwrap();
        let few = linear(&x.narrow(0, 40, 3).unwrap(), &w, Precision::Full).unwrap();
        let gap = (all - few).unwrap().abs().unwrap().max_all().unwrap();
        assert!(gap.to_scalar::<f32>().unwrap() < 1e-5);
    }

    #[test]
    fn unequal_inner_sizes_are_named() {
        let error = linear(&random((2, 3), 1), &random((2, 4), 2), Precision::Full)
            .unwrap_err()
            .to_string();
        assert!(error.contains("[2, 3]") && error.contains("[2, 4]"), "{error}");
    }
}
