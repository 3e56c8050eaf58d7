//! A product with a frozen weight and a low-rank update beside it.

use candle_core::{CudaStorage, Layout, Result};

use super::linear::Factor;
use super::product::Product;
use super::{Call, View, driver};
use crate::ops::dropout::Mask;
use crate::ops::kernels::Precision;

/// What [`crate::ops::lora_linear`] is computed from.
pub(in crate::ops) struct LoraInputs<'a> {
    pub(in crate::ops) x: View<'a>,
    pub(in crate::ops) weight: View<'a>,
    pub(in crate::ops) a: View<'a>,
    pub(in crate::ops) b: View<'a>,
    pub(in crate::ops) scale: f64,
    pub(in crate::ops) mask: Option<&'a Mask>,
    pub(in crate::ops) precision: Precision,
}

impl LoraInputs<'_> {
    /// Tokens, inputs, outputs and the rank of the update.
    fn sizes(&self) -> Result<[usize; 4]> {
        let ((tokens, inner), (out, rank)) = (self.x.dims2()?, self.b.dims2()?);
        Ok([tokens, inner, out, rank])
    }

    /// The adapter's input.
    fn dropped(&self) -> Result<Factor> {
        match self.mask {
            Some(mask) => Factor::computed(mask.on_device(self.x)?, self.x.count(), self.precision),
            None => Factor::new(self.x, self.precision),
        }
    }

    /// `dropped a^T`, (tokens, rank).
    fn narrow(&self, call: &Call<'_>, dropped: &Factor) -> Result<Factor> {
        let [tokens, inner, _, rank] = self.sizes()?;
        let (narrow, out) = call.fresh(tokens * rank)?;
        let a = Factor::new(self.a, self.precision)?;
        let (x, a) = (dropped.lines(0, inner), a.lines(0, inner).transposed());
        Product::new(out, (tokens, rank, inner), x, a).run(call)?;
        Factor::computed(narrow, tokens * rank, self.precision)
    }
}

/// As [`crate::ops::lora_linear`].
pub(in crate::ops) fn lora_linear(inputs: &LoraInputs<'_>) -> Result<CudaStorage> {
    let [tokens, inner, out, rank] = inputs.sizes()?;
    let (call, precision) = (Call::like(inputs.x), inputs.precision);
    let (y, address) = call.fresh(tokens * out)?;
    let (x, weight) = (Factor::new(inputs.x, precision)?, Factor::new(inputs.weight, precision)?);
    let (x, weight) = (x.lines(0, inner), weight.lines(0, inner).transposed());
    Product::new(address, (tokens, out, inner), x, weight).run(&call)?;
    let narrow = inputs.narrow(&call, &inputs.dropped()?)?;
    let b = Factor::new(inputs.b, precision)?;
    let (narrow, b) = (narrow.lines(0, rank), b.lines(0, rank).transposed());
    let update = Product::new(address, (tokens, out, rank), narrow, b);
    update.times(inputs.scale).adding(true).run(&call)?;
    Ok(y)
}

/// The gradients of `x`, `a` and `b`, where they are tracked.
pub(in crate::ops) fn lora_linear_backward(
    inputs: &LoraInputs<'_>,
    grad: View<'_>,
    [x_tracked, a_tracked, b_tracked]: [bool; 3],
) -> Result<[Option<CudaStorage>; 3]> {
    let ([tokens, inner, out, rank], scale) = (inputs.sizes()?, inputs.scale);
    let (call, precision) = (Call::like(grad), inputs.precision);
    let grad = Factor::new(grad, precision)?;
    // What reaches the narrow side, (tokens, rank).
    let b = Factor::new(inputs.b, precision)?;
    let (narrow_grad, address) = call.fresh(tokens * rank)?;
    let product = Product::new(address, (tokens, rank, out), grad.lines(0, out), b.lines(0, rank));
    product.times(scale).run(&call)?;
    let narrow_grad = Factor::computed(narrow_grad, tokens * rank, precision)?;
    let dropped = inputs.dropped()?;
    let (a_grad, address) = call.fresh_if(a_tracked, rank * inner)?;
    if a_grad.is_some() {
        let (left, right) = (narrow_grad.lines(0, rank).transposed(), dropped.lines(0, inner));
        Product::new(address, (rank, inner, tokens), left, right).run(&call)?;
    }
    let (b_grad, address) = call.fresh_if(b_tracked, out * rank)?;
    if b_grad.is_some() {
        let narrow = inputs.narrow(&call, &dropped)?;
        let (left, right) = (grad.lines(0, out).transposed(), narrow.lines(0, rank));
        Product::new(address, (out, rank, tokens), left, right).times(scale).run(&call)?;
    }
    if !x_tracked {
        return Ok([None, a_grad, b_grad]);
    }
    let (mut x_grad, mut address) = call.fresh(tokens * inner)?;
    let a = Factor::new(inputs.a, precision)?;
    let (left, right) = (narrow_grad.lines(0, rank), a.lines(0, inner));
    Product::new(address, (tokens, inner, rank), left, right).run(&call)?;
    if let Some(mask) = inputs.mask {
        let layout = Layout::contiguous(tokens * inner);
        x_grad = mask.on_device(View::new(&x_grad, &layout))?;
        address = driver::address(&x_grad, &layout)?;
    }
    let weight = Factor::new(inputs.weight, precision)?;
    let (left, right) = (grad.lines(0, out), weight.lines(0, inner));
    Product::new(address, (tokens, inner, out), left, right).adding(true).run(&call)?;
    Ok([Some(x_grad), a_grad, b_grad])
}
