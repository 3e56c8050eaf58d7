//! The fused paths on a GPU: kernels of our own (`kernels.cu`), and products by cuBLAS.
//!
//! Everything here is a call that computes and keeps no graph; the operations around it have that. Products of
//! `Precision::Bf16` round both factors to bf16 and sum in f32, as on the CPU.
//!
//! Every thread has a stream of its own: what is handed to another has to be waited for (`Device::synchronize`).

mod attention;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod driver;
mod linear;
mod lora;
mod losses;
mod optimizer;
mod product;
mod table;

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::op::BackpropOp;
use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Layout, Result, Shape, Storage, Tensor, bail,
};

pub(super) use attention::{attention, attention_backward, takes};
pub(super) use driver::{keep_memory, peak_bytes};
pub(super) use linear::{linear, linear_backward};
pub(super) use lora::{LoraInputs, lora_linear, lora_linear_backward};
pub(super) use losses::{
    cross_entropy, cross_entropy_backward, log_softmax_rows, log_sum_exp_rows,
};
pub(crate) use optimizer::AdamWStep;
pub(super) use optimizer::{adamw, sum_of_squares};
pub(super) use table::OnDevice;

/// Threads of a block that goes through elements.
const THREADS: usize = 256;
/// Columns that a block sums, a lane each.
const LANES: usize = 32;
/// Rows whose part of a norm's weight gradient is summed by one block.
const ROWS: usize = 128;

/// Whether there are kernels for these tensors.
pub(super) fn serves(inputs: &[&Tensor]) -> bool {
    cfg!(feature = "cuda")
        && inputs.iter().all(|t| {
            t.device().is_cuda()
                && t.elem_count() > 0
                && matches!(t.dtype(), DType::F32 | DType::F64)
                && t.dtype() == inputs[0].dtype()
        })
}

/// A contiguous array on the device.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    storage: &'a CudaStorage,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    pub(super) fn new(storage: &'a CudaStorage, layout: &'a Layout) -> Self {
        Self { storage, layout }
    }

    fn address(&self) -> Result<u64> {
        driver::address(self.storage, self.layout)
    }

    fn dims2(&self) -> Result<(usize, usize)> {
        self.layout.shape().dims2()
    }

    fn count(&self) -> usize {
        self.layout.shape().elem_count()
    }
}

/// Hands out the arrays behind tensors on a GPU.
pub(super) fn with_views<const N: usize, R>(
    tensors: [&Tensor; N],
    use_them: impl FnOnce([View<'_>; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.map(Tensor::storage_and_layout);
    let mut views = Vec::with_capacity(N);
    for (storage, layout) in &held {
        match &**storage {
            Storage::Cuda(storage) => views.push(View { storage, layout }),
            _ => bail!("the kernels take tensors on a GPU"),
        }
    }
    match views.try_into() {
        Ok(views) => use_them(views),
        Err(_) => bail!("a tensor is missing"),
    }
}

/// A tensor over what a kernel has written.
pub(super) fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false)
}

/// The device and type of a call.
struct Call<'a> {
    device: &'a CudaDevice,
    dtype: DType,
}

impl<'a> Call<'a> {
    fn like(view: View<'a>) -> Self {
        Self { device: view.storage.device(), dtype: view.storage.dtype() }
    }

    /// An array of the call's type and its address; what is in it means nothing.
    #[expect(unsafe_code, reason = "memory that the next kernel writes need not be zeros")]
    fn fresh(&self, count: usize) -> Result<(CudaStorage, u64)> {
        // SAFETY: every caller has a kernel write all of it before it is read.
        let storage = unsafe { self.device.alloc_uninit(&count.into(), self.dtype) }?;
        let address = driver::address(&storage, &Layout::contiguous(count))?;
        Ok((storage, address))
    }

    /// As [`Call::fresh`] where `wanted`; the address of nothing is 0.
    fn fresh_if(&self, wanted: bool, count: usize) -> Result<(Option<CudaStorage>, u64)> {
        if !wanted {
            return Ok((None, 0));
        }
        let (storage, address) = self.fresh(count)?;
        Ok((Some(storage), address))
    }

    fn zeros(&self, count: usize) -> Result<(CudaStorage, u64)> {
        let storage = self.device.zeros_impl(&count.into(), self.dtype)?;
        let address = driver::address(&storage, &Layout::contiguous(count))?;
        Ok((storage, address))
    }

    /// Numbers on the device.
    fn ids(&self, ids: &[u32]) -> Result<Tensor> {
        Tensor::from_slice(ids, ids.len(), &Device::Cuda(self.device.clone()))
    }

    /// A kernel with `threads` a block.
    fn blocks(
        &self,
        kernel: &str,
        grid: [usize; 2],
        threads: usize,
        arguments: &[u64],
    ) -> Result<()> {
        driver::launch(self.device, self.dtype, kernel, (grid, threads, 0), arguments)
    }

    /// A kernel with a thread for each of `count` elements, which is its last argument.
    fn elements(&self, kernel: &str, count: usize, arguments: &[u64]) -> Result<()> {
        let arguments = [arguments, &[count as u64]].concat();
        self.blocks(kernel, [count.div_ceil(THREADS), 1], THREADS, &arguments)
    }
}

/// Threads for a row of `width` values: whole warps.
fn threads_of(width: usize) -> usize {
    width.next_multiple_of(LANES).min(THREADS)
}

