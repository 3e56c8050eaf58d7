//! Matrix product with a frozen weight and a low-rank update beside it (LoRA, Hu et al., 2021).

use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail,
};

use super::cuda::{self, LoraInputs, View};
use super::dropout::Mask;
use super::kernels::Precision;
use super::{dropout, fused, linear};

/// What an adapter adds to a linear layer.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// (rank, in)
    pub a: &'a Tensor,
    /// (out, rank)
    pub b: &'a Tensor,
    /// What the update is multiplied by.
    pub scale: f64,
    /// The probability and key of the [`dropout()`] that falls on the adapter's input.
    pub dropout: Option<(f64, u64)>,
}

/// `x w^T + scale * dropout(x) a^T b^T`.
///
/// # Shapes
/// - `x`: (tokens, in)
/// - `w`: (out, in)
/// - output: (tokens, out)
///
/// On a GPU, where `w` is frozen, nothing of the update is kept for the backward pass.
///
/// # Errors
/// Shapes that do not fit each other, a dropout outside of [0, 1).
pub fn lora_linear(
    x: &Tensor,
    w: &Tensor,
    low_rank: LowRank<'_>,
    precision: Precision,
) -> Result<Tensor> {
    let LowRank { a, b, scale, dropout: dropped } = low_rank;
    let ((_, inner), (out, rank)) = (x.dims2()?, b.dims2()?);
    if w.dims() != [out, inner] || a.dims() != [rank, inner] {
        let [x, w, a, b] = [x, w, a, b].map(Tensor::dims);
        bail!("lora-linear: x {x:?}, w {w:?}, a {a:?} and b {b:?} do not fit each other");
    }
    let on_device = x.device().is_cuda() && w.device().same_device(x.device());
    if on_device && !w.track_op() && fused(&[x, w, a, b]) {
        let mask = match dropped {
            Some((p, key)) => Mask::new(p, key)?,
            None => None,
        };
        let op = LoraLinear { weight: w.contiguous()?, scale, mask, precision };
        return x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op);
    }
    let y = linear(x, w, precision)?;
    let x = match dropped {
        Some((p, key)) => dropout(x, p, key)?,
        None => x.clone(),
    };
    let update = linear(&linear(&x, a, precision)?, b, precision)?;
    y + (update * scale)?
}

/// On a GPU, with a frozen weight.
struct LoraLinear {
    weight: Tensor,
    scale: f64,
    mask: Option<Mask>,
    precision: Precision,
}

impl LoraLinear {
    fn with_inputs<R>(
        &self,
        [x, a, b]: [View<'_>; 3],
        use_them: impl FnOnce(LoraInputs<'_>) -> Result<R>,
    ) -> Result<R> {
        let (weight, layout) = self.weight.storage_and_layout();
        let Storage::Cuda(weight) = &*weight else { bail!("lora-linear: a weight on the CPU") };
        let (weight, mask) = (View::new(weight, layout), self.mask.as_ref());
        use_them(LoraInputs { x, weight, a, b, scale: self.scale, mask, precision: self.precision })
    }
}

impl CustomOp3 for LoraLinear {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("lora-linear is for tensors on a GPU")
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        a: &CudaStorage,
        a_layout: &Layout,
        b: &CudaStorage,
        b_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = (x_layout.shape().dims2()?.0, self.weight.dim(0)?);
        let inputs = [View::new(x, x_layout), View::new(a, a_layout), View::new(b, b_layout)];
        Ok((self.with_inputs(inputs, |inputs| cuda::lora_linear(&inputs))?, shape.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let tracked = [x, a, b].map(Tensor::track_op);
        let [x_grad, a_grad, b_grad] =
            cuda::with_views([x, a, b, &grad], |[x_view, a_view, b_view, grad]| {
                self.with_inputs([x_view, a_view, b_view], |inputs| {
                    cuda::lora_linear_backward(&inputs, grad, tracked)
                })
            })?;
        let shaped = |grad: Option<CudaStorage>, like: &Tensor| {
            grad.map(|grad| cuda::tensor(grad, like.shape()))
        };
        Ok((shaped(x_grad, x), shaped(a_grad, a), shaped(b_grad, b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{beside, check, random};

    #[test]
    fn values_and_gradients() {
        for dropout in [None, Some((0.3, 11))] {
            let inputs = [random((5, 7), 1), random((2, 7), 2), random((3, 2), 3)];
            check(&inputs, |t| {
                let weight = beside(&random((3, 7), 4), &t[0])?;
                let low_rank = LowRank { a: &t[1], b: &t[2], scale: 1.5, dropout };
                lora_linear(&t[0], &weight, low_rank, Precision::Full)
            });
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        let right = [(5, 7), (3, 7), (2, 7), (3, 2)];
        for (wrong, shape) in [(1, (3, 6)), (1, (4, 7)), (2, (2, 4)), (3, (2, 2)), (3, (3, 1))] {
            let mut shapes = right;
            shapes[wrong] = shape;
            let [x, w, a, b] = shapes.map(|shape| random(shape, 1));
            let low_rank = LowRank { a: &a, b: &b, scale: 1.0, dropout: None };
            let error = lora_linear(&x, &w, low_rank, Precision::Full).unwrap_err().to_string();
            assert!(error.contains("do not fit"), "{error}");
        }
    }

    #[test]
    fn a_weight_that_is_trained_has_its_gradient() {
        let inputs = [random((5, 7), 1), random((3, 7), 4), random((2, 7), 2), random((3, 2), 3)];
        check(&inputs, |t| {
            let low_rank = LowRank { a: &t[2], b: &t[3], scale: 0.5, dropout: None };
            lora_linear(&t[0], &t[1], low_rank, Precision::Full)
        });
    }
}
