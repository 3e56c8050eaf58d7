//! The backbone's training pass by hand, on the CPU: it keeps what a backward pass cannot compute again
//! cheaply, and nothing else.
//!
//! The same function as [`Llama::hidden`] and its graph, which stay for other devices, and which the tests
//! hold this to. Shapes as there; slices have one line a token, or in the last block one for each token from
//! the first of its row that is needed. The residual stream and its gradient are f32, what lies inside a
//! block is of the type of the pass.

use candle_core::Result;

use super::pass::{Lines, Pass, Pools, drop_in_place, dropped, gather};
use super::{DropoutPair, Layer, Llama, Packed, site_of};
use crate::nn::{GradientSum, Linear};
use crate::ops::slices::{self, Activation, Buffer, Update};

/// A forward pass with what its backward pass needs.
#[derive(Debug)]
pub(crate) struct Backprop<'a, A: Activation> {
    pass: Pass<'a, A>,
    input: &'a Packed,
    all: Lines,
    /// The lines of the last block, where they are not all.
    last: Option<Lines>,
    blocks: Vec<Kept<'a, A>>,
    /// The needed lines of the residual stream behind the last block, (needed, hidden).
    output: Buffer<'a, f32>,
    /// Where they stand among the lines of the last block.
    places: Vec<u32>,
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
    /// The residual stream before it and between its halves, (tokens, hidden) and (lines, hidden).
    input: Buffer<'a, f32>,
    middle: Buffer<'a, f32>,
    /// Rotated queries of the lines and keys of all tokens, and values.
    q: Buffer<'a, A>,
    k: Buffer<'a, A>,
    v: Buffer<'a, A>,
    /// The output of the attention, (lines, heads * `head_dim`).
    attended: Buffer<'a, A>,
    /// (lines, ffn)
    gate: Buffer<'a, A>,
    up: Buffer<'a, A>,
}

/// What a layer's backward pass starts from: its input, and the gradient of its output.
struct Ends<'x, X, G> {
    x: &'x [X],
    grad: &'x [G],
}

impl<'a, A: Activation> Backprop<'a, A> {
    /// Runs the blocks over `input`, whose rows have no cached context, for the tokens `needed`.
    ///
    /// With `checkpointing` only the input of each block is kept, and the backward pass computes the rest
    /// again: less memory for a third more work.
    pub(crate) fn forward(
        model: &'a Llama,
        input: &'a Packed,
        needed: &[u32],
        dropout: DropoutPair,
        checkpointing: bool,
        pools: &'a Pools<A>,
    ) -> Result<Self> {
        let pass = Pass { model, dropout, pools };
        let all = Lines::all(model, input);
        let last = all.needed(needed);
        let places = needed.iter().map(|&t| last.as_ref().unwrap_or(&all).place_of(t)).collect();
        let output = pools.wide.take(0);
        let mut this = Self { pass, input, all, last, blocks: Vec::new(), output, places };
        let mut stream = pass.embedded(&input.ids)?;
        for (i, layer) in model.layers.iter().enumerate() {
            let (block, output) = this.block(i, layer, stream)?;
            let kept =
                if checkpointing { Kept::Input(block.input) } else { Kept::All(Box::new(block)) };
            this.blocks.push(kept);
            stream = output;
        }
        let width = model.config.hidden_size;
        this.output = pools.wide.take(needed.len() * width);
        gather(&mut this.output, &stream, width, &this.places);
        Ok(this)
    }

