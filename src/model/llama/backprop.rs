//! The backbone's training pass by hand, on the CPU: it keeps what a backward pass cannot compute again
//! cheaply, and nothing else.
//!
//! The same function as [`Llama::hidden`] and its graph, which stay for other devices, and which the tests
//! hold this to. Shapes as there; slices have one line a token. The residual stream and its gradient are f32,
//! what lies inside a block is of the type of the pass.

use candle_core::{Result, Tensor};

use super::{DropoutPair, Layer, Llama, Packed, site_of};
use crate::nn::{Dropout, GradientSum, Linear};
use crate::ops::slices::{self, Activation, Buffer, HeadShape, Pool, Update};

/// The memory of passes whose blocks are kept in `A`.
#[derive(Debug)]
pub(crate) struct Pools<A> {
    pub(crate) wide: Pool<f32>,
    narrow: Pool<A>,
}

impl<A: Activation> Default for Pools<A> {
    fn default() -> Self {
        Self { wide: Pool::default(), narrow: Pool::default() }
    }
}

/// A forward pass with what its backward pass needs.
#[derive(Debug)]
pub(crate) struct Backprop<'a, A: Activation> {
    model: &'a Llama,
    input: &'a Packed,
    dropout: DropoutPair,
    pools: &'a Pools<A>,
    /// Cosines and sines, (tokens, `head_dim` / 2) each.
    angles: [Vec<f32>; 2],
    blocks: Vec<Kept<'a, A>>,
    /// The residual stream behind the last block, (tokens, hidden).
    output: Buffer<'a, f32>,
}

/// What is kept of a block.
#[derive(Debug)]
enum Kept<'a, A: Activation> {
    /// Its input only: the backward pass runs the block again.
    Input(Buffer<'a, f32>),
    /// All that takes a matrix product to compute.
    All(Box<Block<'a, A>>),
}

/// The inner values of a block.
#[derive(Debug)]
struct Block<'a, A: Activation> {
    /// The residual stream before it and between its halves, (tokens, hidden).
    input: Buffer<'a, f32>,
    middle: Buffer<'a, f32>,
    /// Rotated queries and keys, and values.
    q: Buffer<'a, A>,
    k: Buffer<'a, A>,
    v: Buffer<'a, A>,
    /// The output of the attention, (tokens, heads * `head_dim`).
    attended: Buffer<'a, A>,
    /// (tokens, ffn)
    gate: Buffer<'a, A>,
    up: Buffer<'a, A>,
}

/// What a layer's backward pass starts from: its input, and the gradient of its output.
struct Ends<'x, X, G> {
    x: &'x [X],
    grad: &'x [G],
}

impl<'a, A: Activation> Backprop<'a, A> {
    /// Runs the blocks over `input`, whose rows have no cached context.
    ///
    /// With `checkpointing` only the input of each block is kept, and the backward pass computes the rest
    /// again: less memory for a third more work.
    pub(crate) fn forward(
        model: &'a Llama,
        input: &'a Packed,
        dropout: DropoutPair,
        checkpointing: bool,
        pools: &'a Pools<A>,
    ) -> Result<Self> {
        let angles = model
            .angles(&input.positions)
            .map(|angles| angles.into_iter().map(|a| a as f32).collect());
        let mut output = pools.wide.take(input.ids.len() * model.config.hidden_size);
        slices::embedding(&mut output, &model.embed_tokens, &input.ids)?;
        drop_in_place(&mut output, site_of(dropout.residual, 0));
        let mut pass = Self { model, input, dropout, pools, angles, blocks: Vec::new(), output };
        for (i, layer) in model.layers.iter().enumerate() {
            let input = std::mem::replace(&mut pass.output, pools.wide.take(0));
            let (block, output) = pass.block(i, layer, input)?;
            let kept =
                if checkpointing { Kept::Input(block.input) } else { Kept::All(Box::new(block)) };
            pass.blocks.push(kept);
            pass.output = output;
        }
        Ok(pass)
    }

