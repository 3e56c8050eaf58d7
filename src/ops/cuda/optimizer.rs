//! A step of AdamW in one pass, and the norm of gradients.

use candle_core::{CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Result, Tensor, bail};

use super::{Call, THREADS, View, with_views};

/// Blocks that sum the squares of one tensor.
const BLOCKS: usize = 64;

/// The numbers of a step of AdamW (Loshchilov and Hutter, 2019).
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamWStep {
    /// The learning rate.
    pub(crate) rate: f64,
    /// The decoupled weight decay.
    pub(crate) decay: f64,
    /// Added to the root of the second moment.
    pub(crate) eps: f64,
    /// The moments' decays.
    pub(crate) betas: [f64; 2],
    /// What the moments are divided by.
    pub(crate) corrections: [f64; 2],
    /// What the gradient is multiplied by.
    pub(crate) scale: f64,
}

/// Changes `values` and both moments in place; all are f32 and contiguous, on a GPU.
pub(in crate::ops) fn adamw(
    values: &Tensor,
    moments: [&Tensor; 2],
    grad: &Tensor,
    step: AdamWStep,
) -> Result<()> {
    values.inplace_op1(&AdamW { moments, grad, step })
}

struct AdamW<'a> {
    moments: [&'a Tensor; 2],
    grad: &'a Tensor,
    step: AdamWStep,
}

impl InplaceOp1 for AdamW<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        bail!("this step of AdamW is for values on a GPU")
    }

    fn cuda_fwd(&self, values: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let [first, second] = self.moments;
        with_views([first, second, self.grad], |[first, second, grad]| {
            let values = View::new(values, layout);
            let call = Call::like(values);
            let addresses =
                [values.address()?, first.address()?, second.address()?, grad.address()?];
            let AdamWStep { rate, decay, eps, betas, corrections, scale } = self.step;
            let numbers =
                [scale, betas[0], betas[1], rate, decay, eps, corrections[0], corrections[1]];
            let arguments = [&addresses[..], &numbers.map(f64::to_bits)].concat();
            call.elements("adamw", values.count(), &arguments)
        })
    }
}

/// The sums of squares of tensors of one type on a GPU, added up; the device is waited for once.
pub(in crate::ops) fn sum_of_squares(tensors: &[Tensor]) -> Result<f64> {
    let Some(first) = tensors.first() else { return Ok(0.0) };
    let sums = Tensor::zeros(tensors.len() * BLOCKS, first.dtype(), first.device())?;
    with_views([&sums], |[sums]| {
        let (call, start) = (Call::like(sums), sums.address()?);
        for (i, of_one) in tensors.iter().enumerate() {
            with_views([of_one], |[view]| {
                let out = start + (i * BLOCKS * call.dtype.size_in_bytes()) as u64;
                let arguments = [out, view.address()?, view.count() as u64];
                call.blocks("squares", [BLOCKS, 1], THREADS, &arguments)
            })?;
        }
        Ok(())
    })?;
    Ok(sums.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().sum())
}
