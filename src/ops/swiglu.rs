//! The gated activation of Llama's feed-forward block (Shazeer, 2020).

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail,
};
use rayon::prelude::*;

use super::activation::sigmoid_of;
use super::cpu::{self, BLOCK, with_float, zeros_if};
use super::cuda::{self, View};
use super::fused;
use super::kernels::{Float, Stored, vectorize};

/// `gate * sigmoid(gate) * up`, element by element.
///
/// # Shapes
/// - `gate`, `up`, output: the same, usually (tokens, ffn)
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        bail!("swiglu: gate {:?} and up {:?}", gate.dims(), up.dims());
    }
    if fused(&[gate, up]) {
        gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
    } else {
        composed_swiglu(gate, up)
    }
}

fn composed_swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        with_float!(gate.dtype(), T => {
            let gate = cpu::slice::<T>(gate, gate_layout)?;
            let mut y = vec![T::default(); gate.len()];
            forward(&mut y, gate, cpu::slice(up, up_layout)?);
            Ok((T::to_cpu_storage_owned(y), gate_layout.shape().clone()))
        })
    }

    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (gate, up) = (View::new(gate, gate_layout), View::new(up, up_layout));
        Ok((cuda::swiglu(gate, up)?, gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if grad.device().is_cuda() {
            return cuda::swiglu_backward(gate, up, &grad);
        }
        let (gate_values, up_values, grad) =
            (cpu::values(gate), cpu::values(up), cpu::values(&grad));
        with_float!(gate.dtype(), T => {
            let inputs = [gate_values.slice::<T>()?, up_values.slice()?, grad.slice()?];
            let (gate_grad, up_grad) = backward(inputs, gate.track_op(), up.track_op());
            Ok((
                gate_grad.map(|g| cpu::tensor(g, gate.shape())).transpose()?,
                up_grad.map(|g| cpu::tensor(g, up.shape())).transpose()?,
            ))
        })
    }
}

pub(super) fn forward<S: Stored>(y: &mut [S], gate: &[S], up: &[S]) {
    cpu::fill(y, [gate, up], |[gate, up]| gate * sigmoid_of(gate) * up);
}

/// The gradients of the gate and of `up`, where wanted.
fn backward<T: Float>(
    inputs: [&[T]; 3],
    gate_tracked: bool,
    up_tracked: bool,
) -> (Option<Vec<T>>, Option<Vec<T>>) {
    let mut gate_grad = zeros_if(gate_tracked, inputs[0].len());
    let mut up_grad = zeros_if(up_tracked, inputs[0].len());
    if let Some(out) = &mut gate_grad {
        cpu::fill(out, inputs, |[gate, up, grad]| {
            let s = sigmoid_of(gate);
            grad * up * s * (T::one() + gate * (T::one() - s))
        });
    }
    if let Some(out) = &mut up_grad {
        cpu::fill(out, inputs, |[gate, _, grad]| grad * gate * sigmoid_of(gate));
    }
    (gate_grad, up_grad)
}

/// Replaces gate and `up` by their gradients.
pub(super) fn backward_in_place<S: Stored>(gate: &mut [S], up: &mut [S], grad: &[S]) {
    let blocks = gate.par_chunks_mut(BLOCK).zip(up.par_chunks_mut(BLOCK));
    blocks.zip(grad.par_chunks(BLOCK)).for_each(|((gate, up), grad)| {
        vectorize(
            #[inline(always)]
            || {
                for ((gate, up), &grad) in gate.iter_mut().zip(up).zip(grad) {
                    let (g, u, grad) = (gate.widen(), up.widen(), grad.widen());
                    let (s, one) = (sigmoid_of(g), S::Wide::ONE);
                    *gate = S::narrow(grad * u * s * (one + g * (one - s)));
                    *up = S::narrow(grad * g * s);
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::check::{check, random, same_on_any_threads, values};

    #[test]
    fn values_and_gradients() {
        for shape in [(3, 7), (1, 33)] {
            check(&[random(shape, 1), random(shape, 2)], |t| swiglu(&t[0], &t[1]));
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let shape = (50, 1001);
        same_on_any_threads(&[random(shape, 1), random(shape, 2)], |t| swiglu(&t[0], &t[1]));
    }

    #[test]
    fn large_gates_pass_or_block() {
        let gate = Tensor::new(&[200f32, -200.0, -1000.0], &Device::Cpu).unwrap();
        let y = values(&swiglu(&gate, &gate.ones_like().unwrap()).unwrap());
        assert_eq!(y[0], 200.0);
        assert!(y[1].abs() < 1e-30 && y[2].abs() < 1e-30);
    }
}
