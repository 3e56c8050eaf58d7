//! Products with weights, by cuBLAS.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, DType, Layout, Result, Tensor};

use super::product::{Matrix, Product};
use super::{Call, View, driver, tensor, with_views};
use crate::ops::kernels::Precision;

impl Product {
    pub(super) fn run(&self, call: &Call<'_>) -> Result<()> {
        driver::multiply(call.device, self)
    }
}

/// A factor of products, rounded to bf16 where that is asked for.
pub(super) struct Factor {
    address: u64,
    dtype: DType,
    /// Keeps what is nobody else's.
    held: Option<CudaStorage>,
}

impl Factor {
    pub(super) fn new(view: View<'_>, precision: Precision) -> Result<Self> {
        let dtype = view.storage.dtype();
        if precision == Precision::Full || dtype != DType::F32 {
            return Ok(Self { address: view.address()?, dtype, held: None });
        }
        let rounded = view.storage.to_dtype(view.layout, DType::BF16)?;
        let address = driver::address(&rounded, &Layout::contiguous(view.count()))?;
        Ok(Self { address, dtype: DType::BF16, held: Some(rounded) })
    }

    /// Of values that a call has computed.
    pub(super) fn computed(
        storage: CudaStorage,
        count: usize,
        precision: Precision,
    ) -> Result<Self> {
        let layout = Layout::contiguous(count);
        let Self { address, dtype, held } = Self::new(View::new(&storage, &layout), precision)?;
        Ok(Self { address, dtype, held: held.or(Some(storage)) })
    }

    /// As a matrix with lines of `width`, from line `first` on.
    pub(super) fn lines(&self, first: usize, width: usize) -> Matrix {
        let address = self.address + (first * width * self.dtype.size_in_bytes()) as u64;
        Matrix { address, width, transposed: false, dtype: self.dtype }
    }
}

/// `x w^T`.
pub(in crate::ops) fn linear(
    x: View<'_>,
    w: View<'_>,
    precision: Precision,
) -> Result<CudaStorage> {
    let ((tokens, inner), (columns, _)) = (x.dims2()?, w.dims2()?);
    let call = Call::like(x);
    let (y, out) = call.fresh(tokens * columns)?;
    let (x, w) = (Factor::new(x, precision)?, Factor::new(w, precision)?);
    let (x, w) = (x.lines(0, inner), w.lines(0, inner).transposed());
    Product::new(out, (tokens, columns, inner), x, w).run(&call)?;
    Ok(y)
}

/// The gradients of [`linear`]'s inputs that are tracked.
pub(in crate::ops) fn linear_backward(
    x: &Tensor,
    w: &Tensor,
    grad: &Tensor,
    precision: Precision,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let ((tokens, inner), (out, _)) = (x.dims2()?, w.dims2()?);
    with_views([x, w, grad], |[x_view, w_view, grad]| {
        let call = Call::like(grad);
        let grad = Factor::new(grad, precision)?;
        let (x_grad, address) = call.fresh_if(x.track_op(), tokens * inner)?;
        if x_grad.is_some() {
            let w = Factor::new(w_view, precision)?;
            let (grad, w) = (grad.lines(0, out), w.lines(0, inner));
            Product::new(address, (tokens, inner, out), grad, w).run(&call)?;
        }
        let (w_grad, address) = call.fresh_if(w.track_op(), out * inner)?;
        if w_grad.is_some() {
            let x = Factor::new(x_view, precision)?;
            let (grad, x) = (grad.lines(0, out).transposed(), x.lines(0, inner));
            Product::new(address, (out, inner, tokens), grad, x).run(&call)?;
        }
        Ok((x_grad.map(|g| tensor(g, x.shape())), w_grad.map(|g| tensor(g, w.shape()))))
    })
}
