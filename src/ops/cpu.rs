//! Reading and making CPU tensors as slices, for the fused paths.

use std::ops::Deref;

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail};
use rayon::prelude::*;

use super::kernels::{Float, Stored, vectorize};

/// Values a task works on where each is worked on alone.
pub(super) const BLOCK: usize = 1 << 13;

/// Evaluates an expression with `$T` as the float type of a dtype.
macro_rules! with_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            dtype => candle_core::bail!("the fused operations take f32 and f64, not {dtype:?}"),
        }
    };
}
pub(super) use with_float;

/// Evaluates an expression with `$slice` as the values of a contiguous f32 or bf16 tensor on the CPU.
macro_rules! with_stored {
    ($tensor:expr, $slice:ident => $body:expr) => {{
        let values = $crate::ops::cpu::values($tensor);
        match $tensor.dtype() {
            candle_core::DType::BF16 => {
                let $slice = values.slice::<half::bf16>()?;
                $body
            }
            _ => {
                let $slice = values.slice::<f32>()?;
                $body
            }
        }
    }};
}
pub(super) use with_stored;

/// The values behind a contiguous layout.
pub(super) fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("the fused operations take contiguous tensors, not {layout:?}"),
    }
}

/// A tensor's storage, held for reading; `G` is the guard of candle's lock.
pub(super) struct Values<'a, G> {
    storage: G,
    layout: &'a Layout,
}

/// Takes hold of the storage of `tensor`.
pub(super) fn values(tensor: &Tensor) -> Values<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    Values { storage, layout }
}

impl<G: Deref<Target = Storage>> Values<'_, G> {
    /// The values of a contiguous CPU tensor.
    pub(super) fn slice<T: WithDType>(&self) -> Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("the fused operations take tensors on the CPU"),
        }
    }
}

/// A CPU tensor over `values`.
pub(super) fn tensor<T: Float>(values: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// `len` zeros where `wanted`.
pub(super) fn zeros_if<T: Float>(wanted: bool, len: usize) -> Option<Vec<T>> {
    wanted.then(|| vec![T::zero(); len])
}

/// Values that [`fill`] works on at a time: with a length that is known the loop becomes one of vectors.
const LANES: usize = 64;

/// `out[i] = f([a[i], b[i], …])`, in parallel.
pub(super) fn fill<S: Stored, const N: usize>(
    out: &mut [S],
    inputs: [&[S]; N],
    f: impl Fn([S::Wide; N]) -> S::Wide + Sync,
) {
    out.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
        let first = block * BLOCK;
        let inputs = inputs.map(|values| &values[first..first + out.len()]);
        vectorize(
            #[inline(always)]
            || {
                let (lines, rest) = out.as_chunks_mut::<LANES>();
                let inputs = inputs.map(|values| values.as_chunks::<LANES>());
                for (at, line) in lines.iter_mut().enumerate() {
                    let inputs = inputs.map(|(chunks, _)| &chunks[at]);
                    for (i, out) in line.iter_mut().enumerate() {
                        *out = S::narrow(f(inputs.map(|values| values[i].widen())));
                    }
                }
                for (i, out) in rest.iter_mut().enumerate() {
                    *out = S::narrow(f(inputs.map(|(_, rest)| rest[i].widen())));
                }
            },
        );
    });
}