    /// The residual stream at `rows`, (rows, hidden).
    fn gather(&self, rows: &[u32]) -> Buffer<'a, f32> {
        let width = self.model.config.hidden_size;
        let mut gathered = self.pools.wide.take(rows.len() * width);
        for (to, &row) in gathered.chunks_exact_mut(width).zip(rows) {
            to.copy_from_slice(&self.output[row as usize * width..][..width]);
        }
        gathered
    }

    /// Final hidden states of the tokens `rows`, after the last norm, (rows, hidden).
    pub(crate) fn states(&self, rows: &[u32]) -> Result<Buffer<'a, f32>> {
        let gathered = self.gather(rows);
        let mut states = self.pools.wide.take(gathered.len());
        let eps = self.model.config.rms_norm_eps;
        slices::rms_norm(&mut states, &gathered, &self.model.norm, eps)?;
        Ok(states)
    }

    /// Adds to `sums` the gradients of everything that led to [`Backprop::states`] of `rows`, from their
    /// gradient `grad`, (rows, hidden).
    pub(crate) fn backward(
        mut self,
        rows: &[u32],
        grad: &[f32],
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let model = self.model;
        let width = model.config.hidden_size;
        let selected = self.gather(rows);
        let mut selected_grad = self.pools.wide.zeros(selected.len());
        slices::rms_norm_backward(
            &selected,
            &model.norm,
            grad,
            model.config.rms_norm_eps,
            &mut selected_grad,
            sums.adding_to(&model.norm).map(|sum| sum.values),
        )?;
        let mut grad = std::mem::replace(&mut self.output, self.pools.wide.take(0));
        grad.fill(0.0);
        slices::embedding_backward(&mut grad, &selected_grad, width, rows, 0);
        drop((selected, selected_grad));
        for (i, layer) in model.layers.iter().enumerate().rev() {
            let block = match self.blocks.pop() {
                Some(Kept::All(block)) => *block,
                Some(Kept::Input(input)) => self.block(i, layer, input)?.0,
                None => candle_core::bail!("block {i} was not run"),
            };
            self.block_backward(i, layer, block, &mut grad, sums)?;
        }
        drop_in_place(&mut grad, site_of(self.dropout.residual, 0));
        let (table, ids) = (&model.embed_tokens, &self.input.ids);
        if !model.is_tied() {
            sums.add_rows(table, ids, &grad);
        } else if let Some(sum) = sums.adding_to(table) {
            slices::embedding_backward(sum.values, &grad, width, ids, sum.first_row);
        }
        Ok(())
    }

    fn heads(&self) -> HeadShape {
        let config = &self.model.config;
        let kv_heads = config.num_key_value_heads;
        let group = config.num_attention_heads / kv_heads;
        HeadShape { kv_heads, group, head_dim: config.head_dim }
    }

    /// The dropouts of block `i`.
    fn dropouts(&self, i: usize) -> DropoutPair {
        let site = 16 * i as u64 + 1;
        DropoutPair {
            residual: self.dropout.residual.map(|d| d.site(site)),
            lora: self.dropout.lora.map(|d| d.site(site)),
        }
    }

    /// Rotates queries and keys, or their gradients back.
    fn rotate(&self, q: &mut [A], k: &mut [A], inverse: bool) {
        let config = &self.model.config;
        let angles = [&*self.angles[0], &*self.angles[1]];
        slices::rope(q, angles, (config.num_attention_heads, config.head_dim), inverse);
        slices::rope(k, angles, (config.num_key_value_heads, config.head_dim), inverse);
    }

    /// The norm of a residual stream.
    fn normed(&self, x: &[f32], weight: &Tensor) -> Result<Buffer<'a, A>> {
        let mut h = self.pools.narrow.take(x.len());
        slices::rms_norm(&mut h, x, weight, self.model.config.rms_norm_eps)?;
        Ok(h)
    }

    fn activated(&self, gate: &[A], up: &[A]) -> Buffer<'a, A> {
        let mut activated = self.pools.narrow.take(gate.len());
        slices::swiglu(&mut activated, gate, up);
        activated
    }

    /// The inner values and the output of block `i`.
    fn block(
        &self,
        i: usize,
        layer: &Layer,
        input: Buffer<'a, f32>,
    ) -> Result<(Block<'a, A>, Buffer<'a, f32>)> {
        let dropout = self.dropouts(i);
        let (attn, mlp) = (&layer.self_attn, &layer.mlp);
        let project = |linear: &Linear, x: &[A], site: u64| -> Result<Buffer<'a, A>> {
            let mut out = self.pools.narrow.take(self.input.ids.len() * linear.weight.dim(0)?);
            self.linear(&mut out, linear, x, Update::Overwrite, site_of(dropout.lora, site))?;
            Ok(out)
        };
        // The residual stream behind a branch.
        let add_branch = |stream: &[f32], linear: &Linear, x: &[A], sites: [u64; 2]| {
            let lora = site_of(dropout.lora, sites[0]);
            let mut out = self.pools.wide.take(stream.len());
            if dropout.residual.is_some() {
                self.linear(&mut out, linear, x, Update::Overwrite, lora)?;
                drop_in_place(&mut out, site_of(dropout.residual, sites[1]));
                slices::add(&mut out, stream);
            } else {
                slices::copy(&mut out, stream);
                self.linear(&mut out, linear, x, Update::Add, lora)?;
            }
            Ok::<_, candle_core::Error>(out)
        };
        let h = self.normed(&input, &layer.input_layernorm)?;
        let mut q = project(&attn.q_proj, &h, 0)?;
        let mut k = project(&attn.k_proj, &h, 1)?;
        let v = project(&attn.v_proj, &h, 2)?;
        drop(h);
        self.rotate(&mut q, &mut k, false);
        let mut attended = self.pools.narrow.take(q.len());
        let (rows, precision) = (&self.input.rows, self.model.precision);
        slices::attention(&mut attended, [&q, &k, &v], self.heads(), rows, precision);
        let middle = add_branch(&input, &attn.o_proj, &attended, [3, 0])?;
        let h = self.normed(&middle, &layer.post_attention_layernorm)?;
        let gate = project(&mlp.gate_proj, &h, 4)?;
        let up = project(&mlp.up_proj, &h, 5)?;
        drop(h);
        let output = add_branch(&middle, &mlp.down_proj, &self.activated(&gate, &up), [6, 1])?;
        Ok((Block { input, middle, q, k, v, attended, gate, up }, output))
    }

    /// Turns the gradient of block `i`'s output into that of its input, in place.
    fn block_backward(
        &self,
        i: usize,
        layer: &Layer,
        block: Block<'a, A>,
        grad: &mut [f32],
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let (eps, dropout) = (self.model.config.rms_norm_eps, self.dropouts(i));
        let lora = |site: u64| site_of(dropout.lora, site);
        let Pools { wide, narrow } = self.pools;
        let (attn, mlp) = (&layer.self_attn, &layer.mlp);
        let Block { input, middle, q, k, v, attended, mut gate, mut up } = block;
        let (overwrite, add) = (Update::Overwrite, Update::Add);

        let branch = dropped(wide, grad, site_of(dropout.residual, 1));
        let activated = self.activated(&gate, &up);
        let mut activated_grad = narrow.take(gate.len());
        let ends = Ends { x: &activated, grad: branch.as_deref().unwrap_or(grad) };
        self.backward_of(&mlp.down_proj, ends, &mut activated_grad, overwrite, lora(6), sums)?;
        drop((activated, branch));
        slices::swiglu_backward(&mut gate, &mut up, &activated_grad);
        drop(activated_grad);
        let h = self.normed(&middle, &layer.post_attention_layernorm)?;
        let mut h_grad = wide.take(h.len());
        let ends = Ends { x: &h, grad: &gate };
        self.backward_of(&mlp.gate_proj, ends, &mut h_grad, overwrite, lora(4), sums)?;
        let ends = Ends { x: &h, grad: &up };
        self.backward_of(&mlp.up_proj, ends, &mut h_grad, add, lora(5), sums)?;
        drop((gate, up, h));
        let weight = &layer.post_attention_layernorm;
        let weight_grad = sums.adding_to(weight).map(|sum| sum.values);
        slices::rms_norm_backward(&middle, weight, &h_grad, eps, grad, weight_grad)?;
        drop(middle);

        let branch = dropped(wide, grad, site_of(dropout.residual, 0));
        let mut attended_grad = narrow.take(attended.len());
        let ends = Ends { x: &attended, grad: branch.as_deref().unwrap_or(grad) };
        self.backward_of(&attn.o_proj, ends, &mut attended_grad, overwrite, lora(3), sums)?;
        drop((attended, branch));
        let [mut q_grad, mut k_grad, mut v_grad] = [&q, &k, &v].map(|x| narrow.take(x.len()));
        slices::attention_backward(
            [&mut q_grad, &mut k_grad, &mut v_grad],
            [&q, &k, &v],
            &attended_grad,
            self.heads(),
            &self.input.rows,
            self.model.precision,
        );
        drop((q, k, v, attended_grad));
        self.rotate(&mut q_grad, &mut k_grad, true);
        let h = self.normed(&input, &layer.input_layernorm)?;
        let parts = [
            (&attn.q_proj, &q_grad, overwrite, 0),
            (&attn.k_proj, &k_grad, add, 1),
            (&attn.v_proj, &v_grad, add, 2),
        ];
        for (linear, grad, update, site) in parts {
            let ends = Ends { x: &h, grad };
            self.backward_of(linear, ends, &mut h_grad, update, lora(site), sums)?;
        }
        let weight = &layer.input_layernorm;
        let weight_grad = sums.adding_to(weight).map(|sum| sum.values);
        slices::rms_norm_backward(&input, weight, &h_grad, eps, grad, weight_grad)
    }

    /// As [`Linear::forward`].
    fn linear<O: Activation>(
        &self,
        out: &mut [O],
        linear: &Linear,
        x: &[A],
        update: Update,
        dropout: Option<Dropout>,
    ) -> Result<()> {
        let precision = self.model.precision;
        slices::linear(out, x, &linear.weight, update, precision)?;
        if let Some(lora) = &linear.lora {
            let mut low = self.pools.wide.take(self.input.ids.len() * lora.a.dim(0)?);
            let thinned = dropped(&self.pools.narrow, x, dropout);
            let x = thinned.as_deref().unwrap_or(x);
            slices::linear(&mut low, x, &lora.a, Update::Overwrite, precision)?;
            slices::scale(&mut low, lora.scale);
            slices::linear(out, &low, &lora.b, Update::Add, precision)?;
        }
        Ok(())
    }

    /// The gradients of a layer: that of its input into `x_grad`, those of weights into `sums`.
    fn backward_of<G: Activation, O: Activation>(
        &self,
        linear: &Linear,
        Ends { x, grad }: Ends<'_, A, G>,
        x_grad: &mut [O],
        update: Update,
        dropout: Option<Dropout>,
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let (tokens, precision) = (self.input.ids.len(), self.model.precision);
        if let Some(sum) = sums.of(&linear.weight) {
            slices::linear_weight_grad(sum.values, grad, x, tokens, sum.update, precision);
        }
        slices::linear_input_grad(x_grad, grad, &linear.weight, update, precision)?;
        let Some(lora) = &linear.lora else { return Ok(()) };
        let thinned = dropped(&self.pools.narrow, x, dropout);
        let x = thinned.as_deref().unwrap_or(x);
        let mut low = self.pools.wide.take(tokens * lora.a.dim(0)?);
        slices::linear(&mut low, x, &lora.a, Update::Overwrite, precision)?;
        slices::scale(&mut low, lora.scale);
        if let Some(sum) = sums.of(&lora.b) {
            slices::linear_weight_grad(sum.values, grad, &low, tokens, sum.update, precision);
        }
        slices::linear_input_grad(&mut low, grad, &lora.b, Update::Overwrite, precision)?;
        slices::scale(&mut low, lora.scale);
        if let Some(sum) = sums.of(&lora.a) {
            slices::linear_weight_grad(sum.values, &low, x, tokens, sum.update, precision);
        }
        if dropout.is_none() {
            return slices::linear_input_grad(x_grad, &low, &lora.a, Update::Add, precision);
        }
        let mut part = self.pools.wide.take(x.len());
        slices::linear_input_grad(&mut part, &low, &lora.a, Update::Overwrite, precision)?;
        drop_in_place(&mut part, dropout);
        slices::add(x_grad, &part);
        Ok(())
    }
}

/// `x` after dropout, where there is one.
fn dropped<'p, X: Activation>(
    pool: &'p Pool<X>,
    x: &[X],
    dropout: Option<Dropout>,
) -> Option<Buffer<'p, X>> {
    dropout.is_some().then(|| {
        let mut dropped = pool.take(x.len());
        slices::copy(&mut dropped, x);
        drop_in_place(&mut dropped, dropout);
        dropped
    })
}

fn drop_in_place<X: Activation>(x: &mut [X], dropout: Option<Dropout>) {
    if let Some(Dropout { p, key }) = dropout {
        slices::dropout(x, p, key);
    }
}