    /// Final hidden states of the needed tokens, after the last norm, (needed, hidden).
    pub(crate) fn states(&self) -> Result<Buffer<'a, f32>> {
        let mut states = self.pass.pools.wide.take(self.output.len());
        let model = self.pass.model;
        slices::rms_norm(&mut states, &self.output, &model.norm, model.config.rms_norm_eps)?;
        Ok(states)
    }

    /// Adds to `sums` the gradients of everything that led to [`Backprop::states`], from their gradient
    /// `grad`, (needed, hidden).
    pub(crate) fn backward(mut self, grad: &[f32], sums: &mut GradientSum<'_>) -> Result<()> {
        let Pass { model, pools, .. } = self.pass;
        let width = model.config.hidden_size;
        let mut needed_grad = pools.wide.zeros(self.output.len());
        slices::rms_norm_backward(
            &self.output,
            &model.norm,
            grad,
            model.config.rms_norm_eps,
            &mut needed_grad,
            sums.adding_to(&model.norm).map(|sum| sum.values),
        )?;
        let lines = self.lines(model.layers.len() - 1);
        let mut grad = pools.wide.zeros(lines.count * width);
        slices::embedding_backward(&mut grad, &needed_grad, width, &self.places, 0);
        drop(needed_grad);
        self.output = pools.wide.take(0);
        for (i, layer) in model.layers.iter().enumerate().rev() {
            let block = match self.blocks.pop() {
                Some(Kept::All(block)) => *block,
                Some(Kept::Input(input)) => self.block(i, layer, input)?.0,
                None => candle_core::bail!("block {i} was not run"),
            };
            grad = self.block_backward(i, layer, block, grad, sums)?;
        }
        drop_in_place(&mut grad, width, site_of(self.pass.dropout.residual, 0), None);
        let (table, ids) = (&model.embed_tokens, &self.input.ids);
        if !model.is_tied() {
            sums.add_rows(table, ids, &grad);
        } else if let Some(sum) = sums.adding_to(table) {
            slices::embedding_backward(sum.values, &grad, width, ids, sum.first_row);
        }
        Ok(())
    }

    /// The lines of block `i`.
    fn lines(&self, i: usize) -> &Lines {
        match &self.last {
            Some(last) if i + 1 == self.pass.model.layers.len() => last,
            _ => &self.all,
        }
    }

    /// The inner values and the output of block `i`.
    fn block(
        &self,
        i: usize,
        layer: &Layer,
        input: Buffer<'a, f32>,
    ) -> Result<(Block<'a, A>, Buffer<'a, f32>)> {
        let (pass, all, lines) = (self.pass.at_block(i), &self.all, self.lines(i));
        let (attn, mlp) = (&layer.self_attn, &layer.mlp);
        let Pools { wide, narrow } = pass.pools;
        let width = pass.model.config.hidden_size;

        let h = pass.normed(&input, &layer.input_layernorm)?;
        let mut k = pass.project(all, &attn.k_proj, &h, 1)?;
        let v = pass.project(all, &attn.v_proj, &h, 2)?;
        let some = lines.gather(narrow, &h, width);
        let mut q = pass.project(lines, &attn.q_proj, some.as_deref().unwrap_or(&h), 0)?;
        drop((h, some));
        pass.rotate(lines, &mut q, false);
        pass.rotate(all, &mut k, false);
        let mut attended = narrow.take(q.len());
        let precision = pass.model.precision;
        slices::attention(&mut attended, [&q, &k, &v], None, pass.heads(), &lines.rows, precision);
        let mut middle = lines.gather(wide, &input, width).unwrap_or_else(|| copy(wide, &input));
        pass.add_branch(&mut middle, lines, &attn.o_proj, &attended, [3, 0])?;

        let h = pass.normed(&middle, &layer.post_attention_layernorm)?;
        let gate = pass.project(lines, &mlp.gate_proj, &h, 4)?;
        let up = pass.project(lines, &mlp.up_proj, &h, 5)?;
        drop(h);
        let mut output = copy(wide, &middle);
        let activated = pass.activated(&gate, &up);
        pass.add_branch(&mut output, lines, &mlp.down_proj, &activated, [6, 1])?;
        Ok((Block { input, middle, q, k, v, attended, gate, up }, output))
    }

    /// The gradient of block `i`'s input, from that of its output.
    fn block_backward(
        &self,
        i: usize,
        layer: &Layer,
        block: Block<'a, A>,
        mut grad: Buffer<'a, f32>,
        sums: &mut GradientSum<'_>,
    ) -> Result<Buffer<'a, f32>> {
        let (pass, all, lines) = (self.pass.at_block(i), &self.all, self.lines(i));
        let (eps, width) = (pass.model.config.rms_norm_eps, pass.model.config.hidden_size);
        let residual = |site: u64| site_of(pass.dropout.residual, site);
        let Pools { wide, narrow } = pass.pools;
        let (attn, mlp) = (&layer.self_attn, &layer.mlp);
        let Block { input, middle, q, k, v, attended, mut gate, mut up } = block;
        let (overwrite, add) = (Update::Overwrite, Update::Add);

        let branch = dropped(wide, &grad, residual(1), lines);
        let activated = pass.activated(&gate, &up);
        let mut activated_grad = narrow.take(gate.len());
        let ends = Ends { x: &activated, grad: branch.as_deref().unwrap_or(&grad) };
        pass.backward_of(&mlp.down_proj, lines, ends, &mut activated_grad, overwrite, 6, sums)?;
        drop((activated, branch));
        slices::swiglu_backward(&mut gate, &mut up, &activated_grad);
        drop(activated_grad);
        let h = pass.normed(&middle, &layer.post_attention_layernorm)?;
        let mut h_grad = wide.take(h.len());
        let ends = Ends { x: &h, grad: &gate };
        pass.backward_of(&mlp.gate_proj, lines, ends, &mut h_grad, overwrite, 4, sums)?;
        let ends = Ends { x: &h, grad: &up };
        pass.backward_of(&mlp.up_proj, lines, ends, &mut h_grad, add, 5, sums)?;
        drop((gate, up, h));
        let weight = &layer.post_attention_layernorm;
        let weight_grad = sums.adding_to(weight).map(|sum| sum.values);
        slices::rms_norm_backward(&middle, weight, &h_grad, eps, &mut grad, weight_grad)?;
        drop((middle, h_grad));

        let branch = dropped(wide, &grad, residual(0), lines);
        let mut attended_grad = narrow.take(attended.len());
        let ends = Ends { x: &attended, grad: branch.as_deref().unwrap_or(&grad) };
        pass.backward_of(&attn.o_proj, lines, ends, &mut attended_grad, overwrite, 3, sums)?;
        drop((attended, branch));
        let [mut q_grad, mut k_grad, mut v_grad] = [&q, &k, &v].map(|x| narrow.take(x.len()));
        slices::attention_backward(
            [&mut q_grad, &mut k_grad, &mut v_grad],
            [&q, &k, &v],
            None,
            &attended_grad,
            pass.heads(),
            &lines.rows,
            pass.model.precision,
        );
        drop((q, k, v, attended_grad));
        pass.rotate(lines, &mut q_grad, true);
        pass.rotate(all, &mut k_grad, true);
        let h = pass.normed(&input, &layer.input_layernorm)?;
        let mut h_grad = wide.take(h.len());
        let ends = Ends { x: &h, grad: &k_grad };
        pass.backward_of(&attn.k_proj, all, ends, &mut h_grad, overwrite, 1, sums)?;
        let ends = Ends { x: &h, grad: &v_grad };
        pass.backward_of(&attn.v_proj, all, ends, &mut h_grad, add, 2, sums)?;
        if let Some(chosen) = &lines.chosen {
            let some = lines.gather(narrow, &h, width);
            let ends = Ends { x: some.as_deref().unwrap_or(&h), grad: &q_grad };
            let mut part = wide.take(lines.count * width);
            pass.backward_of(&attn.q_proj, lines, ends, &mut part, overwrite, 0, sums)?;
            slices::embedding_backward(&mut h_grad, &part, width, chosen, 0);
            // The stream had a line for every token before this block.
            let some = std::mem::replace(&mut grad, wide.zeros(input.len()));
            slices::embedding_backward(&mut grad, &some, width, chosen, 0);
        } else {
            let ends = Ends { x: &h, grad: &q_grad };
            pass.backward_of(&attn.q_proj, lines, ends, &mut h_grad, add, 0, sums)?;
        }
        let weight = &layer.input_layernorm;
        let weight_grad = sums.adding_to(weight).map(|sum| sum.values);
        slices::rms_norm_backward(&input, weight, &h_grad, eps, &mut grad, weight_grad)?;
        Ok(grad)
    }
}

