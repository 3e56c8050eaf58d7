//! The backbone's training pass by hand, on the CPU in f32: it keeps what a backward pass cannot compute
//! again cheaply, and nothing else.
//!
//! The same function as [`Llama::hidden`] and its graph, which stay for other devices, and which the tests
//! hold this to. Shapes as there; slices have one line a token.

use std::borrow::Cow;

use candle_core::Result;

use super::{DropoutPair, Layer, Llama, Packed, site_of};
use crate::nn::{Dropout, GradientSum, Linear};
use crate::ops::slices::{self, HeadShape, Update};

/// A forward pass with what its backward pass needs.
#[derive(Debug)]
pub struct Backprop<'a> {
    model: &'a Llama,
    input: &'a Packed,
    dropout: DropoutPair,
    /// Cosines and sines, (tokens, `head_dim` / 2) each.
    angles: [Vec<f32>; 2],
    blocks: Vec<Kept>,
    /// The residual stream behind the last block, (tokens, hidden).
    output: Vec<f32>,
}

/// What is kept of a block.
#[derive(Debug)]
enum Kept {
    /// Its input only: the backward pass runs the block again.
    Input(Vec<f32>),
    /// All that takes a matrix product to compute.
    All(Block),
}

/// The inner values of a block.
#[derive(Debug)]
struct Block {
    /// The residual stream before it and between its halves, (tokens, hidden).
    input: Vec<f32>,
    middle: Vec<f32>,
    /// Rotated queries and keys, and values.
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// The output of the attention, (tokens, heads * `head_dim`).
    attended: Vec<f32>,
    /// (tokens, ffn)
    gate: Vec<f32>,
    up: Vec<f32>,
}

impl<'a> Backprop<'a> {
    /// Whether `model` can be trained by it: f32 weights on the CPU.
    pub fn serves(model: &Llama) -> bool {
        slices::serve(&[&model.embed_tokens, &model.lm_head])
    }

    /// Runs the blocks over `input`, whose rows have no cached context.
    ///
    /// With `checkpointing` only the input of each block is kept, and the backward pass computes the rest
    /// again: less memory for a third more work.
    pub fn forward(
        model: &'a Llama,
        input: &'a Packed,
        dropout: DropoutPair,
        checkpointing: bool,
    ) -> Result<Self> {
        let angles = model
            .angles(&input.positions)
            .map(|angles| angles.into_iter().map(|a| a as f32).collect());
        let output = slices::embedding(&model.embed_tokens, &input.ids)?;
        let mut pass = Self { model, input, dropout, angles, blocks: Vec::new(), output };
        drop_in_place(&mut pass.output, site_of(dropout.residual, 0));
        for (i, layer) in model.layers.iter().enumerate() {
            let input = std::mem::take(&mut pass.output);
            let (block, output) = pass.block(i, layer, input)?;
            let kept = if checkpointing { Kept::Input(block.input) } else { Kept::All(block) };
            pass.blocks.push(kept);
            pass.output = output;
        }
        Ok(pass)
    }

    /// The residual stream at `rows`, (rows, hidden).
    fn gather(&self, rows: &[u32]) -> Vec<f32> {
        let width = self.model.config.hidden_size;
        let line = |&row: &u32| &self.output[row as usize * width..][..width];
        rows.iter().flat_map(line).copied().collect()
    }

    /// Final hidden states of the tokens `rows`, after the last norm, (rows, hidden).
    pub fn states(&self, rows: &[u32]) -> Result<Vec<f32>> {
        slices::rms_norm(&self.gather(rows), &self.model.norm, self.model.config.rms_norm_eps)
    }

