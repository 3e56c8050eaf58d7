//! A training pass by candle's graph that keeps the input of each block alone (activation checkpointing, Chen et al.,
//! 2016): the backward pass makes the graph of one block at a time.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};

use super::{DropoutPair, Llama, Packed};
use crate::nn::Params;

/// The forward pass, whose graph begins behind the last block.
#[derive(Debug)]
pub(crate) struct Checkpointed<'a> {
    model: &'a Llama,
    input: &'a Packed,
    dropout: DropoutPair,
    angles: [Tensor; 2],
    /// The residual stream before each block, (tokens, hidden).
    inputs: Vec<Tensor>,
    /// That behind the last block.
    output: Var,
}

impl<'a> Checkpointed<'a> {
    /// Runs the blocks over `input`, whose rows have no cached context.
    pub(crate) fn forward(
        model: &'a Llama,
        input: &'a Packed,
        dropout: DropoutPair,
    ) -> Result<Self> {
        let (frozen, angles) = (model.frozen(), model.rotations(&input.positions)?);
        let mut inputs = Vec::with_capacity(model.layers.len());
        let mut x = frozen.embedded(&input.ids, dropout)?;
        for i in 0..model.layers.len() {
            let next = frozen.block(i, &x, &angles, &input.rows, None, dropout)?;
            inputs.push(std::mem::replace(&mut x, next));
        }
        Ok(Self { model, input, dropout, angles, inputs, output: Var::from_tensor(&x)? })
    }

    /// As [`Llama::hidden`].
    pub(crate) fn hidden(&self) -> Result<Tensor> {
        self.model.normed(&self.output)
    }

    /// Adds to `store`, which a loss of [`Self::hidden`] gave, the gradients of `params` before it.
    ///
    /// # Errors
    /// The loss does not depend on the hidden states.
    pub(crate) fn backward(self, params: &Params, store: &mut GradStore) -> Result<()> {
        let Self { model, input, dropout, angles, inputs, output } = self;
        let Some(mut grad) = store.remove(&output) else {
            bail!("no gradient reached the last block");
        };
        for (i, x) in inputs.into_iter().enumerate().rev() {
            let x = Var::from_tensor(&x)?;
            let y = model.block(i, &x, &angles, &input.rows, None, dropout)?;
            let mut found = pulled(&y, &grad)?;
            let Some(of_input) = found.remove(&x) else {
                bail!("no gradient reached the input of block {i}");
            };
            grad = of_input;
            add(params, &mut found, store)?;
        }
        let x = model.embedded(&input.ids, dropout)?;
        if x.track_op() {
            add(params, &mut pulled(&x, &grad)?, store)?;
        }
        Ok(())
    }
}

/// The gradients of what led to `y`, whose own gradient is `grad`.
fn pulled(y: &Tensor, grad: &Tensor) -> Result<GradStore> {
    (y * grad)?.sum_all()?.backward()
}

/// Adds the gradients of `params` that were `found`.
fn add(params: &Params, found: &mut GradStore, store: &mut GradStore) -> Result<()> {
    for (_, param) in params.tensors() {
        let Some(part) = found.remove(param) else { continue };
        let sum = match store.remove(param) {
            Some(sum) => (sum + part)?,
            None => part,
        };
        store.insert(param, sum);
    }
    Ok(())
}