impl<A: Activation> Pass<'_, A> {
    /// The gradients of a layer: that of its input into `x_grad`, those of weights into `sums`.
    #[expect(clippy::too_many_arguments, reason = "a layer, its place, and where its gradients go")]
    fn backward_of<G: Activation, O: Activation>(
        &self,
        linear: &Linear,
        lines: &Lines,
        Ends { x, grad }: Ends<'_, A, G>,
        x_grad: &mut [O],
        update: Update,
        site: u64,
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let (tokens, precision) = (lines.count, self.model.precision);
        if let Some(sum) = sums.of(&linear.weight) {
            slices::linear_weight_grad(sum.values, grad, x, tokens, sum.update, precision);
        }
        slices::linear_input_grad(x_grad, grad, &linear.weight, update, precision)?;
        let Some(lora) = &linear.lora else { return Ok(()) };
        let dropout = site_of(self.dropout.lora, site);
        let thinned = dropped(&self.pools.narrow, x, dropout, lines);
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
        let width = x.len() / tokens.max(1);
        drop_in_place(&mut part, width, dropout, lines.chosen.as_deref());
        slices::add(x_grad, &part);
        Ok(())
    }
}

fn copy<'p>(pool: &'p slices::Pool<f32>, x: &[f32]) -> Buffer<'p, f32> {
    let mut copied = pool.take(x.len());
    slices::copy(&mut copied, x);
    copied
}
