//! Rotary position embedding (Su et al., 2021), in the rotate-half layout of Hugging Face's Llama.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::cpu::{self, with_float};
use super::cuda::{self, View};
use super::fused;
use super::kernels::{Stored, vectorize};

/// Tokens a task works on.
const BLOCK: usize = 64;

/// Rotates the pairs (`x[i]`, `x[i + head_dim / 2]`) of every head by the angle of their token.
///
/// `cos` and `sin` are constants: no gradient reaches them.
///
/// # Shapes
/// - `x`: (tokens, heads, `head_dim`), `head_dim` even
/// - `cos`, `sin`: (tokens, `head_dim` / 2)
/// - output: (tokens, heads, `head_dim`)
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, _, head_dim) = x.dims3()?;
    let expected = (tokens, head_dim / 2);
    if !head_dim.is_multiple_of(2) || cos.dims2()? != expected || sin.dims2()? != expected {
        bail!("rope: x {:?} with cos {:?} and sin {:?}", x.dims(), cos.dims(), sin.dims());
    }
    let (cos, sin) = (cos.detach(), sin.detach());
    if fused(&[x, &cos, &sin]) {
        x.contiguous()?.apply_op3(&cos.contiguous()?, &sin.contiguous()?, Rope)
    } else {
        composed_rope(x, &cos, &sin)
    }
}

fn composed_rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (first, second) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    // (tokens, half) -> (tokens, 1, half)
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let rotated_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let rotated_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[rotated_first, rotated_second], 2)
}

struct Rope;

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, heads, head_dim) = x_layout.shape().dims3()?;
        with_float!(x.dtype(), T => {
            let (cos, sin) = (cpu::slice::<T>(cos, cos_layout)?, cpu::slice(sin, sin_layout)?);
            let mut y = cpu::slice(x, x_layout)?.to_vec();
            rotate(&mut y, [cos, sin], (heads, head_dim), 1.0);
            Ok((T::to_cpu_storage_owned(y), x_layout.shape().clone()))
        })
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        cos: &CudaStorage,
        cos_layout: &Layout,
        sin: &CudaStorage,
        sin_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (cos, sin) = (View::new(cos, cos_layout), View::new(sin, sin_layout));
        Ok((cuda::rope(View::new(x, x_layout), cos, sin, 1.0)?, x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, heads, head_dim) = x.dims3()?;
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            let views = [&grad, cos, sin];
            let x_grad =
                cuda::with_views(views, |[grad, cos, sin]| cuda::rope(grad, cos, sin, -1.0))?;
            return Ok((Some(cuda::tensor(x_grad, x.shape())), None, None));
        }
        let (cos, sin, grad) = (cpu::values(cos), cpu::values(sin), cpu::values(&grad));
        with_float!(x.dtype(), T => {
            // The inverse of a rotation is its transpose.
            let mut x_grad = grad.slice::<T>()?.to_vec();
            rotate(&mut x_grad, [cos.slice()?, sin.slice()?], (heads, head_dim), -1.0);
            Ok((Some(cpu::tensor(x_grad, x.shape())?), None, None))
        })
    }
}

/// Rotates in place: forwards for `direction` 1, backwards for -1.
pub(super) fn rotate<S: Stored>(
    x: &mut [S],
    [cos, sin]: [&[S::Wide]; 2],
    (heads, head_dim): (usize, usize),
    direction: f64,
) {
    let (width, half) = (heads * head_dim, head_dim / 2);
    let direction = S::Wide::from_f64(direction);
    if x.is_empty() {
        return;
    }
    let angles = cos.par_chunks(BLOCK * half).zip(sin.par_chunks(BLOCK * half));
    x.par_chunks_mut(BLOCK * width).zip(angles).for_each(|(x, (cos, sin))| {
        vectorize(
            #[inline(always)]
            || {
                for (i, x) in x.chunks_exact_mut(head_dim).enumerate() {
                    let at = i / heads * half..(i / heads + 1) * half;
                    let (cos, sin) = (&cos[at.clone()], &sin[at]);
                    let (first, second) = x.split_at_mut(half);
                    for (j, (first, second)) in first.iter_mut().zip(second).enumerate() {
                        let (c, s) = (cos[j], direction * sin[j]);
                        let (x, y) = (first.widen(), second.widen());
                        *first = S::narrow(x * c - y * s);
                        *second = S::narrow(y * c + x * s);
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::check::{beside, check, random, same_on_any_threads, values};

    fn angles(tokens: usize, half: usize) -> (Tensor, Tensor) {
        let angle = random((tokens, half), 7);
        (angle.cos().unwrap(), angle.sin().unwrap())
    }

    #[test]
    fn values_and_gradients() {
        for (tokens, heads, head_dim) in [(3, 2, 6), (70, 1, 2), (1, 3, 40)] {
            let (cos, sin) = angles(tokens, head_dim / 2);
            check(&[random((tokens, heads, head_dim), 1)], |t| {
                rope(&t[0], &beside(&cos, &t[0])?, &beside(&sin, &t[0])?)
            });
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (cos, sin) = angles(200, 8);
        let (cos, sin) = (
            cos.to_dtype(candle_core::DType::F32).unwrap(),
            sin.to_dtype(candle_core::DType::F32).unwrap(),
        );
        same_on_any_threads(&[random((200, 3, 16), 1)], |t| rope(&t[0], &cos, &sin));
    }

    #[test]
    fn a_quarter_turn_moves_the_first_half_to_the_second() {
        let x = Tensor::new(&[[[1.0, 2.0, 0.0, 0.0]]], &Device::Cpu).unwrap();
        let (cos, sin) = (x.zeros_like().unwrap(), x.ones_like().unwrap());
        let quarter = |t: Tensor| t.narrow(2, 0, 2).unwrap().squeeze(1).unwrap();
        let y = rope(&x, &quarter(cos), &quarter(sin)).unwrap();
        assert_eq!(values(&y), [0.0, 0.0, 1.0, 2.0]);
    }
}