    /// Adds to `sums` the gradients of everything that led to [`Backprop::states`] of `rows`, from their
    /// gradient `grad`, (rows, hidden).
    pub fn backward(
        mut self,
        rows: &[u32],
        grad: &[f32],
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let model = self.model;
        let width = model.config.hidden_size;
        let selected = self.gather(rows);
        let mut selected_grad = vec![0.0; selected.len()];
        slices::rms_norm_backward(
            &selected,
            &model.norm,
            grad,
            model.config.rms_norm_eps,
            &mut selected_grad,
            sums.of(&model.norm).map(|sum| sum.values),
        )?;
        let mut grad = std::mem::take(&mut self.output);
        grad.fill(0.0);
        slices::embedding_backward(&mut grad, &selected_grad, width, rows, 0);
        for (i, layer) in model.layers.iter().enumerate().rev() {
            let block = match self.blocks.pop() {
                Some(Kept::All(block)) => block,
                Some(Kept::Input(input)) => self.block(i, layer, input)?.0,
                None => candle_core::bail!("block {i} was not run"),
            };
            self.block_backward(i, layer, block, &mut grad, sums)?;
        }
        drop_in_place(&mut grad, site_of(self.dropout.residual, 0));
        if let Some(sum) = sums.of(&model.embed_tokens) {
            let ids = &self.input.ids;
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
    fn rotate(&self, q: &mut [f32], k: &mut [f32], inverse: bool) {
        let config = &self.model.config;
        let angles = [&*self.angles[0], &*self.angles[1]];
        slices::rope(q, angles, (config.num_attention_heads, config.head_dim), inverse);
        slices::rope(k, angles, (config.num_key_value_heads, config.head_dim), inverse);
    }

    /// The inner values and the output of block `i`.
    fn block(&self, i: usize, layer: &Layer, input: Vec<f32>) -> Result<(Block, Vec<f32>)> {
        let (eps, dropout) = (self.model.config.rms_norm_eps, self.dropouts(i));
        let (attn, mlp) = (&layer.self_attn, &layer.mlp);
        let forward = |linear: &Linear, x: &[f32], site: u64| {
            self.linear(linear, x, site_of(dropout.lora, site))
        };
        let h = slices::rms_norm(&input, &layer.input_layernorm, eps)?;
        let mut q = forward(&attn.q_proj, &h, 0)?;
        let mut k = forward(&attn.k_proj, &h, 1)?;
        let v = forward(&attn.v_proj, &h, 2)?;
        self.rotate(&mut q, &mut k, false);
        let attended = slices::attention([&q, &k, &v], self.heads(), &self.input.rows);
        let mut middle = forward(&attn.o_proj, &attended, 3)?;
        drop_in_place(&mut middle, site_of(dropout.residual, 0));
        slices::add(&mut middle, &input);
        let h = slices::rms_norm(&middle, &layer.post_attention_layernorm, eps)?;
        let gate = forward(&mlp.gate_proj, &h, 4)?;
        let up = forward(&mlp.up_proj, &h, 5)?;
        let mut output = forward(&mlp.down_proj, &slices::swiglu(&gate, &up), 6)?;
        drop_in_place(&mut output, site_of(dropout.residual, 1));
        slices::add(&mut output, &middle);
        Ok((Block { input, middle, q, k, v, attended, gate, up }, output))
    }

    /// Turns the gradient of block `i`'s output into that of its input, in place.
    fn block_backward(
        &self,
        i: usize,
        layer: &Layer,
        block: Block,
        grad: &mut [f32],
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let (eps, dropout) = (self.model.config.rms_norm_eps, self.dropouts(i));
        let (attn, mlp) = (&layer.self_attn, &layer.mlp);
        let Block { input, middle, q, k, v, attended, mut gate, mut up } = block;
        let (overwrite, add) = (Update::Overwrite, Update::Add);
        let backward = |sums: &mut GradientSum<'_>,
                        (linear, site): (&Linear, u64),
                        inputs: [&[f32]; 2],
                        x_grad: &mut [f32],
                        update: Update| {
            let dropout = site_of(dropout.lora, site);
            self.linear_backward(linear, inputs, x_grad, update, dropout, sums)
        };

        let branch = dropped(grad, site_of(dropout.residual, 1));
        let activated = slices::swiglu(&gate, &up);
        let mut activated_grad = vec![0.0; gate.len()];
        let inputs = [&*activated, &*branch];
        backward(sums, (&mlp.down_proj, 6), inputs, &mut activated_grad, overwrite)?;
        slices::swiglu_backward(&mut gate, &mut up, &activated_grad);
        drop((activated, activated_grad));
        let h = slices::rms_norm(&middle, &layer.post_attention_layernorm, eps)?;
        let mut h_grad = vec![0.0; h.len()];
        backward(sums, (&mlp.gate_proj, 4), [&h, &gate], &mut h_grad, overwrite)?;
        backward(sums, (&mlp.up_proj, 5), [&h, &up], &mut h_grad, add)?;
        drop((gate, up));
        let weight_grad = sums.of(&layer.post_attention_layernorm).map(|sum| sum.values);
        let weight = &layer.post_attention_layernorm;
        slices::rms_norm_backward(&middle, weight, &h_grad, eps, grad, weight_grad)?;

        let branch = dropped(grad, site_of(dropout.residual, 0));
        let mut attended_grad = vec![0.0; attended.len()];
        let inputs = [&*attended, &*branch];
        backward(sums, (&attn.o_proj, 3), inputs, &mut attended_grad, overwrite)?;
        let [mut q_grad, mut k_grad, v_grad] = slices::attention_backward(
            [&q, &k, &v],
            &attended_grad,
            self.heads(),
            &self.input.rows,
        );
        self.rotate(&mut q_grad, &mut k_grad, true);
        let h = slices::rms_norm(&input, &layer.input_layernorm, eps)?;
        backward(sums, (&attn.q_proj, 0), [&h, &q_grad], &mut h_grad, overwrite)?;
        backward(sums, (&attn.k_proj, 1), [&h, &k_grad], &mut h_grad, add)?;
        backward(sums, (&attn.v_proj, 2), [&h, &v_grad], &mut h_grad, add)?;
        let weight_grad = sums.of(&layer.input_layernorm).map(|sum| sum.values);
        let weight = &layer.input_layernorm;
        slices::rms_norm_backward(&input, weight, &h_grad, eps, grad, weight_grad)
    }

    /// As [`Linear::forward`].
    fn linear(&self, linear: &Linear, x: &[f32], dropout: Option<Dropout>) -> Result<Vec<f32>> {
        let precision = self.model.precision;
        let mut out = fresh(x, &linear.weight, true)?;
        slices::linear(&mut out, x, &linear.weight, Update::Overwrite, precision)?;
        if let Some(lora) = &linear.lora {
            let mut low = fresh(x, &lora.a, true)?;
            slices::linear(&mut low, &dropped(x, dropout), &lora.a, Update::Overwrite, precision)?;
            slices::scale(&mut low, lora.scale);
            slices::linear(&mut out, &low, &lora.b, Update::Add, precision)?;
        }
        Ok(out)
    }

    /// The gradients of a layer from its input and the gradient of its output: that of the input into
    /// `x_grad`, those of weights into `sums`.
    fn linear_backward(
        &self,
        linear: &Linear,
        [x, grad]: [&[f32]; 2],
        x_grad: &mut [f32],
        update: Update,
        dropout: Option<Dropout>,
        sums: &mut GradientSum<'_>,
    ) -> Result<()> {
        let (tokens, precision) = (self.input.ids.len(), self.model.precision);
        let weight_grad = |sums: &mut GradientSum<'_>, weight, grad: &[f32], x: &[f32]| {
            if let Some(sum) = sums.of(weight) {
                let update = sum.update;
                slices::linear_weight_grad(sum.values, grad, x, tokens, update, precision);
            }
        };
        weight_grad(sums, &linear.weight, grad, x);
        slices::linear_input_grad(x_grad, grad, &linear.weight, update, precision)?;
        let Some(lora) = &linear.lora else { return Ok(()) };
        let x = dropped(x, dropout);
        let mut low = fresh(&x, &lora.a, true)?;
        slices::linear(&mut low, &x, &lora.a, Update::Overwrite, precision)?;
        slices::scale(&mut low, lora.scale);
        weight_grad(sums, &lora.b, grad, &low);
        slices::linear_input_grad(&mut low, grad, &lora.b, Update::Overwrite, precision)?;
        slices::scale(&mut low, lora.scale);
        weight_grad(sums, &lora.a, &low, &x);
        let mut part = fresh(&low, &lora.a, false)?;
        slices::linear_input_grad(&mut part, &low, &lora.a, Update::Overwrite, precision)?;
        drop_in_place(&mut part, dropout);
        slices::add(x_grad, &part);
        Ok(())
    }
}

/// Room for the output of a weight (out, in) on `x`, or for its input.
fn fresh(x: &[f32], weight: &candle_core::Tensor, output: bool) -> Result<Vec<f32>> {
    let (out, inner) = weight.dims2()?;
    let (from, to) = if output { (inner, out) } else { (out, inner) };
    Ok(vec![0.0; x.len() / from * to])
}

fn drop_in_place(x: &mut [f32], dropout: Option<Dropout>) {
    if let Some(Dropout { p, key }) = dropout {
        slices::dropout(x, p, key);
    }
}

fn dropped(x: &[f32], dropout: Option<Dropout>) -> Cow<'_, [f32]> {
    match dropout {
        Some(_) => {
            let mut x = x.to_vec();
            drop_in_place(&mut x, dropout);
            Cow::Owned(x)
        }
        None => Cow::Borrowed(x),
    }
}
