//! Differentiable operations for the trainable networks, with their backward passes.
//!
//! candle's own fused operations cut the gradient (see `clippy.toml`); these do not. Each is one function
//! with two paths: a fused one for f32 and f64, multi-threaded on the CPU and (of most) by kernels of our own on a GPU,
//! and a composition of candle's differentiable operations for all else. Tests hold them equal and check the gradients
//! against finite differences.
//!
//! Sequences are packed: hidden states are (tokens, hidden), the rows of a batch one after another without
//! padding. An input that needs no gradient costs nothing in a fused backward on the CPU. Results are bit-identical
//! on any number of threads.
#![expect(
    clippy::inline_always,
    reason = "only what is inlined into `kernels::vectorize` is compiled for the machine's vector instructions"
)]

mod activation;
mod attention;
mod ceiling;
#[cfg(test)]
mod check;
mod cpu;
mod cross_entropy;
mod cuda;
mod dropout;
mod embedding;
mod info_nce;
mod kernels;
mod layer_norm;
mod linear;
mod log_softmax;
mod lora;
mod places;
mod pool;
mod rms_norm;
mod rope;
pub(crate) mod slices;
mod soft_cross_entropy;
mod swiglu;

use std::cell::Cell;
use std::marker::PhantomData;

use candle_core::{DType, Tensor};

pub use activation::{sigmoid, softplus};
pub use attention::{Row, Rows, attention, biased_attention};
pub use ceiling::matmul_flops;
pub use cross_entropy::{biased_cross_entropy, binary_cross_entropy, cross_entropy};
pub(crate) use cuda::AdamWStep;
pub use dropout::dropout;
pub(crate) use dropout::key_after;
pub use embedding::embedding;
pub use info_nce::{Contrast, InfoNce, info_nce};
pub use kernels::Precision;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use log_softmax::{log_softmax_rows, log_sum_exp_rows};
pub use lora::{LowRank, lora_linear};
pub use places::{add_at_places, sum_over_places};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;

thread_local! {
    static COMPOSED_GUARDS: Cell<usize> = const { Cell::new(0) };
}

/// While it lives, operations called on its thread take their composed path.
#[derive(Debug)]
pub struct ComposedGuard {
    // The count it gives back belongs to this thread.
    not_send: PhantomData<*const ()>,
}

/// Makes this thread take the composed path until the guard is dropped, to compare it with the fused one.
#[must_use = "the fused path comes back when the guard is dropped"]
pub fn force_composed() -> ComposedGuard {
    COMPOSED_GUARDS.set(COMPOSED_GUARDS.get() + 1);
    ComposedGuard { not_send: PhantomData }
}

impl Drop for ComposedGuard {
    fn drop(&mut self) {
        COMPOSED_GUARDS.set(COMPOSED_GUARDS.get() - 1);
    }
}

/// Whether no guard forces the composed path.
fn allow_fused() -> bool {
    COMPOSED_GUARDS.get() == 0
}

/// A step of AdamW in one pass over values, both moments and the gradient, where they are f32 on a GPU; whether they
/// are.
pub(crate) fn adamw(
    values: &Tensor,
    moments: [&Tensor; 2],
    grad: &Tensor,
    step: AdamWStep,
) -> candle_core::Result<bool> {
    let serves =
        values.dtype() == DType::F32 && cuda::serves(&[values, moments[0], moments[1], grad]);
    if serves {
        cuda::adamw(values, moments, grad, step)?;
    }
    Ok(serves)
}

/// The sums of squares of contiguous tensors, added up.
pub(crate) fn sum_of_squares(tensors: &[Tensor]) -> candle_core::Result<f64> {
    if tensors.iter().all(|t| cuda::serves(&[t, &tensors[0]])) {
        return cuda::sum_of_squares(tensors);
    }
    let sums = tensors.iter().map(|t| t.to_dtype(DType::F32)?.sqr()?.sum_all());
    // Read together: a device is waited for once.
    let sums = Tensor::stack(&sums.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
    Ok(sums.to_vec1::<f32>()?.into_iter().map(f64::from).sum())
}

/// Lets a GPU keep memory that is freed for what asks next, instead of handing it back whenever it is waited for.
///
/// # Errors
/// What the driver says.
pub fn keep_memory(device: &candle_core::Device) -> candle_core::Result<()> {
    if device.is_cuda() { cuda::keep_memory(device) } else { Ok(()) }
}

/// The most bytes that tensors on a GPU have taken; none on the CPU, and on a GPU without a pool of memory.
///
/// # Errors
/// What the driver says.
pub fn peak_device_bytes(device: &candle_core::Device) -> candle_core::Result<Option<u64>> {
    if device.is_cuda() { cuda::peak_bytes(device) } else { Ok(None) }
}

/// Whether a fused path serves these inputs, on the CPU or on a GPU.
fn fused(inputs: &[&Tensor]) -> bool {
    fused_on_cpu(inputs) || allow_fused() && cuda::serves(inputs)
}

/// Whether the fused path of the CPU serves these inputs.
fn fused_on_cpu(inputs: &[&Tensor]) -> bool {
    allow_fused()
        && inputs
            .iter()
            .all(|t| t.device().is_cpu() && matches!(t.dtype(), DType::F32 | DType::F64))
}