/// As [`super::rms_norm`].
pub(super) fn rms_norm(x: View<'_>, weight: View<'_>, eps: f64) -> Result<CudaStorage> {
    let (rows, hidden) = x.dims2()?;
    let call = Call::like(x);
    let (y, out) = call.fresh(x.count())?;
    let arguments = [out, x.address()?, weight.address()?, eps.to_bits(), hidden as u64];
    call.blocks("rms_norm", [rows, 1], threads_of(hidden), &arguments)?;
    Ok(y)
}

/// The gradients of [`rms_norm`]'s inputs that are tracked.
pub(super) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
    eps: f64,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let (rows, hidden) = x.dims2()?;
    with_views([x, weight, grad], |[x_view, weight_view, grad]| {
        let call = Call::like(grad);
        let (x_grad, x_out) = call.fresh_if(x.track_op(), x.elem_count())?;
        let (_scales, scales) = call.fresh(rows)?;
        let (x_at, grad_at) = (x_view.address()?, grad.address()?);
        let weight_at = weight_view.address()?;
        let arguments = [x_out, scales, x_at, weight_at, grad_at, eps.to_bits(), hidden as u64];
        call.blocks("rms_norm_backward", [rows, 1], threads_of(hidden), &arguments)?;
        let weight_grad = if weight.track_op() {
            let (parts, columns) = (rows.div_ceil(ROWS), hidden.div_ceil(LANES));
            let (_sums, sums) = call.fresh(parts * hidden)?;
            let arguments = [sums, x_at, grad_at, scales, rows as u64, ROWS as u64, hidden as u64];
            call.blocks("rms_norm_weight", [parts, columns], THREADS, &arguments)?;
            let (total, out) = call.fresh(hidden)?;
            let arguments = [out, sums, parts as u64, hidden as u64];
            call.blocks("sum_rows", [columns, 1], THREADS, &arguments)?;
            Some(tensor(total, hidden))
        } else {
            None
        };
        Ok((x_grad.map(|g| tensor(g, x.shape())), weight_grad))
    })
}

/// As [`super::rope`], forwards for `direction` 1 and backwards for -1.
pub(super) fn rope(
    x: View<'_>,
    cos: View<'_>,
    sin: View<'_>,
    direction: f64,
) -> Result<CudaStorage> {
    let (_, heads, head_dim) = x.layout.shape().dims3()?;
    let call = Call::like(x);
    let (y, out) = call.fresh(x.count())?;
    let (x_at, cos, sin) = (x.address()?, cos.address()?, sin.address()?);
    let arguments = [out, x_at, cos, sin, direction.to_bits(), heads as u64, (head_dim / 2) as u64];
    call.elements("rope", x.count() / 2, &arguments)?;
    Ok(y)
}

/// As [`super::swiglu`].
pub(super) fn swiglu(gate: View<'_>, up: View<'_>) -> Result<CudaStorage> {
    let call = Call::like(gate);
    let (y, out) = call.fresh(gate.count())?;
    call.elements("swiglu", gate.count(), &[out, gate.address()?, up.address()?])?;
    Ok(y)
}

/// The gradients of [`swiglu`]'s inputs that are tracked.
pub(super) fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    with_views([gate, up, grad], |[gate_view, up_view, grad]| {
        let (call, count) = (Call::like(grad), grad.count());
        let (gate_grad, gate_out) = call.fresh_if(gate.track_op(), count)?;
        let (up_grad, up_out) = call.fresh_if(up.track_op(), count)?;
        let arguments =
            [gate_out, up_out, gate_view.address()?, up_view.address()?, grad.address()?];
        call.elements("swiglu_backward", count, &arguments)?;
        Ok((gate_grad.map(|g| tensor(g, gate.shape())), up_grad.map(|g| tensor(g, up.shape()))))
    })
}

/// Keeps the values whose number is at least `threshold` of 2^53, `scale` times.
pub(super) fn dropout(x: View<'_>, key: u64, threshold: u64, scale: f64) -> Result<CudaStorage> {
    let call = Call::like(x);
    let (y, out) = call.fresh(x.count())?;
    let arguments = [out, x.address()?, key, threshold, scale.to_bits()];
    call.elements("dropout", x.count(), &arguments)?;
    Ok(y)
}

/// The rows of a table.
pub(super) fn embedding(table: View<'_>, ids: &[u32]) -> Result<CudaStorage> {
    let ids = Call::like(table).ids(ids)?;
    with_views([&ids], |[ids]| table.storage.index_select(ids.storage, table.layout, ids.layout, 0))
}

/// The gradient of a table (vocab, hidden) whose rows `ids` were taken.
pub(super) fn embedding_backward(table: &Tensor, grad: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (vocab, hidden) = table.dims2()?;
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|&at| ids[at as usize]);
    let (mut distinct, mut starts) = (Vec::new(), Vec::new());
    for (at, &place) in (0u32..).zip(&order) {
        let id = ids[place as usize];
        if distinct.last() != Some(&id) {
            distinct.push(id);
            starts.push(at);
        }
    }
    starts.push(ids.len() as u32);
    let count = distinct.len();
    with_views([grad], |[grad]| {
        let call = Call::like(grad);
        let (total, out) = call.zeros(vocab * hidden)?;
        let numbers = call.ids(&[distinct, starts, order].concat())?;
        with_views([&numbers], |[numbers]| {
            let at =
                |place: usize| Ok::<_, candle_core::Error>(numbers.address()? + 4 * place as u64);
            let arguments =
                [out, grad.address()?, at(0)?, at(count)?, at(2 * count + 1)?, hidden as u64];
            let grid = [count, hidden.div_ceil(LANES)];
            call.blocks("embedding_backward", grid, THREADS, &arguments)
        })?;
        Ok(tensor(total, (vocab, hidden)))
    })
}
